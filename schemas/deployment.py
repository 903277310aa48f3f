"""Settings and records of deployment: the gate, its verdicts, the deployed pointer, nightly runs, pruning."""

import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import Settings
from hubflow.schemas.references import CheckpointRef, Decision, ExportRef, VerdictRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.tasks import BUILT_IN, find_task_type


class GateSettings(Settings):
    """What a candidate must keep to be put in use; a rule that is not set is not asked."""

    metric: str | None = Field(None, description="The one that picked the best weights when not given")
    split: Literal["test", "dev"] = Field("test", description="Rows that candidate and deployed model are compared on")
    min_value: float | None = Field(None, description="The candidate's metric is at least this (of the loss: at most)")
    min_gain: float = Field(
        0.0,
        description="By how much the candidate is better than the deployed model at least, by the whole interval of the "
        "difference; below 0: by how much it may be worse",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the interval of the difference")
    resamples: int = Field(2000, ge=100, description="Of the paired bootstrap")
    seed: int = Field(0, ge=0, description="Of the paired bootstrap")
    max_class_f1_drop: float | None = Field(
        None, ge=0, le=1, description="No label (of sequences: type of entity) may lose more than this of its F1"
    )
    max_latency_ms: dict[Annotated[str, Field(pattern=r"^[1-9]\d*$")], Annotated[float, Field(gt=0)]] = Field(
        {},
        description="Largest median latency by rows of the batch, such as {1: 20}, as the export's verification measured it",
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
    name: str = Field(description="The setting of the gate that asks for it")
    outcome: Outcome
    threshold: float
    value: float | None = Field(description="What is held against the threshold; None where it is not known")
    text: str = Field(description="What a person reads")


class Verdict(BaseModel):
    """What the gate found of a candidate, and what it decided: `verdict.json` of `verdicts/<key>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verdict: Decision
    reason: str
    name: str = Field(description="Of the deployed pointer")
    revision: int = Field(description="Of the pointer that the candidate was evaluated against; 0: nothing was deployed yet")
    candidate: ExportRef
    deployed: ExportRef | None = Field(description="What was in use; None: nothing")
    split: str
    rows: int = Field(description="Of the split that both were evaluated on")
    metric: str
    candidate_value: float
    deployed_value: float | None = Field(description="None where nothing is in use, or it cannot be evaluated on these rows")
    difference: float | None = Field(description="By how much the candidate is better: positive also of a smaller loss")
    interval: tuple[float, float] | None = Field(description="Of the difference, by a paired bootstrap over the rows")
    confidence: float
    resamples: int
    threshold: float = Field(description="That the interval is held against: the smallest gain")
    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = Field(description="What a person should know, such as labels that differ")
    at: datetime.datetime


Action = Literal["promoted", "overridden", "rolled_back", "undone"]


class PointerChange(BaseModel):
    """One move of the pointer: to what, by whom, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    revision: int = Field(ge=1, description="Number of the move, from 1")
    action: Action = Field(
        description="promoted by a verdict, overridden by a person against it or without one, rolled_back by a person, "
        "undone because the run failed afterwards"
    )
    export: ExportRef | None = Field(description="What is in use from then on; None: nothing")
    checkpoint: CheckpointRef | None = Field(None, description="The weights it was made of, while they were in the store")
    verdict: VerdictRef | None = Field(None, description="The gate's, where there was one")
    before: int = Field(ge=0, description="Revision that a rollback goes back to; 0: nothing in use")
    at: datetime.datetime
    by: str
    reason: str


class Deployed(BaseModel):
    """The pointer of one name, with every move that it made, the first one first."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    history: tuple[PointerChange, ...] = ()

    @model_validator(mode="after")
    def _numbered(self) -> Self:
        for place, move in enumerate(self.history, start=1):
            if move.revision != place or move.before >= place:
                raise ValueError(f"move {place} is numbered {move.revision} and goes back to {move.before}")
        return self

    @property
    def revision(self) -> int:
        """How many moves there were: what a promotion is evaluated against."""
        return len(self.history)

    @property
    def move(self) -> PointerChange | None:
        """The move that holds now."""
        return self.history[-1] if self.history else None

    @property
    def export(self) -> ExportRef | None:
        """The export in use."""
        return self.move.export if self.move else None

    @property
    def predecessor(self) -> PointerChange | None:
        """The move that a rollback goes back to, or None where nothing was in use before."""
        return self.history[self.move.before - 1] if self.move and self.move.before else None


class PruneSettings(Settings):
    """What is old enough to go: what is neither among the newest of its kind nor young, and nothing in use needs."""

    keep_last: int = Field(5, ge=0, description="The newest so many of each kind stay: reports, exports, checkpoints …")
    min_age_days: float = Field(7.0, ge=0, description="What is younger stays")


class Pruned(BaseModel):
    """What one pruning removed, or would remove."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    is_dry: bool = Field(description="Nothing was removed: it is only said what would be")
    removed: tuple[str, ...] = Field(description="Paths in the store, by kind, the oldest first")
    bytes: int = Field(description="That they take")
    kept_in_use: tuple[str, ...] = Field(description="Paths that stay because something in use, or its predecessor, needs them")


NightlyOutcome = Literal["skipped", "promoted", "rejected", "inconclusive"]


class ConcurrencySettings(Settings):
    """A slot of a concurrency limit of Prefect's server, held while a run trains and evaluates."""

    name: str = Field("gpu", min_length=1, description="Of the global concurrency limit")
    slots: int = Field(1, ge=1, description="That the limit is made with where there is none")
    create: bool = Field(True, description="Make a missing limit; False: a missing one is an error")
    lease_seconds: float = Field(
        120, ge=60, le=86_400, description="After so long a slot of a run that was killed is given back"
    )
    held: Literal["gpu", "always", "never"] = Field("gpu", description="gpu: when the run trains on a GPU")


class NightlySettings(FineTuneSettings):
    """All that a nightly run needs, the settings of a fine-tune among it: the parameter of the flow `nightly`."""

    start_from: Literal["deployed", "module"] = Field(
        "deployed", description="Begin with the weights in use, where they fit, or with the module's own"
    )
    gate: GateSettings = GateSettings()
    sample_rows: int = Field(20, ge=0, description="Rows of the gate's split that are predicted with what is in use at last")
    slot: ConcurrencySettings = ConcurrencySettings()

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
    revision: int = Field(description="Of the deployed pointer when the run began: weights to begin with, and to judge against")
    began: datetime.datetime | None = Field(None, description="When the first try of it began, which its report is named by")
    is_done: bool = False
    verdict: VerdictRef | None = None
    report: str | None = None
    at: datetime.datetime


class NightlyResult(BaseModel):
    """What the flow `nightly` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    outcome: NightlyOutcome
    reason: str
    name: str
    store: str = Field(description="Absolute path, or URL, of the store")
    started_from: str | None = Field(None, description="Whose weights training began with")
    candidate: str | None = Field(None, description="Path of the export that was evaluated, in the store")
    deployed: str | None = Field(description="Path of the export in use now, in the store; None: nothing")
    revision: int = Field(description="Of the deployed pointer now")
    verdict: str | None = Field(None, description="Path of the verdict's folder, in the store")
    sample: str | None = Field(None, description="Path of the sample's predictions, in the store")
    report: str | None = Field(None, description="Absolute path, or URL, of the HTML report")
    seconds: dict[str, float] = Field(description="Seconds by stage")
