"""Lay the rows to predict on out as parts on disk, what breaks the contract beside them. Must not import Paddle or Prefect."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field

from hubflow.data.class_names import named_rows
from hubflow.data.columns import Piece, unified, with_columns
from hubflow.data.extra_columns import with_file
from hubflow.data.quarantine import Quarantine, as_quarantined, partition_rows
from hubflow.data.readers.chunks import Chunk, with_clean_labels
from hubflow.data.readers.reading import iter_rows, malformed_texts
from hubflow.data.readers.source import read_label_list
from hubflow.data.report import SplitReport
from hubflow.data.split_checks import count_numbered
from hubflow.data.staging import as_table
from hubflow.errors import EmptyError, join_limited
from hubflow.inference.batch.sources import Source, is_several, quarantine_of
from hubflow.inference.batch.writing import require_writable
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.parts import PredictionJob, ShardRef
from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS, RowsError, label_column, row_schema
from hubflow.schemas.settings import PredictSettings, TaskType
from hubflow.store.outputs import Output
from hubflow.store.store import content_key, file_sha256

FORMAT_VERSION = 3  # of a part: raise it when the same rows would be predicted differently
LOG = logging.getLogger(__name__)


class Layout(BaseModel):
    """Parts in the input's order, and how many rows were read and quarantined."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    parts: tuple[ShardRef, ...]
    read: int
    invalid: int
    checks: dict[str, int] = Field(description="Faults by column and check")
    skipped: dict[str, int] = Field(default_factory=dict, description="Lines or files that are no rows, by reason")
    empty: tuple[str, ...] = Field((), description="Files of several that hold no rows")
    numbered_rows: int = Field(0, description="Sentences whose tokens are 1, 2, 3 …, where most are such")
    findings: tuple[str, ...] = Field((), description="What the way in which the sources are written tells")


def rows_file(folder: Path, number: int) -> Path:
    """Sound rows of a part."""
    return folder / f"{number:06d}.rows.parquet"


def rejected_file(folder: Path, number: int) -> Path:
    """Rows of a part that were quarantined, as the quarantine has them; there is none when all are sound."""
    return folder / f"{number:06d}.rejected.parquet"


def lay_out(
    settings: PredictSettings, task: TaskType, sources: Sequence[Source], work: PredictionJob, output: Output
) -> Layout:
    """Read every source in chunks, hold the rows to their contract but for their labels, and write each chunk as a part.

    Of several sources, one without rows is noted and left out. Parts have one set of columns: what is of another type in
    another file, or cannot be written in the format of the output, is refused here, before a part is predicted.

    Raises:
        DataError: when a source cannot be read, all are empty, or the format of the output cannot hold a value.
        ContractError: when more than `max_invalid_fraction` of the rows of a source break their contract, or all of them do:
            they are in the quarantine then; or a column has no one type.
    """
    folder, kind = Path(work.folder), work.rows_kind
    for name in ("*.rows.parquet", "*.rejected.parquet"):  # of a run that was stopped: what is in the data now counts
        for path in folder.glob(name):
            path.unlink()
    pieces: list[Piece] = []
    reports = [SplitReport(str(source.path), str(quarantine_of(output).path)) for source in sources]
    named, numbered = is_several(settings), np.zeros(2, np.int64)
    empty: list[str] = []
    for source, report in zip(sources, reports, strict=True):
        try:
            for chunk in _chunks(source, task, settings.rows_per_part):
                rows, rejected = _sorted_chunk(chunk, kind, report)
                numbered += count_numbered(rows["tokens"]) if kind == "tokens" else (0, 0)
                if named:
                    rows, rejected = (_with_file(frame, source) for frame in (rows, rejected))
                pieces.append(_keep(folder, len(pieces), rows, rejected, str(source.path)))
        except EmptyError:
            if not named:
                raise
            empty.append(str(source.path))
    if len(empty) == len(sources):
        raise EmptyError(f"{join_limited(empty)}: hold no rows; expected rows in at least one of the {len(empty)} file(s)")
    _require_valid(settings, sources, reports, kind, folder, len(pieces), output)
    parts = _in_one_type(pieces, sources, work, output)
    checks: dict[str, int] = {}
    for report in reports:
        for check, count in report.as_dict()["checks"].items():
            checks[check] = checks.get(check, 0) + count
    read, invalid = sum(one.read for one in reports), sum(one.rejected for one in reports)
    skipped = sum((report.skipped for report in reports), Counter[str]())
    findings = tuple(
        f"{finding.message} (first: {'; '.join(finding.examples)})"
        for report in reports
        for finding in report.findings("test", DataChecks(skipped_files="ignore"))
    )
    are_numbered = int(numbered[0]) if 2 * numbered[0] > numbered[1] else 0
    counts = {"read": read, "invalid": invalid, "checks": checks, "skipped": dict(skipped), "numbered_rows": are_numbered}
    return Layout(parts=parts, empty=tuple(empty), findings=findings, **counts)


