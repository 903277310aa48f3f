"""The rows to predict: files of a path, a glob or a list, laid out as shards on disk."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field

from hubflow.data.columns import Piece, unified, with_columns, with_file
from hubflow.data.preview import named_rows
from hubflow.data.quarantine import Quarantine, as_quarantined, partition_rows
from hubflow.data.readers.chunks import Chunk, with_clean_labels
from hubflow.data.readers.images import SYSTEM_NAMES
from hubflow.data.readers.opening import plain_name
from hubflow.data.readers.reading import iter_rows, malformed_texts, rows_kind
from hubflow.data.readers.source import expanded, is_glob, matching, read_label_list
from hubflow.data.report import SplitReport
from hubflow.data.split_checks import count_numbered
from hubflow.data.staging import as_table
from hubflow.errors import DataError, EmptyError, SettingsError, join_limited
from hubflow.inference.batch.tables import OUTPUTS, require_writable
from hubflow.modules.images import is_image_file
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.references import PredictionJob, RowKind, ShardRef
from hubflow.schemas.rows import ROW_MODELS, RowsError, label_column, row_schema
from hubflow.schemas.settings import DataFormat, DatasetSpec, PredictSettings
from hubflow.schemas.tasks import PredictionKind, find_task_type
from hubflow.store.outputs import Output
from hubflow.store.store import content_key, file_sha256

ENDINGS: dict[str, DataFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
    ".conllu": "conll",
    ".conllup": "conll",
}
_NAMES = (
    "encoding",
    "header",
    "quoting",
    "delimiter",
    "quote",
    "escape",
    "text_column",
    "text_pair_column",
    "label_column",
    "tokens_column",
    "label_list",
)


@dataclass(frozen=True)
class Source:
    """A file or folder of rows, and how they are written; or image files that were named one by one, or by a glob."""

    path: Path
    spec: DatasetSpec
    images: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, or the folder."""
        return self.images or (self.path,)

    @cached_property
    def image_names(self) -> dict[str, str]:
        """What each image was called, by its absolute path."""
        return {os.path.abspath(path): str(path) for path in self.images}


def output_of(settings: PredictSettings) -> Output:
    """Where the predictions go.

    Raises:
        SettingsError: when the ending is unknown, several files have no output named, or it cannot be written there.
    """
    if settings.output is None and is_several(settings):
        raise SettingsError(f"output: several files need one named, with an ending of {', '.join(OUTPUTS)}")
    data = expanded(settings.data if isinstance(settings.data, str) else settings.data[0]).absolute()
    data = data if data.name not in ("", "..") else data.resolve()  # a link keeps its own name and folder
    named = settings.output or str(data.with_name(f"{data.name}.predictions.parquet"))
    output = Output.named(named, "output", settings.overwrite, "set overwrite: true (--overwrite)")
    if output.path.suffix not in OUTPUTS:
        raise SettingsError(f"output {named}: expected an ending of {', '.join(OUTPUTS)}")
    return output


def quarantine_of(output: Output) -> Output:
    """Where the rows that are quarantined go: beside the predictions."""
    return replace(output, path=output.path.with_name(f"{output.path.name}.quarantine.parquet"))


def require_free(output: Output, sources: Sequence[Source]) -> None:
    """Refuse, before anything is predicted, to write over what hubflow did not write, or over what is read.

    Raises:
        SettingsError: naming what is there.
    """
    for one in (output, quarantine_of(output)):
        one.require_replaceable()
        one.require_no_source(path for source in sources for path in source.files)


def is_several(settings: PredictSettings) -> bool:
    """Whether the data may be several files, which the output then names in a column."""
    return not isinstance(settings.data, str) or is_glob(settings.data)


