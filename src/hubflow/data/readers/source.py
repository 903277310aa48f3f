"""What every reader shares: the request, decoded text, and rows made from named columns."""

import codecs
import difflib
import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hubflow.data.readers.opening import encoding_of_mark, encoding_of_nuls, open_data, require_text
from hubflow.errors import DataError, EmptyError, join_limited
from hubflow.files import why_no_file
from hubflow.schemas.labels import clean_label
from hubflow.schemas.library import library_settings
from hubflow.schemas.references import RowKind, Split
from hubflow.schemas.settings import Column, DatasetSpec

GUESSED_ENCODINGS = ("utf-8", "gb18030", "utf-16")
SAMPLE_BYTES = 1 << 20
Table = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Request:
    """One source of rows to read.

    `labelled` False makes the label optional, as for prediction.
    """

    spec: DatasetSpec
    path: Path
    split: Split
    kind: RowKind
    labelled: bool = True


def expanded(path: str | Path) -> Path:
    """`path` with `~` put in full.

    Raises:
        DataError: when it names the home of a user who is not there, or holds a NUL character.
    """
    try:
        if "\0" in str(path):
            raise ValueError("embedded NUL character")
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path!s}: not a path ({error}); correct it in the settings of the data") from error


def require_file(path: Path) -> Path:
    """`path`, when it is a file.

    Raises:
        DataError: when there is none, with a close name beside it; or when it is a folder.
    """
    kind = why_no_file(path)
    if kind is not None:
        remedy = "" if kind == "a folder" else "; write the rows to a file, and give its path"
        raise DataError(f"{path}: is {kind}; expected a file of rows{remedy}")
    if not path.is_file():
        raise DataError(f"{path}: no such file{_close_name(path)}; correct the path in the settings of the data")
    return path


def is_glob(path: str | Path) -> bool:
    """Whether a path is a pattern for several, and not the name of one that is there."""
    return glob.has_magic(str(path)) and not expanded(path).exists()


def matching(pattern: str | Path) -> list[Path]:
    """What a glob matches, sorted; a path that is none, itself.

    Raises:
        DataError: when a glob matches nothing.
    """
    if not is_glob(pattern):
        return [expanded(pattern)]
    found = sorted(glob.glob(str(expanded(pattern)), recursive=True))
    if not found:
        raise DataError(f"{pattern}: matches no file; correct the glob in the settings of the data")
    paths = [Path(path) for path in found]
    if "**" not in str(pattern):
        return paths
    files = [path for path in paths if not path.is_dir()]  # which `**` gives beside the folders that they lie in
    return files or [path for path in paths if not set(path.parents) & set(paths)]


def require_folder(path: Path) -> Path:
    """`path`, when it is a folder.

    Raises:
        DataError: when there is none, with a close name beside it; or when it is a file.
    """
    if path.is_file():
        raise DataError(f"{path}: is a file; expected a folder with one folder per class, or format image_list")
    if not path.is_dir():
        instead = why_no_file(path)
        if instead is not None:
            raise DataError(f"{path}: is {instead}; expected a folder with one folder per class; correct the path")
        kind = "file or folder" if path.suffix else "folder"
        raise DataError(f"{path}: no such {kind}{_close_name(path)}; correct the path in the settings of the data")
    return path


def read_text(path: Path, encoding: str) -> str:
    """Decoded content of a text file that holds something, without byte-order mark; line ends stay as written.

    A compressed file is decompressed; one that begins with the byte-order mark of UTF-16 or UTF-32 is read as such.

    Raises:
        DataError: when it is missing or empty, or a byte does not fit `encoding`; naming line and byte.
    """
    with open_data(require_file(path)) as opened:
        require_text(path, opened.head)
        data = opened.read()
    name = codec_of(path, encoding)
    try:
        encoding = encoding_of_file(path, data, name) or encoding
        text = data.decode(encoding)
        text.encode("utf-8")  # some encodings let half a surrogate pair through, which no file of ours can hold
    except LookupError as error:  # such as base64, which Python has among its codecs
        raise _unknown_encoding(path, encoding) from error
    except UnicodeDecodeError as error:
        line = _line_at(data, error.start, encoding)
        raise DataError(
            f"{path}: line {line}: byte 0x{data[error.start]:02x} at offset {error.start} is not {encoding} "
            f"({error.reason}); set `encoding`{fitting_encoding(path, encoding)}"
        ) from error
    except UnicodeError as error:
        raise DataError(f"{path}: is not {encoding} ({error}); set `encoding`{fitting_encoding(path, encoding)}") from error
    if not text.strip("\ufeff").strip():
        raise EmptyError(f"{path}: the file is empty; expected rows")
    return text.removeprefix("\ufeff")


