"""Reading rows of any format as the frames of their contract."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hubflow.data.columns import with_file
from hubflow.data.readers.chunks import CHUNK_ROWS, Chunk, encoding_fault, explained, sliced
from hubflow.data.readers.delimited import read_delimited
from hubflow.data.readers.images import image_chunks, read_digits
from hubflow.data.readers.parquet import read_parquet
from hubflow.data.readers.records import read_jsonl
from hubflow.data.readers.source import Request, expanded, is_glob, matching, read_label_list
from hubflow.data.readers.tokens import read_conll, read_msra
from hubflow.errors import DataError, EmptyError
from hubflow.schemas.references import RowKind, Split
from hubflow.schemas.settings import DataFormat, DatasetSpec
from hubflow.schemas.tasks import BUILT_IN, TaskName, find_task_type

__all__ = [
    "CHUNK_ROWS",
    "DIGITS_SOURCE",
    "IMAGE_FORMATS",
    "Chunk",
    "iter_rows",
    "malformed_texts",
    "read_label_list",
    "read_rows",
    "rows_kind",
]

LOG = logging.getLogger(__name__)
DIGITS_SOURCE = Path("scikit-learn digits")
IMAGE_FORMATS: tuple[DataFormat, ...] = ("image_folder", "image_list", "digits")
READERS: dict[DataFormat, Callable[[Request, int], Iterator[Chunk]]] = {
    "csv": read_delimited,
    "tsv": read_delimited,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "conll": read_conll,
    "msra": read_msra,
}
WHOLE_READERS: dict[DataFormat, Callable[[Request], pd.DataFrame]] = {
    "digits": read_digits,
}


def rows_kind(spec: DatasetSpec, task: TaskName) -> RowKind:
    """Kind of rows that `spec` gives for `task`.

    Raises:
        DataError: when the format holds no rows for the task.
    """
    known = find_task_type(task)
    if spec.format not in known.formats:
        raise DataError(f"format {spec.format!r} holds no rows for {task}; use one of {', '.join(known.formats)}")
    return known.rows_kind(spec)


def iter_rows(
    spec: DatasetSpec,
    path: str | Path | None,
    split: Split,
    task: TaskName | None = None,
    labelled: bool = True,
    chunk_rows: int = CHUNK_ROWS,
    images: Sequence[Path] = (),
) -> Iterator[Chunk]:
    """Rows of one source, as written, in chunks that need no more memory for a larger file.

    A line or record that cannot be read is a malformed one, as long as it is safe to go on after it.

    Args:
        spec: format and columns of the source.
        path: the file or folder, or a glob of files of rows, which gives them the column `file`; not used by format digits.
        split: which split the source is for.
        task: needed by JSON lines and Parquet of token rows; otherwise the format tells.
        labelled: False makes labels optional, as for prediction.
        chunk_rows: the most rows of a chunk; long rows make smaller ones.
        images: image files in place of a folder of them.

    Yields:
        Chunks with the columns of the contract that `rows_kind` names (see `hubflow.schemas.rows`), and extra
        columns. `row` is the 1-based line or record number. Further columns of JSON lines may come and go between chunks.

    Raises:
        DataError: naming the file, the line, what was expected and found, and what to do.
    """
    request = _request(spec, path, split, task, labelled)
    if spec.format in ("image_folder", "image_list"):
        yield from image_chunks(request, chunk_rows, images)
        return
    if spec.format in WHOLE_READERS:
        yield from sliced(WHOLE_READERS[spec.format](request), chunk_rows)
        return
    if is_glob(request.path):
        yield from _of_several(request, chunk_rows)
        return
    yield from _of_one(request, chunk_rows)


def _of_one(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    is_empty = True
    for chunk in READERS[request.spec.format](request, chunk_rows):
        if len(chunk.rows) or len(chunk.malformed):
            is_empty = False
            yield chunk
    if is_empty:
        raise EmptyError(f"{request.path}: holds no rows; expected at least one")


def _of_several(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of the files that a glob matches, one file after the other, each row with its file; empty files are counted."""
    paths, skipped = matching(request.path), 0
    last: Chunk | None = None
    for path in paths:
        try:
            for chunk in _of_one(replace(request, path=path), chunk_rows):
                if last is not None:
                    yield last
                malformed = chunk.malformed.assign(found=f"{path.name}: " + chunk.malformed["found"])
                last = replace(chunk, rows=with_file(chunk.rows, str(path)), malformed=malformed, file=str(path))
        except EmptyError as error:
            skipped += 1
            LOG.warning("%s", error)
    if last is None:
        raise EmptyError(f"{request.path}: holds no rows in any of its {len(paths)} file(s); expected at least one")
    yield replace(last, skipped={**last.skipped, **({"empty files": skipped} if skipped else {})})


def read_rows(
    spec: DatasetSpec, path: str | Path | None, split: Split, task: TaskName | None = None, labelled: bool = True
) -> pd.DataFrame:
    """Rows of one source at once, as `iter_rows` gives them; a malformed line is an error.

    Raises:
        DataError: naming the file, the line, what was expected and found, and what to do.
    """
    frames, malformed = [], []
    for chunk in iter_rows(spec, path, split, task, labelled):
        frames.append(chunk.rows)
        if len(chunk.malformed):
            malformed.append(chunk.malformed)
    source = _request(spec, path, split, task, labelled).path
    if malformed:
        raise DataError("\n".join(malformed_texts(source, spec.encoding, pd.concat(malformed, ignore_index=True))))
    if len({"labels" in frame for frame in frames}) > 1 and spec.format == "msra":
        frames = [frame.drop(columns="labels", errors="ignore") for frame in frames]  # all or none, as for prediction
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def malformed_texts(source: Path, encoding: str, malformed: pd.DataFrame) -> list[str]:
    """What is wrong with malformed lines of a source, a text for each kind of fault."""
    texts = []
    if malformed["check"].eq("encoding").any() and source.suffix != ".parquet" and not is_glob(source):
        texts.append(str(encoding_fault(source, encoding)))
        malformed = malformed[malformed["check"] != "encoding"]
    return [*texts, *(f"{source}: {text}" for text in explained(malformed))]


def _request(spec: DatasetSpec, path: str | Path | None, split: Split, task: TaskName | None, labelled: bool) -> Request:
    usual = next(name for name in BUILT_IN if spec.format in find_task_type(name).formats)
    if path is None and spec.format != "digits":
        raise DataError(f"format {spec.format} needs a file or folder for {split}, found none; set `{split}`")
    source = DIGITS_SOURCE if path is None or spec.format == "digits" else expanded(path)
    return Request(spec, source, split, rows_kind(spec, task or usual), labelled)
