"""Settings of how a model is evaluated. Must not import Paddle or Prefect."""

import itertools
from typing import Annotated

from pydantic import Field, field_validator

from hubflow.schemas.base import Settings
from hubflow.schemas.metrics import CUSTOM_METRIC
from hubflow.schemas.tags import TagScheme


class SliceSettings(Settings):
    """Into which slices a split is cut, each evaluated by itself."""

    columns: tuple[str, ...] = Field((), description="Further columns of the data; each of their values is a slice")
    max_values: int = Field(
        20,
        ge=2,
        description="Slices of a column, or by label; of more values the rarest share one, of more numbers four ranges",
    )
    length: bool = Field(True, description="By length: characters of a text, words of a sentence; images have none")
    length_edges: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Longest length of each slice but the last, rising; the split's quartiles when not given"
    )
    labels: bool = Field(True, description="By true label; of sentences by the types of entities that are in them")

    @field_validator("length_edges")
    @classmethod
    def _rising(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        if any(left >= right for left, right in itertools.pairwise(edges)):
            raise ValueError(f"edges must rise, found {list(edges)}")
        return edges


class BootstrapSettings(Settings):
    """Confidence intervals of the metrics, by drawing the split's rows again, with replacement."""

    resamples: int = Field(1000, ge=0, description="How often; 0 for no intervals")
    confidence: float = Field(0.95, gt=0, lt=1)
    seed: int = Field(0, ge=0)


class EvaluateSettings(Settings):
    """How the best weights are evaluated."""

    batch_size: int = Field(64, ge=1)
    stride: int | None = Field(
        None,
        ge=0,
        description="Sequence labelling: read sentences longer than max_seq_len in windows that share at least so many tokens, "
        "as predict does; when not given they are cut, and words cut off count as O",
    )
    worst_mistakes: int = Field(20, ge=0, description="How many of the wrong rows with the largest loss are told and shown")
    top_k: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (3, 5), description="For each k below the number of labels: how often the true label is among the k most probable"
    )
    calibration_bins: int = Field(15, ge=1, description="Of equal width, for the expected calibration error")
    scheme: TagScheme = Field("auto", description="Of tags, for strict entity scores; by labels and true tags when auto")
    slices: SliceSettings = SliceSettings()
    bootstrap: BootstrapSettings = BootstrapSettings()
    metrics: tuple[Annotated[str, Field(pattern=CUSTOM_METRIC)], ...] = Field(
        (), description="package.module:function of metrics of your own"
    )