def codec_of(path: Path, encoding: str) -> str:
    """What Python calls an encoding.

    Raises:
        DataError: when there is none of that name; it names `path`.
    """
    try:
        return codecs.lookup(encoding).name
    except (LookupError, ValueError) as error:  # a ValueError of a NUL character
        raise _unknown_encoding(path, encoding) from error


def _unknown_encoding(path: Path, encoding: str) -> DataError:
    return DataError(f"{path}: unknown encoding {encoding!r}; use for example {', '.join(GUESSED_ENCODINGS)}")


def encoding_of_file(path: Path, head: bytes, encoding: str) -> str | None:
    """The encoding that a byte-order mark names where the settings say UTF-8; None where the settings' own is to be used.

    Args:
        path: named in the error.
        head: the file's first bytes.
        encoding: the codec that the settings name, as Python calls it.

    Raises:
        DataError: when the first bytes are of another encoding than the settings name.
    """
    marked = encoding_of_mark(head)
    if marked is not None and marked != "utf-8" and encoding in ("utf-8", "utf-8-sig"):
        return marked
    if marked is not None and not encoding.startswith(("utf", "gb18030")):
        raise DataError(
            f"{path}: begins with the byte-order mark of {marked.upper()}, but `encoding` is {encoding}; set "
            f"`encoding: {marked}`"
        )
    nuls = None if encoding.startswith(("utf-16", "utf-32")) else encoding_of_nuls(head)
    if nuls is not None:
        raise DataError(f"{path}: looks like UTF-16 without a byte-order mark; set `encoding: {nuls}`")
    return None


def numbered_lines(path: Path, encoding: str) -> list[tuple[int, str]]:
    """Lines that are not blank, each with its 1-based number.

    Only a line feed ends a line: other separators of Unicode are part of the text.
    """
    lines = enumerate(read_text(path, encoding).split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line and not line.isspace()]


def read_label_list(path: str | Path, encoding: str = "utf-8", numbered: bool = False) -> list[str]:
    """Labels of a file with one label a line, in its order.

    Args:
        path: the file.
        encoding: of its characters.
        numbered: whether lines may be `0 cat`, which is a label and its number before it; they are when the numbers are all of
            0, 1, 2 and so on, in any order.

    Raises:
        DataError: when the file is missing or empty, or a label repeats; naming the lines.
    """
    first_line: dict[str, int] = {}
    for number, line in numbered_lines(Path(path), encoding):
        label = clean_label(line)
        if label in first_line:
            raise DataError(f"{path}: line {number}: label {label!r} repeats line {first_line[label]}; list each label once")
        first_line[label] = number
    labels = list(first_line)
    return _by_number(labels, path) if numbered else labels


def _by_number(labels: list[str], path: str | Path) -> list[str]:
    """The labels of lines that are numbers and labels, by their numbers; others as they are."""
    pairs = [_NUMBERED.fullmatch(label) for label in labels]
    names = {int(pair["number"]): pair["label"] for pair in pairs if pair is not None}
    if sorted(names) != list(range(len(labels))):
        return labels
    ordered = [names[number] for number in sorted(names)]
    repeated = sorted({label for label in ordered if ordered.count(label) > 1})
    if repeated:
        raise DataError(f"{path}: labels {join_limited(map(repr, repeated))} have several numbers; list each label once")
    return ordered


_NUMBERED = re.compile(r"(?P<number>\d{1,9})(?:\s*[,:;]\s*|\s+)(?P<label>\S.*)")


