"""An export that is opened to be used: verified, signed by a trusted key where keys are set, each file as it must be."""

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hubflow.errors import LabelMapError, StoreError, join_limited
from hubflow.files import read_file
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.schemas.tasks import PredictionKind
from hubflow.store.artifacts import EXPORTS, LABEL_MAP, require_artifact
from hubflow.store.manifest import SealedFolder, unlisted, verify_folder
from hubflow.store.signing import require_trusted

SIGNATURE, TOKENIZER = "signature.json", "tokenizer.json"
ROWS_OF_TASK: dict[PredictionKind, tuple[RowKind, ...]] = {
    "text_classification": ("text", "text_pair"),
    "sequence_labelling": ("tokens",),
    "image_classification": ("image",),
}
"""Kinds of rows that a task may take; the first is the one when nothing is said."""
Channel = Annotated[float, Field(allow_inf_nan=False, ge=-1e3, le=1e3)]
Scale = Annotated[float, Field(allow_inf_nan=False, gt=1e-6, le=1e3)]
Byte = Annotated[int, Field(ge=0, le=255)]
log = logging.getLogger(__name__)


class _Tensor(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    shape: tuple[Annotated[int, Field(ge=-1)], ...] = Field(max_length=8)
    dtype: str


class _Text(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    max_seq_len: int = Field(ge=1, le=2**20)
    pad_token_id: int = Field(ge=0, lt=2**31)


class _Image(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    image_size: int = Field(ge=1, le=2**14)
    mean: tuple[Channel, Channel, Channel]
    std: tuple[Scale, Scale, Scale]
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    image_rules: int = Field(0, ge=0)


class Signature(BaseModel):
    """What an inference program takes and gives: `signature.json` of an export."""

    model_config = ConfigDict(frozen=True, strict=True)
    task: PredictionKind
    inputs: dict[str, _Tensor]
    outputs: dict[str, _Tensor]
    rows_kind: RowKind
    precision: Literal["float32", "bfloat16"] = "float32"
    text: _Text | None = None
    image: _Image | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rows_kind not in ROWS_OF_TASK[self.task]:
            raise ValueError(f"rows_kind {self.rows_kind!r} does not fit {self.task}")
        given = {name for name in ("text", "image") if getattr(self, name) is not None}
        expected = {"image" if self.rows_kind == "image" else "text"}
        if given != expected:
            raise ValueError(f"rows of {self.rows_kind} are prepared by {' '.join(expected)!r}, found {sorted(given)}")
        known = (
            {"image"} if self.rows_kind == "image" else {"input_ids", "position_ids", "segment_ids", "input_mask", "seq_len"}
        )
        if not self.inputs or not set(self.inputs) <= known:
            raise ValueError(f"inputs {join_limited(self.inputs)}, expected some of {join_limited(sorted(known))}")
        if "probs" not in self.outputs or not self.outputs["probs"].shape:
            raise ValueError("the output 'probs' is missing")
        return self


@dataclass(frozen=True)
class OpenedExport:
    """An export whose files are validated.

    Attributes:
        folder: of the export.
        sealed: the folder as its manifest has it; None of one that is being made.
        signature: what `Signature` validates, as the file has it.
        label_map: the task's labels.
    """

    folder: Path
    sealed: SealedFolder | None
    signature: dict[str, Any]
    label_map: LabelMap

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of the export; empty of one that is being made."""
        return {} if self.sealed is None else self.sealed.facts

    def read(self, name: str) -> bytes:
        """Content of a file, as the manifest has it.

        Raises:
            StoreError: when it is missing or altered.
        """
        return _read(self.folder, self.sealed, name)

    def require_unchanged(self, name: str) -> None:
        """Refuse the export when a file, which a library read itself, was written since it was verified.

        Raises:
            StoreError: naming the file.
        """
        if self.sealed is not None:
            self.sealed.require_unchanged(name)


def open_export(folder: Path, keys: tuple[str, ...] | None = None) -> OpenedExport:
    """Open an exported folder to use it.

    Args:
        folder: of the export.
        keys: public keys of which one must have signed it; `trust.keys` when None.

    Raises:
        StoreError: when it is incomplete, altered, or a file is not what it must be, naming the file.
        LabelMapError: when its label map is none, or not that of its manifest.
        SignatureError: when `trust.keys` is set, and none of them has signed it.
    """
    sealed = verify_folder(folder, EXPORTS)
    require_trusted(sealed, keys)
    require_artifact(sealed)
    export = _opened(folder, sealed)
    facts, labels = sealed.facts, export.label_map
    if (facts.get("prediction") or facts["task"]) != export.signature["task"]:
        raise StoreError(
            f"{folder / SIGNATURE}: task {export.signature['task']}, the manifest has {facts['task']}; make it again"
        )
    if facts["label_map_sha256"] != labels.sha256 or facts["num_classes"] != labels.num_classes:
        raise LabelMapError(f"{folder / LABEL_MAP} is not the label map that the manifest has; make the export again")
    if "text" in export.signature and TOKENIZER not in sealed.files:
        raise StoreError(f"{folder}: its manifest lacks {TOKENIZER}, which exports of text have; make it again")
    if added := unlisted(sealed):
        _warn_unlisted(folder, tuple(added))
    return export


def open_draft(folder: Path) -> OpenedExport:
    """Open an export that this process, or one that it works for, is just making: it has no manifest yet.

    Raises:
        StoreError, LabelMapError: as `open_export`.
    """
    return _opened(folder, None)


@functools.lru_cache(maxsize=256)
def _warn_unlisted(folder: Path, names: tuple[str, ...]) -> None:
    """Once in a process: who looks after the export may not know of them."""
    log.warning(
        "%s: %d file(s) are not in the manifest, and have no effect: %s; remove them", folder, len(names), join_limited(names)
    )


def _opened(folder: Path, sealed: SealedFolder | None) -> OpenedExport:
    label_map = LabelMap.parse(_read(folder, sealed, LABEL_MAP), folder / LABEL_MAP)
    signature = _signature(_read(folder, sealed, SIGNATURE), folder / SIGNATURE)
    classes = signature["outputs"]["probs"]["shape"][-1]
    if classes != label_map.num_classes:
        raise LabelMapError(
            f"{folder / LABEL_MAP}: {label_map.num_classes} labels, the program of {SIGNATURE} has {classes}; make it again"
        )
    return OpenedExport(folder, sealed, signature, label_map)


def _signature(content: bytes, source: Path) -> dict[str, Any]:
    try:
        Signature.model_validate_json(content)
        found: dict[str, Any] = json.loads(content)
        return found
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise StoreError(f"{source}: {where + ': ' if where else ''}{fault['msg']}; make the export again") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{source}: no readable signature ({error}); make the export again") from error


def _read(folder: Path, sealed: SealedFolder | None, name: str) -> bytes:
    if sealed is not None:
        return sealed.read(name)
    try:
        return read_file(folder / name)
    except OSError as error:
        raise StoreError(f"{folder / name} cannot be read ({error})") from error
