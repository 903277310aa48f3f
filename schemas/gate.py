"""Settings of the gate: which rules a candidate must keep to be put in use. Must not import Paddle or Prefect."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hubflow.schemas.base import Settings
from hubflow.schemas.metrics import TaskType

_COUNTED = (
    *("accuracy", "balanced_accuracy", "mcc"),
    *(f"{name}_{kind}" for kind in ("macro", "weighted") for name in ("precision", "recall", "f1")),
)
GATED: dict[TaskType, tuple[str, ...]] = {
    "image_classification": (*_COUNTED, "loss"),
    "text_classification": (*_COUNTED, "loss"),
    "sequence_labelling": (
        "accuracy",
        *(f"{name}{mode}" for mode in ("", "_strict") for name in ("precision", "recall", "f1")),
    ),
}
"""Metrics that two models can be compared by, row by row, by task."""


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