def make_rows(request: Request, rows: Sequence[int] | np.ndarray, table: Table) -> pd.DataFrame:
    """Rows under their contract's column names; the other columns of `table` are kept as extra columns.

    Raises:
        DataError: when a column that the settings name is not in `table`.
    """
    taken = wanted_columns(request, list(table))
    columns: dict[str, object] = {"row": pd.Series(np.asarray(rows, dtype=np.int64))}
    for name, key in taken.items():
        columns[name] = pd.Series(table[key], dtype=object if request.kind == "tokens" else "str")
    for key, values in table.items():
        if key not in taken.values():
            columns[key if key not in {*columns, *taken} else f"source_{key}"] = values
    return pd.DataFrame(columns)


def require_few_columns(path: Path, count: int, where: str = "") -> None:
    """Refuse a file with more columns than a machine bears.

    Raises:
        DataError: naming the limit.
    """
    most = library_settings().limits.max_columns
    if count > most:
        raise DataError(
            f"{path}: {where}more than {most:,} columns ({count:,}), limits.max_columns; leave out those that are no input, or "
            "correct `format` and what separates fields"
        )


def wanted_columns(request: Request, names: list[str]) -> dict[str, str]:
    """Which of the columns `names` holds each column of the contract.

    Raises:
        DataError: naming the setting, the columns found and a close one.
    """
    spec, tokens = request.spec, request.kind == "tokens"
    wanted = {"tokens": spec.tokens_column} if tokens else {"text": spec.text_column}
    if request.kind == "text_pair" and spec.text_pair_column is not None:
        wanted["text_pair"] = spec.text_pair_column
    settings = {"tokens": "tokens_column", "text": "text_column", "text_pair": "text_pair_column"}
    taken = {name: _column(request, column, names, settings[name]) for name, column in wanted.items()}
    label = "labels" if tokens and spec.label_column == "label" and "label" not in names else spec.label_column
    if request.labelled or _position(label, names) is not None:
        taken["labels" if tokens else "label"] = _column(request, label, names, "label_column")
    shared = [name for name in taken if list(taken.values()).count(taken[name]) > 1]
    if shared:
        raise DataError(f"{request.path}: {' and '.join(shared)} are both column {taken[shared[0]]!r}; name two columns")
    return taken


def _column(request: Request, column: Column, names: list[str], setting: str) -> str:
    position = _position(column, names)
    if position is not None:
        return names[position]
    found = f"found {len(names)} column(s): {join_limited(map(repr, names))}"
    if not request.spec.header and isinstance(column, str) and request.spec.format in ("csv", "tsv"):
        raise DataError(
            f"{request.path}: {setting} is {column!r}, but without a header columns have no names; {found}; "
            f"set {setting} to a position from 0 to {len(names) - 1}"
        )
    close = difflib.get_close_matches(str(column), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    header = (
        " (or header: false, when the first line is a row)"
        if request.spec.header and request.spec.format in ("csv", "tsv")
        else ""
    )
    raise DataError(f"{request.path}: no column {column!r}; {found}{hint}; set {setting}{header}")


def _position(column: Column, names: list[str]) -> int | None:
    if isinstance(column, int):
        return column if 0 <= column < len(names) else None
    return names.index(column) if column in names else None


def _close_name(path: Path) -> str:
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:
        return f"{where} (nor its folder {path.parent})"
    return f"{where}; did you mean {close[0]!r}?" if close else where


def _line_at(data: bytes, offset: int, encoding: str) -> int:
    try:
        return data[:offset].decode(encoding).count("\n") + 1
    except UnicodeError:
        return data.count(b"\n", 0, offset) + 1


def fitting_encoding(path: Path, tried: str) -> str:
    """The end of a remedy: an encoding that reads the whole file, when one of the usual does."""
    with open_data(path) as data:
        sample = data.head + data.read(SAMPLE_BYTES)
    usual = (encoding_of_mark(sample), "utf-8", "gb18030" if _is_mostly_pairs(sample) else "cp1252")
    for encoding in filter(None, usual):
        if encoding != tried and _decodes(path, encoding):
            return f", for example {encoding}, which reads this file"
    return ""


def _is_mostly_pairs(sample: bytes) -> bool:
    """Whether bytes beyond ASCII come in pairs, as in Chinese text, and not one by one, as accented letters do."""
    high = [len(run) for run in re.findall(rb"[\x80-\xff]+", sample)]
    return sum(size for size in high if size > 1) > sum(high) / 2


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_data(path) as data:
            while block := data.read(SAMPLE_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True
