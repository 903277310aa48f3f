"""Parts of a batch prediction: what predicting one needs, and what is known of one that is done. No Paddle or Prefect here."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.references import RowKind
from hubflow.schemas.settings import TaskType


class PredictionJob(BaseModel):
    """All that predicting one part needs, wherever it is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: str = Field(description="Where the parts are, absolute")
    task: TaskType
    export: str = Field(description="The exported folder, absolute")
    export_sha256: str = Field(description="Of its manifest")
    rows_kind: RowKind
    source: str = Field(description="Names the data in errors")
    batch_size: int
    top_k: int | None
    stride: int | None = Field(None, description="Tokens that two windows of a longer sentence share; None cuts it")
    threads: int | None = Field(description="Of the predictor; the cores that the process may use when None")


class ShardRef(BaseModel):
    """Rows of the input that are predicted, kept and resumed together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int = Field(description="From 0, in the input's order")
    key: str = Field(description="Of its content, the export and the settings")
    rows: int = Field(description="That keep their contract")


class ShardRecord(BaseModel):
    """What is known of a part that is done; written after its predictions."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rows: int = Field(description="That were predicted")
    sha256: str = Field(description="Of the predictions")
    bad_sha256: str | None = Field(None, description="Of the rows that were quarantined because their image does not decode")
    bad: int = 0
    image_changes: Mapping[str, int] = Field(
        default_factory=dict, description="Images that were turned, composited …, by change"
    )
    labelled: int = Field(0, description="Rows that have a label")
    counts: Mapping[str, Any] = Field(default_factory=dict, description="What metrics are computed from")
    unknown: int = Field(0, description="Labels that are not in the export's label map")
    unknown_examples: tuple[str, ...] = ()
    truncated_rows: int = Field(0, description="Texts or sentences that max_seq_len cut")
    truncated: int = Field(0, description="Tokens of texts, words of sentences, that it cut off")
