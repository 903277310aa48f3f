"""The kinds of artifacts in a store: the files that each must have, and the facts of its manifest that later stages rely on.

A manifest verifies that a folder is as it was sealed, not that hubflow sealed it: everybody who can write to the store can
seal another one. So what a manifest says is validated before it is used.
"""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubflow.errors import StoreError, join_limited
from hubflow.runtime.memory import raise_lack_of_memory
from hubflow.schemas.references import DatasetRef, Decision, EncodedRef, ExportRef, ModuleKind, ModuleRef, RowKind, TaskRef
from hubflow.schemas.settings import LoraSettings
from hubflow.schemas.tasks import PredictionKind, TaskName
from hubflow.store.manifest import SealedFolder, unlisted

EXPORTS = "exports"
LABEL_MAP = "label_map.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Metrics = dict[str, dict[str, float]]


class _Facts(BaseModel):
    """Facts of a manifest: those named here are validated, others may be there too."""

    model_config = ConfigDict(frozen=True, strict=True)

    def files(self) -> Iterable[str]:
        """Files that the artifact must have."""
        return ()


class _Dataset(_Facts):
    rows_kind: RowKind
    rows: dict[str, Count]
    num_classes: int = Field(ge=1)
    label_map_sha256: Sha256
    label_counts: dict[str, dict[str, Count]]
    data_report: dict[str, Any]

    def files(self) -> Iterable[str]:
        return [LABEL_MAP, *(f"{split}.parquet" for split, count in self.rows.items() if count)]


class _Module(_Facts):
    name: str
    pretrained: bool
    module_kind: ModuleKind
    architecture: str
    max_positions: Count | None = None
    image_size: Count | None = None


class _Encoded(_Facts):
    dataset: DatasetRef
    module: ModuleRef
    max_seq_len: Count | None
    image_size: Count | None
    pad_token_id: Count | None = None

    def files(self) -> Iterable[str]:
        return [LABEL_MAP, *(f"{split}.arrow" for split, count in self.dataset.rows.items() if count)]


class _Task(_Facts):
    task: TaskName
    num_classes: int = Field(ge=1)
    label_map_sha256: Sha256
    hidden_units: list[Annotated[int, Field(ge=1)]]
    head_dropout: Finite | None
    trainable: bool
    dropout: Finite | None
    attention_dropout: Finite | None
    lora: LoraSettings | None
    max_seq_len: Count | None
    module: ModuleRef
    task_source_sha256: Sha256 | None = None

    def files(self) -> Iterable[str]:
        return ["parameters.json"]


class _Checkpoint(_Facts):
    task: TaskRef
    encoded: EncodedRef
    settings: dict[str, Any]
    seed: Count
    best_metric: str
    best_value: float | None
    best_epoch: Count
    steps: Count

    def files(self) -> Iterable[str]:
        return ["model.safetensors"]


class _Evaluation(_Facts):
    metrics: Metrics

    def files(self) -> Iterable[str]:
        return [LABEL_MAP, *(f"{split}.parquet" for split in self.metrics)]


class _Training(BaseModel):
    model_config = ConfigDict(strict=True)
    settings: dict[str, Any]
    best_metric: str


class ExportFacts(_Facts):
    """Facts of an export's manifest; those that may be missing are of an export made by hand."""

    task: TaskName
    prediction: PredictionKind | None = None
    num_classes: int = Field(ge=1)
    label_map_sha256: Sha256
    metrics: Metrics | None = None
    checkpoint: Sha256 | None = None
    training: _Training | None = None
    fingerprints: dict[str, str] | None = None

    def files(self) -> Iterable[str]:
        """Files that the artifact must have; `tokenizer.json` too, where the signature is of text."""
        return ["program.json", "program.pdiparams", "signature.json", LABEL_MAP]


class _Verdict(_Facts):
    verdict: Decision
    candidate: ExportRef
    name: str
    revision: Count
    reason: str
    at: Annotated[datetime.datetime, Field(strict=False)]

    def files(self) -> Iterable[str]:
        return ["verdict.json"]


class _Sample(_Facts):
    def files(self) -> Iterable[str]:
        return ["predictions.parquet"]


_KINDS: dict[str, type[_Facts]] = {
    "datasets": _Dataset,
    "modules": _Module,
    "encoded": _Encoded,
    "tasks": _Task,
    "checkpoints": _Checkpoint,
    "evaluations": _Evaluation,
    EXPORTS: ExportFacts,
    "verdicts": _Verdict,
    "samples": _Sample,
}


def require_artifact(sealed: SealedFolder) -> None:
    """Hold a sealed folder to what its kind of artifact must have; of other kinds nothing is asked.

    Files that the manifest does not have are refused, for some are read by pattern. Of an export, whose files are read by the
    manifest alone, they have no effect, and stay.

    Raises:
        StoreError: naming the fact of the manifest that is wrong, or the files that are missing or too many.
    """
    model = _KINDS.get(sealed.kind)
    if model is None:
        return
    try:
        facts = model.model_validate_json(json.dumps(sealed.facts))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, ("facts", *fault["loc"])))
        raise StoreError(
            f"{sealed.folder / 'manifest.json'}: {where}: {fault['msg']}; it is not of an artifact that hubflow makes. Make it "
            "again"
        ) from error
    missing = [name for name in facts.files() if name not in sealed.files]
    if missing:
        raise StoreError(
            f"{sealed.folder}: its manifest lacks {join_limited(missing)}, which {sealed.kind} have; make it again"
        )
    added = unlisted(sealed) if sealed.kind != EXPORTS else []
    if added:
        raise StoreError(f"{sealed.folder}: {len(added)} file(s) are not in its manifest: {join_limited(added)}; remove them")
    for name in sealed.files:
        if name.endswith((".parquet", ".arrow")):
            _require_table(sealed.folder / name)


def _require_table(path: Path) -> None:
    """Refuse a table that Arrow cannot open; its rows are not read."""
    import pyarrow
    from pyarrow import parquet

    try:
        if path.suffix == ".parquet":
            parquet.read_schema(path)
        else:
            with pyarrow.memory_map(str(path)) as stream:
                pyarrow.ipc.open_file(stream)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise_lack_of_memory(error)
        raise StoreError(f"{path}: no table that can be read ({error}); make it again") from error