def sources_of(settings: PredictSettings, task: PredictionKind, trained_on: RowKind, output: Output) -> list[Source]:
    """Every file or folder to predict on, in the order given, those of a glob sorted; the predictions are none of them.

    Raises:
        DataError: when a glob matches nothing.
        SettingsError: when the format is unknown, or does not give the rows that the export was trained on.
    """
    patterns = (settings.data,) if isinstance(settings.data, str) else settings.data
    ours = {output.path, quarantine_of(output).path}
    found: list[tuple[bool, Path]] = []
    for pattern in patterns:
        paths = [path for path in matching(pattern) if path.absolute() not in ours]
        is_image = _images_among(paths, settings, trained_on)
        found += [(is_image(path), path) for path in paths]
    sources: list[Source] = []
    for are_images, group in itertools.groupby(found, key=lambda one: one[0]):
        paths = [path for _, path in group]
        if are_images:  # which are read together: each of many would be a part of its own
            sources.append(Source(paths[0], _spec(settings, paths[0], task, trained_on, "image_folder"), tuple(paths)))
        else:
            sources += [Source(path, _spec(settings, path, task, trained_on)) for path in paths]
    if not sources:
        raise DataError(
            f"{join_limited(patterns)}: matches no file but the predictions; correct the glob in the settings of the data"
        )
    return sources


def _images_among(paths: Sequence[Path], settings: PredictSettings, trained_on: RowKind) -> Callable[[Path], bool]:
    """Which of the paths of a pattern are read as images: of files beside images all, since what is no image is counted."""
    if trained_on != "image" or settings.format not in (None, "image_folder"):
        return lambda _path: False
    files = {path for path in paths if os.path.lexists(path) and not path.is_dir()}
    has_images = any(map(is_image_file, files))
    return lambda path: path in files and (has_images or path.name in SYSTEM_NAMES)


def _spec(
    settings: PredictSettings, path: Path, task: PredictionKind, trained_on: RowKind, known: DataFormat | None = None
) -> DatasetSpec:
    fitting = find_task_type(task).formats
    kind = known or settings.format or _format(path, trained_on, fitting)
    if kind not in fitting:
        raise SettingsError(f"format {kind!r} holds no rows for this export's task {task}; use one of {', '.join(fitting)}")
    given = {name: getattr(settings, name) for name in (*_NAMES, *(("image_root",) if kind == "image_list" else ()))}
    spec = DatasetSpec(format=kind, train=str(path), **given)
    if rows_kind(spec, task) != trained_on:
        remedy = "set text_pair_column" if trained_on == "text_pair" else "leave text_pair_column out"
        raise SettingsError(
            f"this export was trained on {trained_on} rows, the settings give {rows_kind(spec, task)}; {remedy}"
        )
    return spec


def _format(path: Path, trained_on: RowKind, fitting: Sequence[DataFormat]) -> DataFormat:
    if trained_on == "image":
        return "image_list" if path.is_file() else "image_folder"
    known = ENDINGS.get(PurePath(plain_name(path)).suffix.lower())
    if known is None:
        raise SettingsError(
            f"{path}: the ending does not tell the format; set format to one of {join_limited(fitting, len(fitting))}"
        )
    return known


FORMAT_VERSION = 4  # of a part: raise it when the same rows would be predicted differently
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
    settings: PredictSettings, task: PredictionKind, sources: Sequence[Source], work: PredictionJob, output: Output
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
            for chunk in _chunks(source, task, settings.rows_per_shard):
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
    identity = work.model_dump(include={"export_sha256", "task", "rows_kind", "batch_size", "top_k", "stride"})
    parts = []
    for number, piece in enumerate(pieces):
        if not piece.schema.equals(schema):
            parquet.write_table(with_columns(parquet.read_table(piece.path), schema), piece.path)
        key = content_key("predict", FORMAT_VERSION, file_sha256(piece.path), identity)
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


def _chunks(source: Source, task: PredictionKind, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of a source; with a label list, labels that are numbers are named by it, as `load_dataset` names them."""
    spec, column = source.spec, label_column(ROW_MODELS[rows_kind(source.spec, task)])
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
