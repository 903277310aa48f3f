"""Settings and records of deployment: the gate, its verdicts, the deployed pointer, nightly runs, pruning."""

import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import Settings
from hubflow.schemas.references import CheckpointRef, Decision, ExportRef, VerdictRef
from hubflow.schemas.settings import BLOCK_NAME, FineTuneSettings
from hubflow.schemas.tasks import BUILT_IN, find_task_type


class GateSettings(Settings):
    """What a candidate must keep to be put in use; a rule that is not set is not asked.

    Example:
        >>> GateSettings(metric="f1_macro", min_value=0.8, max_latency_ms={1: 20}).max_latency_ms
        {'1': 20.0}
    """

    metric: str | None = Field(
        None, description="Metric that both models are compared by; the one that picked the best weights when not given"
    )
    split: Literal["test", "dev"] = Field(
        "test", description="Split whose rows the candidate and the deployed model are compared on"
    )
    min_value: float | None = Field(None, description="Smallest value of the candidate's metric (largest, for the loss)")
    min_gain: float = Field(
        0.0,
        description="Smallest gain over the deployed model, which the whole interval of the difference must reach; below "
        "0 it is how much worse the candidate may be",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of the interval of the difference")
    resamples: int = Field(2000, ge=100, description="Number of draws of the paired bootstrap")
    seed: int = Field(0, ge=0, description="Seed of the paired bootstrap")
    max_class_f1_drop: float | None = Field(
        None, ge=0, le=1, description="Largest drop of the F1 of any label (for sequences: any type of entity), 0 to 1"
    )
    max_latency_ms: dict[Annotated[str, Field(pattern=r"^[1-9]\d*$")], Annotated[float, Field(gt=0)]] = Field(
        {},
        description="Largest median latency in milliseconds, by rows of the batch, such as {1: 20}, as the export's "
        "verification measured it",
    )
    max_size_mb: float | None = Field(None, gt=0, description="Largest size of program and weights, in 10^6 bytes")

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: object) -> object:
        """YAML reads the number of rows as a number."""
        if isinstance(values, dict) and isinstance(values.get("max_latency_ms"), dict):
            return {**values, "max_latency_ms": {str(rows): limit for rows, limit in values["max_latency_ms"].items()}}
        return values

    @model_validator(mode="after")
    def _enough_resamples(self) -> Self:
        if self.resamples * (1 - self.confidence) < 2:  # noqa: PLR2004  # one beyond each end
            raise ValueError(f"{self.resamples} resamples are too few for an interval of confidence {self.confidence}")
        return self


VERDICT = "verdict.json"
Outcome = Literal["passed", "failed", "inconclusive"]


