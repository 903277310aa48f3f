"""Lists of images: what stands between path and label, and which of the two comes first. Must not import Paddle or Prefect."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubflow.data.readers.source import Request, expanded, numbered_lines, require_folder
from hubflow.errors import DataError, join_limited
from hubflow.modules.images import ENDINGS, is_image_file

HEADER = "header line"
SEPARATORS = ("tab", "comma", "semicolon", "last blank", "first blank")
"""What may stand between path and label, in the order in which they are tried."""
PATH_NAMES = frozenset(
    "path paths image images img file files filename file_name filepath file_path fname image_path img_path image_name "
    "img_name image_file image_id id name".split()
)
"""What a header line calls the paths, and the labels."""
LABEL_NAMES = frozenset("label labels class classes category target y tag class_name label_name class_id label_id".split())
SAMPLED = 1_000
"""So many lines, spread over the list, are looked up on disk to find how the list is written."""
_CHARACTERS = {"tab": "\t", "comma": ",", "semicolon": ";"}
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_QUOTED_FIRST = re.compile(r"""(["'])(?P<first>(?:(?!\1).)+)\1\s+(?P<second>\S.*)""")
_QUOTED_LAST = re.compile(r"""(?P<first>.*\S)\s+(["'])(?P<second>(?:(?!\2).)+)\2""")
Entry = tuple[int, Path, str | None]


@dataclass(frozen=True)
class Style:
    """How the lines of a list are written; without a separator each is a path alone."""

    separator: str | None
    label_first: bool = False

    def __str__(self) -> str:
        if self.separator is None:
            return "a path in each line"
        order = ("label", "path") if self.label_first else ("path", "label")
        return f"{' and '.join(order)} split at the {self.separator}"


@dataclass(frozen=True)
class Listed:
    """The images of a list.

    Attributes:
        entries: number of the line, file, and label where there is one.
        wrong: number, content and fault of each line that names no image.
        skipped: how many lines are no rows, by reason.
        expected: what is said of images that are missing: it names the separator.
    """

    entries: list[Entry]
    wrong: list[tuple[int, str, str]]
    skipped: dict[str, int]
    expected: str


@dataclass
class _List:
    """Lines of a list, and the folder that their paths are in."""

    root: Path
    lines: list[tuple[int, str]]
    has_header: bool = False
    label_first: bool | None = None

    def sample(self) -> list[str]:
        """Some lines, spread over all."""
        step = max(1, len(self.lines) // SAMPLED)
        return [line for _, line in self.lines[::step]]

    def place(self, name: str) -> Path:
        """The file that a path of the list names; one with backslashes may have been written by Windows."""
        path = Path(os.path.normpath(self.root / name))
        if "\\" in name and not os.path.isfile(path):
            return Path(os.path.normpath(self.root / name.replace("\\", "/")))
        return path

    def is_there(self, name: str) -> bool:
        """Whether a path of the list names a file."""
        return bool(name) and "\0" not in name and os.path.isfile(self.place(name))


def read_list(request: Request) -> Listed:
    """Images of a list of `path label` lines; paths are relative to `image_root`, or to the folder of the list.

    The separator is a tab where every line has one, or else the one of SEPARATORS, in either order of path and label, by which
    the most lines name files that are there; where none does, the first that fits every line.

    Raises:
        DataError: when the list cannot be read, or it cannot be told how its lines are written.
    """
    if is_image_file(request.path) and request.path.is_file():
        raise DataError(f"{request.path}: is an image; expected a list of images, one `path label` a line")
    root = request.spec.image_root
    folder = require_folder(expanded(root)) if root is not None else request.path.parent
    listed = _List(Path(os.path.abspath(folder)), numbered_lines(request.path, request.spec.encoding))
    _take_header(listed, request)
    style = _style(listed, request)
    entries: list[Entry] = []
    wrong: list[tuple[int, str, str]] = []
    for number, line in listed.lines:
        pair = _pair(line, style, listed, request)
        if pair is None:
            wrong.append((number, line, _fault_of(line, style)))
            continue
        path, label = pair
        file = listed.place(path)
        if not file.is_relative_to(listed.root) or _DRIVE.match(path):
            wrong.append((number, line, _fault_of_place(path, listed)))
        elif request.labelled and not os.path.isfile(file) and (other := _other_style(line, style, listed)):
            wrong.append((number, line, f"not {style}, as most lines are, but {other}"))
        else:
            entries.append((number, file, label))
    elsewhere = "" if root is not None else ", or in the folder that image_root names"
    expected = f"expected image files in {listed.root}{elsewhere} (lines are {style})"
    return Listed(entries, wrong, {HEADER: 1} if listed.has_header else {}, expected)


def _take_header(listed: _List, request: Request) -> None:
    """Take the first line away when it names the columns."""
    if not listed.lines:
        return
    first = listed.lines[0][1]
    written = [word.strip("\"'") for word in re.split(r"[\t,;]|\s+", first.strip()) if word]
    words = [word.lower() for word in written]
    labels = LABEL_NAMES | {str(request.spec.label_column).lower()}
    is_pair = len(words) == 2 and {word in PATH_NAMES for word in words} == {word in labels for word in words} == {True, False}  # noqa: PLR2004
    is_alone = len(words) == 1 and words[0] in PATH_NAMES and not request.labelled
    if (is_pair or is_alone) and not any(map(listed.is_there, (first, *written))) and len(listed.lines) > 1:
        listed.has_header, listed.lines = True, listed.lines[1:]
        listed.label_first = words[0] not in PATH_NAMES if is_pair else None


def _style(listed: _List, request: Request) -> Style:
    """How the lines are written.

    Raises:
        DataError: when several ways name files that are there but not the same, or none fits the lines.
    """
    sample = listed.sample()
    styles = [Style(separator, label_first) for label_first in (False, True) for separator in SEPARATORS]
    if listed.label_first is not None:
        styles = [style for style in styles if style.label_first == listed.label_first]
    if not request.labelled:
        styles.insert(0, Style(None))
    split = {style: [_split(line, style) for line in sample] for style in styles}
    there = {style: [pair is not None and listed.is_there(pair[0]) for pair in pairs] for style, pairs in split.items()}
    most = max(sum(found) for found in there.values())
    if most:
        best = [style for style in styles if sum(there[style]) == most]
        chosen = best[0]
        rival = next((one for one in best if _read(split[one], there[one]) != _read(split[chosen], there[chosen])), None)
        if rival is not None and chosen.separator is not None:
            raise DataError(
                f"{request.path}: its lines can be read as {chosen} and as {rival}, and both name files that are there; write "
                "a tab between path and label, or quotes around a path"
            )
        return chosen
    fitting = [style for style in styles if all(split[style])]
    by_ending = [style for style in fitting if all(_is_named_as_image(pair[0]) for pair in split[style] if pair is not None)]
    if by_ending or fitting:
        return (by_ending or fitting)[0]
    raise DataError(f"{request.path}: {_no_style(listed, request)}")


def _read(pairs: Sequence[tuple[str, str | None] | None], there: Sequence[bool]) -> list[tuple[str, str | None] | None]:
    return [pair for pair, is_there in zip(pairs, there, strict=True) if is_there]


def _no_style(listed: _List, request: Request) -> str:
    """What is wrong with a list whose lines no separator fits."""
    total = len(listed.lines)
    seen = [f"{name} in {count} of {total}{fields}" for name, count, fields in _separators_seen(listed) if count]
    lines = join_limited(
        f"line {number} ({line[:60]!r})" for number, line in listed.lines if not line.strip() or not _any_pair(line)
    )
    differing = f"; {lines}" if lines else ""
    return (
        f"expected a path and a label in every line, with one separator; found {', '.join(seen) or 'no separator'}{differing}; "
        "write a tab between path and label"
        + ("" if request.spec.image_root is not None else ", and set image_root when the images are in another folder")
    )


def _separators_seen(listed: _List) -> Iterator[tuple[str, int, str]]:
    """Each separator, how many lines have it, and how many fields it makes of all of them."""
    for name, character in {**_CHARACTERS, "blank": " "}.items():
        counts = {line.strip().count(character) + 1 for _, line in listed.lines}
        fields = f" ({counts.pop()} fields)" if len(counts) == 1 else ""
        yield name, sum(character in line.strip() for _, line in listed.lines), fields


def _any_pair(line: str) -> bool:
    return any(_split(line, Style(separator)) for separator in SEPARATORS)


def _pair(line: str, style: Style, listed: _List, request: Request) -> tuple[str, str | None] | None:
    if not request.labelled and listed.is_there(line.strip()):
        return line.strip(), None
    pair = _split(line, style)
    if request.labelled or (pair is not None and listed.is_there(pair[0])):
        return pair
    other = _other_style(line, style, listed)  # lines with and without a label may be mixed
    return _split(line, other) if other is not None else pair or _split(line, Style(None))


def _other_style(line: str, style: Style, listed: _List) -> Style | None:
    """Another way to read a line, by which it names a file that is there."""
    others = (Style(separator, label_first) for label_first in (False, True) for separator in SEPARATORS)
    pairs = ((other, _split(line, other)) for other in others if other != style)
    return next((other for other, pair in pairs if pair is not None and listed.is_there(pair[0])), None)


def _fault_of_place(path: str, listed: _List) -> str:
    if _DRIVE.match(path):
        return (
            f"is a path on a drive of Windows; write paths that begin in {listed.root}, or in the folder that image_root names"
        )
    return f"leads out of {listed.root}; set image_root to the folder that holds the images"


def _fault_of(line: str, style: Style) -> str:
    character = _CHARACTERS.get(style.separator or "")
    count = line.count(character) + 1 if character else len(line.split())
    return f"{count} field(s), not {style}"


def _split(line: str, style: Style) -> tuple[str, str | None] | None:
    """Path and label of a line; None when it is not written so."""
    line = line.strip()
    if style.separator is None:
        return (_unquoted(line), None) if line else None
    character = _CHARACTERS.get(style.separator)
    fields = _fields(line, character) if character else _halves(line, style.separator)
    if len(fields) != 2 or not all(fields) or any("\t" in field for field in fields):  # noqa: PLR2004
        return None
    path, label = reversed(fields) if style.label_first else fields
    return path, label


def _fields(line: str, character: str) -> list[str]:
    if '"' not in line:
        return [_unquoted(part.strip()) for part in line.split(character)]
    try:
        return [part.strip() for part in next(csv.reader([line], delimiter=character, skipinitialspace=True, strict=True))]
    except csv.Error:
        return [_unquoted(part.strip()) for part in line.split(character)]


def _halves(line: str, separator: str) -> list[str]:
    quoted = _QUOTED_FIRST.fullmatch(line) or _QUOTED_LAST.fullmatch(line)
    if quoted:
        return [_unquoted(quoted["first"]), _unquoted(quoted["second"])]
    return line.rsplit(maxsplit=1) if separator == "last blank" else line.split(maxsplit=1)


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]  # noqa: PLR2004
    return text[1:-1] if is_quoted else text


def _is_named_as_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in ENDINGS
