"""References: what flows between stages. Small, frozen, readable by a person; paths are relative to the store."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.settings import TaskType

RowKind = Literal["text", "text_pair", "tokens", "image"]
ModuleKind = Literal["text", "image"]
Split = Literal["train", "dev", "test"]
Decision = Literal["promoted", "rejected", "inconclusive"]
DEPLOYED_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a deployed pointer may be called: a file of the store is named so."""


class Reference(BaseModel):
    """Where an artefact lies in the store, and the hash of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(description="Folder relative to the store's root")
    sha256: str = Field(description="Hash of the folder's manifest.json, which holds the hash of every file")


class DatasetRef(Reference):
    """Accepted rows of each split as Parquet, with the label map."""

    rows_kind: RowKind
    rows: dict[str, int] = Field(description="Number of rows by split")
    num_classes: int
    label_map_sha256: str


class ModuleRef(Reference):
    """A pretrained module's files."""

    name: str
    module_kind: ModuleKind
    architecture: str
    pretrained: bool
    max_positions: int | None = Field(None, description="Text: longest sequence that the position table allows")
    image_size: int | None = Field(None, description="Images: the side in pixels that the module was trained on")
    pooled_output: Literal["pooler", "first token"] | None = Field(None, description="Text: what pooled_output is made by")


class EncodedRef(Reference):
    """Rows of each split as model inputs, memory-mapped Arrow."""

    dataset: DatasetRef
    module: ModuleRef
    max_seq_len: int | None = None
    image_size: int | None = None


class TaskRef(Reference):
    """A head on a module: the specification from which the program is rebuilt, the same every time."""

    task: TaskType
    module: ModuleRef
    num_classes: int
    label_map_sha256: str


class CheckpointRef(Reference):
    """The best weights of one fine-tune, with its history."""

    task: TaskRef
    best_metric: str
    best_value: float | None = Field(description="None without a dev split: the last weights are kept")
    best_epoch: int
    steps: int


class EvaluationRef(Reference):
    """Metrics of a checkpoint, exactly over all rows of each split."""

    checkpoint: CheckpointRef
    metrics: dict[str, dict[str, float]] = Field(description="Value by split and metric")


class ExportRef(Reference):
    """A folder that stands alone: inference program, label map, preprocessing, signature, metrics."""

    task: TaskType
    num_classes: int
    label_map_sha256: str
    metrics: dict[str, dict[str, float]]


class ExportEvaluationRef(Reference):
    """Metrics of an exported folder, exactly over all rows of one split of a data set."""

    export: ExportRef
    dataset: DatasetRef
    split: str
    metrics: dict[str, float] = Field(description="Value by metric")


class VerdictRef(Reference):
    """What the gate decided about a candidate."""

    verdict: Decision
    candidate: ExportRef
    name: str = Field(description="Of the deployed pointer that the candidate was evaluated for")
    revision: int = Field(
        description="Of that pointer when the candidate was evaluated against it; 0: nothing had been deployed"
    )
    reason: str


class FineTuneResult(BaseModel):
    """What the flow returns: one machine-readable summary of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    store: str = Field(description="Absolute path, or URL, of the store")
    export: str = Field(description="Absolute path, or URL, of the exported folder")
    report: str = Field(description="Absolute path, or URL, of the HTML report")
    metrics: dict[str, dict[str, float]]
    seconds: dict[str, float] = Field(description="Seconds by stage")
    reused: tuple[str, ...] = Field((), description="Stages that took their result from the store")
    evaluation: EvaluationRef
    exported: ExportRef
