"""Lay the rows to predict on out as parts on disk, what breaks the contract beside them. Must not import Paddle or Prefect."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.parts import PartRef, PredictionWork
from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS, RowsError, label_column, row_schema
from hubflow.schemas.settings import PredictSettings, TaskType
from hubflow.stages.data.carried import free_names
from hubflow.stages.data.quarantine import Quarantine, as_quarantined, sorted_out
from hubflow.stages.data.reading import iter_rows, malformed_texts
from hubflow.stages.data.reading_chunks import Chunk
from hubflow.stages.data.report import SplitReport
from hubflow.stages.data.staging import as_table
from hubflow.stages.prediction.sources import Source, is_several, quarantine_of
from hubflow.stages.store import content_key, file_sha256

FORMAT_VERSION = 1  # of a part: raise it when the same rows would be predicted differently
FILE = "file"
"""Column of the predictions that names the file of a row, where there may be several."""
LOG = logging.getLogger(__name__)


class Layout(BaseModel):
    """Parts in the input's order, and how many rows were read and set aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    parts: tuple[PartRef, ...]
    read: int
    invalid: int
    checks: dict[str, int] = Field(description="Faults by column and check")
    skipped: dict[str, int] = Field(default_factory=dict, description="Lines or files that are no rows, by reason")


def rows_file(folder: Path, number: int) -> Path:
    """Sound rows of a part."""
    return folder / f"{number:06d}.rows.parquet"


def rejected_file(folder: Path, number: int) -> Path:
    """Rows of a part that were set aside, as the quarantine has them; there is none when all are sound."""
    return folder / f"{number:06d}.rejected.parquet"


def lay_out(settings: PredictSettings, task: TaskType, sources: Sequence[Source], work: PredictionWork, output: Path) -> Layout:
    """Read every source in chunks, hold the rows to their contract but for their labels, and write each chunk as a part.

    Raises:
        DataError: when a source cannot be read; ContractError when more than `max_invalid_share` of its rows break their
            contract, or all of them do: they are in the quarantine then.
    """
    folder, kind = Path(work.folder), work.rows_kind
    for name in ("*.rows.parquet", "*.rejected.parquet"):  # of a run that was stopped: what is in the data now counts
        for path in folder.glob(name):
            path.unlink()
    parts: list[PartRef] = []
    reports = [SplitReport(str(source.path), str(quarantine_of(output))) for source in sources]
    named = is_several(settings)
    for source, report in zip(sources, reports, strict=True):
        for chunk in _chunks(source, task, settings.rows_per_part):
            rows, rejected = _sorted_chunk(chunk, kind, report)
            if named:
                rows, rejected = (_with_file(frame, source) for frame in (rows, rejected))
            parts.append(_keep(folder, len(parts), rows, rejected, work))
    _require_valid(settings, sources, reports, kind, folder, parts, output)
    checks: dict[str, int] = {}
    for report in reports:
        for check, count in report.as_dict()["checks"].items():
            checks[check] = checks.get(check, 0) + count
    read, invalid = sum(one.read for one in reports), sum(one.rejected for one in reports)
    skipped = sum((report.skipped for report in reports), Counter[str]())
    return Layout(parts=tuple(parts), read=read, invalid=invalid, checks=checks, skipped=dict(skipped))


def _sorted_chunk(chunk: Chunk, kind: RowKind, report: SplitReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sound rows of a chunk, with their labels if they have any, whatever they hold; and the others, for the quarantine."""
    model, order = ROW_MODELS[kind], list(chunk.rows)
    labels = chunk.rows[label_column(model)] if label_column(model) in chunk.rows else None
    rows = chunk.rows if labels is None else chunk.rows.drop(columns=label_column(model))
    found = sorted_out(rows, row_schema(model, labelled=False), model, None, report.source)
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
    return iter_rows(source.spec, source.path, "test", task, labelled=False, chunk_rows=chunk_rows, images=source.images)


def _with_file(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    frame = frame.rename(columns=free_names(frame.columns, (FILE,)))
    paths = pd.Series([str(source.path)] * len(frame), index=frame.index, dtype="str")
    for column in ("path", "content"):  # of images that were named one by one each is a file; `content` names one unread
        if source.images and column in frame:
            paths = frame[column].where(frame[column].notna(), paths).astype("str")
    frame.insert(0, FILE, paths)
    return frame


def _keep(folder: Path, number: int, rows: pd.DataFrame, rejected: pd.DataFrame, work: PredictionWork) -> PartRef:
    if len(rejected):
        parquet.write_table(as_table(rejected, work.source), rejected_file(folder, number))
    path = rows_file(folder, number)
    parquet.write_table(as_table(rows, work.source), path)
    told = work.model_dump(include={"export_sha256", "task", "rows_kind", "batch_size", "top_k"})
    return PartRef(number=number, key=content_key("predict", FORMAT_VERSION, file_sha256(path), told), rows=len(rows))


def _require_valid(
    settings: PredictSettings,
    sources: Sequence[Source],
    reports: Sequence[SplitReport],
    kind: RowKind,
    folder: Path,
    parts: Sequence[PartRef],
    output: Path,
) -> None:
    """Refuse sources of which too many rows are set aside, or all; they are kept in the quarantine first."""
    nothing = not any(report.accepted for report in reports)
    for source, report in zip(sources, reports, strict=True):
        if report.rejected and (nothing or report.rejected > settings.max_invalid_share * report.read):
            path = set_aside(folder, parts, output, ())
            malformed = pd.concat(report.first_malformed, ignore_index=True) if report.malformed else None
            texts = [] if malformed is None else malformed_texts(source.path, source.spec.encoding, malformed)
            raise report.fault(ROW_MODELS[kind], None, texts, settings.max_invalid_share, str(path or quarantine_of(output)))
    if nothing:
        raise RowsError(f"{reports[0].source}: holds no rows; expected at least one")


def set_aside(folder: Path, parts: Sequence[PartRef], output: Path, bad: Sequence[Path]) -> Path | None:
    """Put the rejected rows of all parts, and `bad` ones found later, into the quarantine beside the output, in order.

    Args:
        folder: where the parts are.
        parts: in order.
        output: the predictions file.
        bad: files of rows that were set aside while predicting; each is named after its part's key.

    Raises:
        StoreError: when it cannot be written.
    """
    by_key = {path.name.partition(".")[0]: path for path in bad}
    target = quarantine_of(output)
    quarantine = Quarantine(target.parent, target.stem)
    try:
        for part in parts:
            files = [rejected_file(folder, part.number), *([by_key[part.key]] if part.key in by_key else [])]
            frames: list[Any] = [pd.read_parquet(path) for path in files if path.is_file()]
            if frames:
                quarantine.add_kept(pd.concat(frames, ignore_index=True).sort_values("row", kind="stable", ignore_index=True))
        return quarantine.path if quarantine.finish() else None
    finally:
        quarantine.discard()