class Rule(BaseModel):
    """One rule, and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="Setting of the gate that asks for the rule")
    outcome: Outcome = Field(description="Whether the rule holds; inconclusive where the interval does not say")
    threshold: float = Field(description="What the value is compared with")
    value: float | None = Field(description="Value that is compared with the threshold; None where it is not known")
    text: str = Field(description="Sentence for a person")


class Verdict(BaseModel):
    """What the gate measured of a candidate, and what it decided: `verdict.json` of `verdicts/<key>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verdict: Decision = Field(description="What the gate decided")
    reason: str = Field(description="Why, for a person")
    name: str = Field(description="Name of the deployed pointer")
    revision: int = Field(
        description="Revision of the pointer that the candidate was evaluated against; 0: nothing was deployed"
    )
    candidate: ExportRef = Field(description="Export that was evaluated")
    deployed: ExportRef | None = Field(description="Export that was in use; None: nothing was")
    split: str = Field(description="Split that both were evaluated on")
    rows: int = Field(description="Number of rows of that split")
    metric: str = Field(description="Metric that both were compared by")
    candidate_value: float = Field(description="Its value for the candidate")
    deployed_value: float | None = Field(
        description="Its value for the export in use; None where there is none, or it cannot be evaluated on these rows"
    )
    difference: float | None = Field(description="By how much the candidate is better: positive also of a smaller loss")
    interval: tuple[float, float] | None = Field(
        description="Confidence interval of the difference, by a paired bootstrap over the rows"
    )
    confidence: float = Field(description="Confidence level of the interval")
    resamples: int = Field(description="Number of draws of the paired bootstrap")
    threshold: float = Field(description="Smallest gain, which the interval is compared with")
    rules: tuple[Rule, ...] = Field(description="Every rule, and what came of it")
    notes: tuple[str, ...] = Field(description="What a person should know, such as labels that differ")
    at: datetime.datetime = Field(description="When the gate decided, in UTC")


Action = Literal["promoted", "overridden", "rolled_back", "undone"]


class PointerChange(BaseModel):
    """One change of the deployed pointer: to which export, by whom, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    revision: int = Field(ge=1, description="Number of the change, from 1")
    action: Action = Field(
        description="promoted by a verdict, overridden by a person against it or without one, rolled_back by a person, "
        "undone because the run failed afterwards"
    )
    export: ExportRef | None = Field(description="Export that is in use from then on; None: nothing")
    checkpoint: CheckpointRef | None = Field(
        None, description="Weights that the export was made of, while they were in the store"
    )
    verdict: VerdictRef | None = Field(None, description="The gate's verdict, where there was one")
    before: int = Field(ge=0, description="Revision that a rollback goes back to; 0: nothing in use")
    at: datetime.datetime = Field(description="When the pointer was changed, in UTC")
    by: str = Field(description="Who changed it")
    reason: str = Field(description="Why, for a person")


class Deployed(BaseModel):
    """The deployed pointer of one name, with every change of it, the first one first."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="Name that the export is in use under")
    history: tuple[PointerChange, ...] = Field((), description="Every change of the pointer, the first one first")
    registry_block: str | None = Field(
        None, description="Prefect block of the type Model Registry, whose alias follows the pointer"
    )

    @model_validator(mode="after")
    def _numbered(self) -> Self:
        for position, move in enumerate(self.history, start=1):
            if move.revision != position or move.before >= position:
                raise ValueError(f"move {position} is numbered {move.revision} and goes back to {move.before}")
        return self

    @property
    def revision(self) -> int:
        """Number of changes: what a promotion is evaluated against."""
        return len(self.history)

    @property
    def move(self) -> PointerChange | None:
        """The last change, which holds now; None where nothing was ever in use."""
        return self.history[-1] if self.history else None

    @property
    def export(self) -> ExportRef | None:
        """The export in use; None where nothing is."""
        return self.move.export if self.move else None

    @property
    def predecessor(self) -> PointerChange | None:
        """The change that a rollback goes back to; None where nothing was in use before."""
        return self.history[self.move.before - 1] if self.move and self.move.before else None


class PruneSettings(Settings):
    """What of the store is old enough to be removed.

    An artefact is removed when it is not among the newest of its kind, not young, and nothing in use needs it.
    """

    keep_last: int = Field(5, ge=0, description="Number of the newest of each kind that stay: reports, exports, checkpoints …")
    min_age_days: float = Field(7.0, ge=0, description="Age in days below which everything stays")


class Pruned(BaseModel):
    """What one pruning removed, or would remove."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    is_dry: bool = Field(description="True: nothing was removed, and `removed` lists what would be")
    removed: tuple[str, ...] = Field(description="Paths in the store, by kind, the oldest first")
    bytes: int = Field(description="Size of what was removed, in bytes")
    kept_in_use: tuple[str, ...] = Field(description="Paths that stay because something in use, or its predecessor, needs them")


NightlyOutcome = Literal["skipped", "promoted", "rejected", "inconclusive"]


class ConcurrencySettings(Settings):
    """A slot of a concurrency limit of Prefect's server, held while a run trains and evaluates."""

    name: str = Field("gpu", min_length=1, description="Name of the global concurrency limit on Prefect's server")
    slots: int = Field(1, ge=1, description="Number of slots that a missing limit is made with")
    create: bool = Field(True, description="True makes a missing limit; False: a missing one is an error")
    lease_seconds: float = Field(
        120, ge=60, le=86_400, description="Seconds after which a slot is given back when its run was killed"
    )
    when: Literal["gpu", "always", "never"] = Field(
        "gpu", description="When a run holds a slot: gpu, when it trains on a GPU; always; never"
    )


class ApprovalSettings(Settings):
    """Whether, and how, a person decides about a model that the gate is inconclusive about."""

    how: Literal["never", "pause", "suspend"] = Field(
        "never",
        description="never: such a model is not put in use; pause: the run waits in its process for a person's decision; "
        "suspend: the process ends, and the run goes on once a person has decided, which needs a deployment",
    )
    timeout_hours: float = Field(24.0, gt=0, description="Hours after which nobody is waited for any more")
    on_timeout: Literal["reject", "promote"] = Field(
        "reject", description="What is done when nobody has decided in time; a suspended run cannot promote then"
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.how == "suspend" and self.on_timeout == "promote":
            raise ValueError("on_timeout promote needs a process that waits; set how to pause, or on_timeout to reject")
        return self


NOT_OF_THE_OUTCOME = {
    *(
        "data",
        "store",
        "store_block",
        "device",
        "num_processes",
        "hosts",
        "reuse",
        "concurrency",
        "sample_rows",
        "registry_block",
    )
}
"""Settings that do not change what a night finds, or are known by their content."""


class NightlySettings(FineTuneSettings):
    """All that a nightly run needs, the settings of a fine-tune included: the parameter of the flow `nightly`."""

    start_from: Literal["deployed", "module"] = Field(
        "deployed", description="Weights that training begins with: those in use, where they fit, or the module's own"
    )
    gate: GateSettings = Field(GateSettings(), description="Rules that a candidate must keep to be put in use")
    sample_rows: int = Field(
        20, ge=0, description="Number of rows of the gate's split that are predicted with the export in use at the end"
    )
    concurrency: ConcurrencySettings = Field(ConcurrencySettings(), description="Concurrency limit that a run holds a slot of")
    approval: ApprovalSettings = Field(
        ApprovalSettings(), description="Whether a person decides where the gate is inconclusive"
    )

    registry_block: str | None = Field(
        None,
        pattern=BLOCK_NAME,
        description="Prefect block of the type Model Registry: its alias in MLflow's registry follows the deployed pointer, at "
        "promotions and rollbacks",
    )

    def result_settings(self) -> dict[str, Any]:
        """The settings that a night's outcome depends on, but for the content of data and module."""
        values = self.model_dump(mode="json", exclude=NOT_OF_THE_OUTCOME)
        values["train"] = self.train.result_settings()
        values["module"] = self.module.model_dump(mode="json", exclude={"name", "revision"})
        return values

    @model_validator(mode="after")
    def _gated(self) -> Self:
        if self.task in BUILT_IN and (faults := self._gate_faults()):
            raise ValueError(faults[0])
        return self

    def require_fitting_task(self) -> None:
        """Refuse data and metrics that the task type does not have, and a metric that the gate cannot compare row by row.

        Raises:
            SettingsError: saying what does not fit, and what does; or that the task type cannot be imported, or is none.
        """
        super().require_fitting_task()
        if faults := self._gate_faults():
            raise SettingsError(faults[0])

    def _gate_faults(self) -> list[str]:
        known = find_task_type(self.task).gated_metrics
        chosen = self.gate.metric or self.train.best_metric
        if chosen is None or chosen in known:
            return []
        return [f"gate.metric: {chosen!r} cannot be compared row by row; use one of {', '.join(known)}"]


class NightlyRun(BaseModel):
    """What a nightly run was made from, and how far it came: `nightly/<name>.json` of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: str = Field(description="Of data, module and settings")
    revision: int = Field(description="Of the deployed pointer when the run began: weights to begin with, and to compare with")
    began: datetime.datetime | None = Field(None, description="When the first try of it began, which its report is named by")
    is_done: bool = False
    verdict: VerdictRef | None = None
    report: str | None = None
    at: datetime.datetime


class NightlyResult(BaseModel):
    """What the flow `nightly` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    outcome: NightlyOutcome = Field(description="What came of the run")
    reason: str = Field(description="Why, for a person")
    name: str = Field(description="Name that the export is in use under")
    store: str = Field(description="Absolute path, or URL, of the store")
    started_from: str | None = Field(None, description="Whose weights training began with, and why, for a person")
    candidate: str | None = Field(None, description="Path of the export that was evaluated, in the store")
    deployed: str | None = Field(description="Path of the export in use now, in the store; None: nothing")
    revision: int = Field(description="Revision of the deployed pointer now")
    verdict: str | None = Field(None, description="Path of the verdict's folder, in the store")
    sample: str | None = Field(None, description="Path of the sample's predictions, in the store")
    report: str | None = Field(None, description="Absolute path, or URL, of the HTML report")
    seconds: dict[str, float] = Field(description="Seconds by stage")