def _in_one_type(
    pieces: Sequence[Piece], sources: Sequence[Source], work: PredictionJob, output: Output
) -> tuple[ShardRef, ...]:
    """The parts, each rewritten with the columns of all where its own differ; none is predicted before all of them can be.

    Raises:
        ContractError: when a column is of one type in one file and of another in the next.
        DataError: when the format of the output cannot hold a column.
    """
    schema = unified(pieces, mixed=all(source.spec.format == "jsonl" for source in sources))
    require_writable(schema, output.path, join_limited(dict.fromkeys(piece.source for piece in pieces)))
    told = work.model_dump(include={"export_sha256", "task", "rows_kind", "batch_size", "top_k", "stride"})
    parts = []
    for number, piece in enumerate(pieces):
        if not piece.schema.equals(schema):
            parquet.write_table(with_columns(parquet.read_table(piece.path), schema), piece.path)
        key = content_key("predict", FORMAT_VERSION, file_sha256(piece.path), told)
        parts.append(ShardRef(number=number, key=key, rows=parquet.read_metadata(piece.path).num_rows))
    return tuple(parts)


def _sorted_chunk(chunk: Chunk, kind: RowKind, report: SplitReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sound rows of a chunk, with their labels if they have any, whatever they hold; and the others, for the quarantine."""
    model, order = ROW_MODELS[kind], list(chunk.rows)
    labels = chunk.rows[label_column(model)] if label_column(model) in chunk.rows else None
    rows = chunk.rows if labels is None else chunk.rows.drop(columns=label_column(model))
    found = partition_rows(rows, row_schema(model, labelled=False), model, None, report.source)
    report.add(chunk, found)
    accepted, rejected = found.accepted, found.rejected
    if labels is not None:
        is_sound = rows["row"].isin(accepted["row"])
        accepted = accepted.assign(**{label_column(model): labels[is_sound].to_numpy(dtype=object)})
        accepted[label_column(model)] = accepted[label_column(model)].astype(labels.dtype)
        rejected = rejected.assign(**{label_column(model): labels[~is_sound].to_numpy(dtype=object)})
        rejected = rejected[[*order, *(name for name in rejected if name not in order)]]
    return accepted[order], as_quarantined(rejected, chunk.malformed)


def _chunks(source: Source, task: TaskType, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of a source; with a label list, labels that are numbers are named by it, as `load_dataset` names them."""
    spec, column = source.spec, "labels" if task == "sequence_labelling" else "label"
    names = [] if spec.label_list is None else read_label_list(spec.label_list, spec.encoding, spec.format == "image_list")
    for chunk in iter_rows(spec, source.path, "test", task, labelled=False, chunk_rows=chunk_rows, images=source.images):
        rows, count = named_rows(with_clean_labels(chunk, column).rows, column, names)
        yield replace(chunk, rows=rows) if count else chunk


def _with_file(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    files = pd.Series([str(source.path)] * len(frame), index=frame.index, dtype="str")
    if source.images:  # each of them is a file; of one that cannot be read, `content` names it
        known = frame["path"].map(source.image_names) if "path" in frame else files
        files = known.where(known.notna(), frame["content"] if "content" in frame else files).astype("str")
    return with_file(frame, files)


def _keep(folder: Path, number: int, rows: pd.DataFrame, rejected: pd.DataFrame, source: str) -> Piece:
    if len(rejected):
        parquet.write_table(as_table(rejected, source), rejected_file(folder, number))
    path, table = rows_file(folder, number), as_table(rows, source)
    parquet.write_table(table, path)
    return Piece(source, path, table.schema)


def _require_valid(
    settings: PredictSettings,
    sources: Sequence[Source],
    reports: Sequence[SplitReport],
    kind: RowKind,
    folder: Path,
    parts: int,
    output: Output,
) -> None:
    """Refuse sources of which too many rows are quarantined, or all; they are kept in the quarantine first."""
    nothing = not any(report.accepted for report in reports)
    for source, report in zip(sources, reports, strict=True):
        if report.rejected and (nothing or report.rejected > settings.max_invalid_fraction * report.read):
            path = quarantine_rows(folder, parts, output)
            malformed = pd.concat(report.first_malformed, ignore_index=True) if report.malformed else None
            texts = [] if malformed is None else malformed_texts(source.path, source.spec.encoding, malformed)
            kept = path or quarantine_of(output).path
            raise report.fault(ROW_MODELS[kind], None, texts, settings.max_invalid_fraction, str(kept), kept)
    if nothing:
        raise RowsError(f"{reports[0].source}: holds no rows; expected at least one")


def quarantine_rows(folder: Path, parts: int, output: Output, bad: Mapping[int, Path] = MappingProxyType({})) -> Path | None:
    """Put the rejected rows of all parts, and `bad` ones found later, into the quarantine beside the output, in order.

    Args:
        folder: where the parts are.
        parts: how many there are.
        output: the predictions file.
        bad: file of the rows of a part that were quarantined while predicting, by the part's number.

    Raises:
        StoreError: when it cannot be written.
    """
    quarantine = Quarantine(quarantine_of(output), [folder])
    try:
        for number in range(parts):
            files = [rejected_file(folder, number), *([bad[number]] if number in bad else [])]
            frames: list[Any] = [pd.read_parquet(path) for path in files if path.is_file()]
            if frames:
                quarantine.add_kept(pd.concat(frames, ignore_index=True).sort_values("row", kind="stable", ignore_index=True))
        return quarantine.path if quarantine.finish() else None
    finally:
        quarantine.discard()
