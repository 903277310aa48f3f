"""References: what flows between stages. Small, frozen, readable by a person; paths are relative to the store."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.parsing import Policy
from hubflow.schemas.tasks import PredictionKind, TaskName
from hubflow.schemas.training import HostsSettings, TrainSettings
from hubflow.schemas.urls import StoreAddress

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Finding", "Observer", "Policy"]

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
    """Accepted rows of each split as Parquet (`train.parquet`, …), with the label map (`label_map.json`)."""

    rows_kind: RowKind = Field(description="What a row is: text, pair of texts, list of tokens or image")
    rows: dict[str, int] = Field(description="Number of rows by split")
    num_classes: int = Field(description="Number of labels in the label map")
    label_map_sha256: str = Field(description="Hash of the label map")


class ModuleRef(Reference):
    """Files of a pretrained module, and what the stages need to know of its network."""

    name: str = Field(description="Name that the settings gave the module")
    module_kind: ModuleKind = Field(description="Whether the module takes texts or images")
    architecture: str = Field(description="Name of the network's architecture, such as bert or resnet50")
    pretrained: bool = Field(description="Whether there are pretrained weights; False: fresh ones")
    max_positions: int | None = Field(
        None, description="Text: length in tokens of the longest sequence that the position table allows"
    )
    image_size: int | None = Field(None, description="Images: side in pixels that the module was trained on")
    pooled_output: Literal["pooler", "first token"] | None = Field(
        None, description="Text: what pooled_output is computed from"
    )


class EncodedRef(Reference):
    """Rows of each split as model inputs: memory-mapped Arrow (`train.arrow`, …)."""

    dataset: DatasetRef = Field(description="Rows that were encoded")
    module: ModuleRef = Field(description="Module whose tokenizer, or image size, the rows were encoded by")
    max_seq_len: int | None = Field(None, description="Text: length in tokens of the longest row; longer ones were cut")
    image_size: int | None = Field(None, description="Images: side in pixels")


class TaskRef(Reference):
    """A head on a module: the specification from which the program is rebuilt, the same every time."""

    task: TaskName = Field(description="What is predicted")
    module: ModuleRef = Field(description="Module that the head is put on")
    num_classes: int = Field(description="Number of units of the output layer")
    label_map_sha256: str = Field(description="Hash of the label map")


class CheckpointRef(Reference):
    """The best weights of one fine-tune, with its history."""

    task: TaskRef = Field(description="Task that was trained")
    best_metric: str = Field(description="Metric on dev that picked the weights")
    best_value: float | None = Field(description="Its value; None without a dev split, when the last weights are kept")
    best_epoch: int = Field(description="Epoch of the weights that are kept, from 1")
    steps: int = Field(description="Number of updates that were made")


class EvaluationRef(Reference):
    """Metrics of a checkpoint, exactly over all rows of each split."""

    checkpoint: CheckpointRef = Field(description="Checkpoint that was evaluated")
    metrics: dict[str, dict[str, float]] = Field(description="Value by split and metric")


class ExportRef(Reference):
    """A folder that stands alone: inference program, label map, preprocessing, signature, metrics."""

    task: TaskName = Field(description="What is predicted")
    num_classes: int = Field(description="Number of labels in the label map")
    label_map_sha256: str = Field(description="Hash of the label map")
    metrics: dict[str, dict[str, float]] = Field(description="Value by split and metric, of the checkpoint that was exported")


class ExportEvaluationRef(Reference):
    """Metrics of an exported folder, exactly over all rows of one split of a data set."""

    export: ExportRef = Field(description="Export that was evaluated")
    dataset: DatasetRef = Field(description="Data set that it was evaluated on")
    split: str = Field(description="Split of the data set")
    metrics: dict[str, float] = Field(description="Value by metric")


class VerdictRef(Reference):
    """What the gate decided about a candidate."""

    verdict: Decision = Field(description="What the gate decided")
    candidate: ExportRef = Field(description="Export that was evaluated")
    name: str = Field(description="Name of the deployed pointer that the candidate was evaluated for")
    revision: int = Field(
        description="Revision of that pointer when the candidate was evaluated against it; 0: nothing was deployed"
    )
    reason: str = Field(description="Why, for a person")


class FineTuneResult(BaseModel):
    """What the flow `fine_tune` returns: one machine-readable summary of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="Name of the run")
    store: str = Field(description="Absolute path, or URL, of the store")
    export: str = Field(description="Absolute path, or URL, of the exported folder")
    report: str = Field(description="Absolute path, or URL, of the HTML report")
    metrics: dict[str, dict[str, float]] = Field(description="Value by split and metric")
    seconds: dict[str, float] = Field(description="Seconds by stage")
    reused: tuple[str, ...] = Field((), description="Stages that took their result from the store")
    evaluation: EvaluationRef = Field(description="Reference to the evaluation")
    exported: ExportRef = Field(description="Reference to the export")


class Finding(BaseModel):
    """One fault of a data set as a whole, or of the splits against each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    check: str = Field(description="Name of the check, as the settings have it")
    policy: Policy = Field(description="warn: said and written down; fail: the stage fails once the report is published")
    splits: tuple[Split, ...] = Field(description="Splits that it concerns")
    count: int = Field(ge=0, description="How many rows, labels or values it concerns")
    message: str = Field(description="What was expected, what was found, what to do")
    examples: tuple[str, ...] = Field((), max_length=5, description="The first few, with their row numbers")


class Observer(Protocol):
    """Sees every accepted row once, chunk by chunk, in bounded memory, and says what it found."""

    def add(self, split: Split, rows: "pd.DataFrame") -> None:
        """Take a chunk of the rows of `split`, in the order of the file."""

    def findings(self) -> list[Finding]:
        """What is to be said once every row has been seen."""


class PredictionJob(BaseModel):
    """All that predicting one part needs, wherever it is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: str = Field(description="Where the parts are, absolute")
    task: PredictionKind
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


class TrainRequest(BaseModel):
    """A task to train on encoded rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    task: TaskRef
    encoded: EncodedRef
    settings: TrainSettings
    store: StoreAddress
    seed: int = 0
    device: str = "auto"
    num_processes: int = 1
    hosts: HostsSettings | None = None
    warm_start: CheckpointRef | None = None

    def identity(self) -> dict[str, Any]:
        """What the trained weights are a function of: the store, the device and the number of processes are not among it."""
        kept = self.model_dump(mode="json", include={"task", "encoded", "seed"})
        warm = {} if self.warm_start is None else {"warm_start": self.warm_start.sha256}
        return {**kept, **warm, "settings": self.settings.result_settings()}
