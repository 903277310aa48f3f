"""Settings of a sweep: which settings of a fine-tune are tried, and what is best."""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import Settings, parse_settings, put_value
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.tasks import BUILT_IN, find_task_type, is_lower_better

Direction = Literal["maximize", "minimize"]
NOT_SWEPT = ("name", "store", "store_block", "reuse")


class Dimension(Settings):
    """The values of one setting: from `low` to `high`, or one of `choices`. Whole numbers when both ends are.

    Example:
        >>> Dimension(low=1e-5, high=1e-3, log=True).is_whole
        False
        >>> Dimension(low=1, high=4).is_whole
        True
        >>> Dimension(choices=("adamw", "lamb")).ends
        ('adamw', 'lamb')
    """

    low: int | float | None = Field(None, description="Smallest value; whole numbers are drawn when both ends are whole")
    high: int | float | None = Field(None, description="Largest value, which is drawn too")
    log: bool = Field(False, description="Draw by the logarithm: as often between 1e-5 and 1e-4 as between 1e-4 and 1e-3")
    step: int | float | None = Field(None, gt=0, description="Only low, low + step, low + 2 step … up to high")
    choices: tuple[Any, ...] | None = Field(None, min_length=1, description="Values to choose from; groups of settings too")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = {name for name in ("low", "high", "step") if getattr(self, name) is not None} | ({"log"} if self.log else set())
        if self.choices is not None:
            if given:
                raise ValueError("give choices, or low and high, not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("low and high, or choices, are needed")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and goes without step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers."""
        return all(isinstance(end, int) for end in (self.low, self.high)) and not isinstance(self.step, float)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that show whether all are such as the setting takes."""
        return self.choices if self.choices is not None else (self.low, self.high)


class PrunerSettings(Settings):
    """When a trial is ended early; it is checked after each evaluation of dev."""

    name: Literal["median", "successive_halving", "none"] = Field(
        "median",
        description="median: end a trial that is worse than half of the trials before it at the same evaluation; "
        "successive_halving (arXiv:1810.05934); none",
    )
    startup_trials: int = Field(4, ge=0, description="median: prune no trial before this many trials have ended")
    warmup_evaluations: int = Field(0, ge=0, description="median: prune no trial in its first N evaluations")


class SweepSettings(Settings):
    """All that one sweep needs: the parameter of the flow `sweep`."""

    name: str = Field(
        "sweep",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the study; a sweep of the same name goes on with it",
    )
    base: FineTuneSettings = Field(
        description="Settings that every trial has, the store among them; what the space names takes their place"
    )
    space: dict[str, Dimension] = Field(
        min_length=1, description="Values to try, by the dotted name of the setting, such as train.learning_rate"
    )
    trials: int = Field(20, ge=1, description="Number of trials of the complete study; failed and pruned trials count")
    metric: str | None = Field(
        None, description="Metric on dev; when not given train.best_metric, else accuracy, or f1 for sequences"
    )
    direction: Direction | None = Field(
        None, description="Which way the metric is better; when not given minimize for loss, log_loss and ece, else maximize"
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="tpe: tree-structured Parzen estimator (Bergstra et al. 2011); random: draws that learn nothing"
    )
    pruner: PrunerSettings = Field(PrunerSettings(), description="When a trial is ended early")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampler; base.seed is the seed of each training")
    max_failures: int = Field(3, ge=1, description="End the sweep when this many trials in a row fail")

    @model_validator(mode="after")
    def _values_are_settings(self) -> Self:
        faults = [fault for name, dimension in self.space.items() for fault in self._faults(name, dimension)]
        is_pruned = self.pruner.name != "none"
        # A task type of the user's own is code, which reading settings does not run: the trials' trainings ask it.
        known = find_task_type(self.base.task).metrics if self.base.task in BUILT_IN else None
        if is_pruned and known is not None and self.dev_metric not in known:
            faults.append(
                f"metric: {self.dev_metric!r} is not measured while a trial trains, so none can be pruned by it; use one of "
                f"{', '.join(known)}, or pruner.name: none"
            )
        if faults:
            raise ValueError("\n  - ".join(faults))
        return self

    @property
    def dev_metric(self) -> str:
        """What trials are evaluated by."""
        return self.metric or self.base.train.best_metric or find_task_type(self.base.task).default_best_metric(None)

    @property
    def better(self) -> Direction:
        """Which way is better."""
        return self.direction or ("minimize" if is_lower_better(self.base.task, self.dev_metric) else "maximize")

    def identity(self) -> dict[str, Any]:
        """What trials must share to be compared: all but how many there are, when to give up, and what changes no result."""
        base = self.base.model_dump(mode="json", include={"task", "module", "data", "head", "seed"})
        base["train"] = self.base.train.result_settings()
        asked = self.model_dump(mode="json", exclude={"base", "trials", "max_failures", "name"})
        return json.loads(json.dumps({**asked, "metric": self.dev_metric, "direction": self.better, "base": base}))  # type: ignore[no-any-return]

    def candidate(self, values: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """Settings of a trial: the base's settings as they were given, with `values` in their places.

        Args:
            values: values by dotted name of the setting.
            name: of the run; the base's own when not given.

        Returns:
            Settings by name, in groups, not yet validated.

        Raises:
            SettingsError: when a name goes below something that is not a group of settings.
        """
        given = self.base.model_dump(mode="json", exclude_unset=True)
        for setting, value in values.items():
            put_value(given, setting, value, f"space.{setting}")
        return {**given, "name": name} if name else given

    def _faults(self, name: str, dimension: Dimension) -> list[str]:
        if name.partition(".")[0] in NOT_SWEPT:
            return [f"space.{name}: is the same for all trials; set it in base"]
        faults = []
        for value in dimension.ends:
            try:
                parse_settings(FineTuneSettings, self.candidate({name: value}))
            except SettingsError as error:
                faults += [f"space.{name}: {line.strip(' -')}" for line in str(error).splitlines()[1:] or [str(error)]]
        return list(dict.fromkeys(faults))


class Trial(BaseModel):
    """One trial of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int = Field(description="Number of the trial in the study, from 0")
    state: Literal["complete", "pruned", "failed", "running"] = Field(description="How the trial ended")
    value: float | None = Field(
        description="Metric on dev of the weights that were kept, or the last one of a pruned trial; None of a failed one"
    )
    values: dict[str, Any] = Field(description="Values that were drawn, by dotted name of the setting")
    evaluations: int = Field(description="Number of evaluations of dev after which the trial ended")
    error: str = Field("", description="Message of the error of a failed trial; empty for others")


class SweepResult(BaseModel):
    """What the flow `sweep` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="Name of the study")
    metric: str = Field(description="Metric on dev that trials are compared by")
    direction: Direction = Field(description="Which way the metric is better")
    best: Trial = Field(description="The best trial")
    best_settings: str = Field(description="Absolute path, or URL, of the YAML file of the best trial's settings")
    trials: list[Trial] = Field(description="Every trial, in the order of their numbers")
