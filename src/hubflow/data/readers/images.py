"""Rows of image folders, image lists and scikit-learn's digits; nothing is decoded."""

import csv
import hashlib
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hubflow.data.readers.chunks import Chunk, Malformed, escaped, pieces
from hubflow.data.readers.source import Request, expanded, numbered_lines, read_label_list, require_folder
from hubflow.errors import DataError, join_limited
from hubflow.modules.images import ENDINGS, is_image_file
from hubflow.runtime.threads import SMALL, thread_map
from hubflow.schemas.labels import clean_label
from hubflow.schemas.library import library_settings
from hubflow.schemas.references import Split
from hubflow.store.store import file_sha256

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
        DataError: when the list cannot be read, or the form of its lines is unknown.
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


HASHING_THREADS = 4
HASHED_AHEAD = 2 * HASHING_THREADS * SMALL
DIGITS_MAX = 16
SYSTEM_NAMES = frozenset(
    {"Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "$RECYCLE.BIN", "@eaDir", "Icon\r", "lost+found"}
)
"""What file managers and systems leave in folders; names that begin with a dot are hidden."""
HIDDEN = "hidden or system file"
OTHER_TYPE = "other file type"
BROKEN_LINK = "broken link"
READ_ALREADY = "link to a folder that is read already"
UNREADABLE = "unreadable folder"
NOT_REGULAR = "not a regular file"
BESIDE = "image beside the class folders"
BESIDE_SPLITS = "image beside the folders of splits"
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev": "dev",
    "test": "test",
    "testing": "test",
}
"""What folders of splits are called, in lower case."""
_SPLIT_WORD = re.compile(r"(?<![a-z])(training|train|validation|valid|val|dev|testing|test|eval)(?:set|data)?(?![a-z])")
REMEDY = "correct the paths, make the files readable, or remove the rows"
MAX_SKIPPED_EXAMPLES = 5
"""An image's number, place, and label if it has one."""
Identity = tuple[int, int]
"""What the system knows a folder by: device and inode."""


@dataclass
class Found:
    """What lies in a source of images.

    Attributes:
        entries: the images, in order.
        wrong: number, content and fault of each line that names no image.
        skipped: how many files, folders or lines are no rows, by reason.
        first: the first of them that a person should know of, by reason.
        expected: what the error says of images that are missing.
    """

    entries: list[Entry] = field(default_factory=list)
    wrong: list[tuple[int, str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    expected: str = "expected image files that can be read"

    def skip(self, reason: str, path: Path) -> None:
        """Count a file or folder that is no row."""
        self.skipped[reason] += 1
        known = self.first.setdefault(reason, []) if reason != HIDDEN else None
        if known is not None and len(known) < MAX_SKIPPED_EXAMPLES:
            known.append(escaped(f"{path} ({reason})"))

    @property
    def examples(self) -> list[str]:
        """The first few that a person should know of, of each reason one before a second."""
        turns = itertools.zip_longest(*self.first.values())
        return [one for turn in turns for one in turn if one is not None][:MAX_SKIPPED_EXAMPLES]


def image_chunks(request: Request, chunk_rows: int, files: Sequence[Path] = ()) -> Iterator[Chunk]:
    """Images of a folder, of a list, or of `files`, as chunks: one that cannot be read, or a line that has none, is malformed.

    The places of all images are in memory; the files are read a chunk at a time, to hash them. Images of a folder are in the
    order of their paths, compared name by name; those of a list in the order of its lines.

    Raises:
        DataError: when the folder or list cannot be read, its parts are ambiguous, or it names no image.
    """
    found = _found(request, files)
    if not found.entries and not found.wrong:
        others = ", ".join(f"{reason} {count}" for reason, count in found.skipped.items())
        more = f" (skipped: {others}; first {found.examples[0]})" if found.examples else ""
        raise DataError(f"{request.path}: holds no images{more}; expected at least one")
    lines: list[tuple[int, Entry | tuple[int, str, str]]] = sorted(
        [*((entry[0], entry) for entry in _named_labels(request, found.entries)), *((one[0], one) for one in found.wrong)],
        key=lambda line: line[0],
    )
    has_labels = request.labelled or any(label is not None for _, _, label in found.entries)
    skipped, examples = dict(found.skipped), tuple(found.examples)
    for piece in pieces(len(lines), chunk_rows):
        part = [entry for _, entry in lines[piece] if isinstance(entry[1], Path)]
        malformed = Malformed()
        for _, entry in lines[piece]:
            if isinstance(entry[1], str):
                number, line, fault = entry
                malformed.add(number, line, "path", f"line {number} ({line[:60]!r}: {fault})", "expected `path label` lines")
        kept: list[tuple[Entry, str]] = []
        for entry, sha256 in zip(part, _hashes(part), strict=True):
            if isinstance(sha256, OSError):
                problem = f"row {entry[0]} ({entry[1]}: {sha256.strerror})"
                malformed.add(entry[0], str(entry[1]), "file", problem, found.expected, REMEDY)
            else:
                kept.append((entry, sha256))
        rows = _frame([entry for entry, _ in kept], [sha256 for _, sha256 in kept], has_labels)
        yield Chunk(rows, malformed.frame(), skipped=skipped, skipped_examples=examples)
        skipped, examples = {}, ()


def split_sources(given: Mapping[Split, Path]) -> dict[Split, Path]:
    """The folder of each split of format image_folder, where a given one holds the folders of the splits.

    Raises:
        DataError: when folders may be splits or classes, or a split is missing.
    """
    found = {split: split_folders(root) for split, root in given.items()}
    sources: dict[Split, Path] = {}
    for split, root in given.items():
        if found[split] and split not in found[split]:
            raise DataError(
                f"{root}: holds the splits {join_limited(_names(found[split]))}, none of them for {split}; set `{split}` to a "
                "folder"
            )
        sources[split] = found[split].get(split, root)
    for split, folder in found.get("train", {}).items():
        sources.setdefault(split, folder)
    return sources


def split_folders(root: Path) -> dict[Split, Path]:
    """Folders of splits in `root`: none when its folders are classes.

    Raises:
        DataError: when that is ambiguous, or a split has no class folders.
    """
    folders = _folders(root)
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    splits = {SPLIT_NAMES[folder.name.lower()]: folder for folder in named}
    others = [folder for folder in folders if folder not in named]
    holding = [folder for folder in named if _folders(folder)]
    if not named or (len(named) == 1 and not holding):
        return {}
    if others:
        inner = {folder.name for split in holding for folder in _folders(split)}
        is_alike = any(inner & {folder.name for folder in _folders(other)} or not _has_images(other) for other in others)
        if len(splits) == 1 and not is_alike:
            return {}  # a class of that name, such as `train` beside `car`
        raise DataError(
            f"{root}: holds folders named as splits ({join_limited(folder.name for folder in named)}) beside others "
            f"({join_limited(folder.name for folder in others)}), so splits and classes are ambiguous; set "
            "`train`, `dev` and `test` to the folder of each split, or move the others away"
        )
    if len(splits) < len(named):
        raise DataError(
            f"{root}: holds several folders of one split: {join_limited(folder.name for folder in named)}; set `train`, `dev` "
            "and `test` to the folder of each split"
        )
    flat = [folder for folder in named if folder not in holding]
    if flat:
        raise DataError(
            f"{root}: holds splits ({join_limited(folder.name for folder in named)}), but no class folders in "
            f"{join_limited(flat)}; set `train`, `dev` and `test` to the folders of those that have some"
        )
    return splits


def beside_splits(root: Path) -> Found:
    """What lies beside the folders of splits, all of it skipped."""
    found = Found()
    for entry in _listing(root, found):
        if not _is_folder(entry):
            _skip_beside(entry, found, BESIDE_SPLITS)
    return found


def _found(request: Request, files: Sequence[Path]) -> Found:
    if files:
        return _file_entries(files)
    if request.spec.format == "image_folder":
        return _folder_entries(request)
    listed: Listed = read_list(request)
    return Found(listed.entries, listed.wrong, Counter(listed.skipped), expected=listed.expected)


def _file_entries(files: Sequence[Path]) -> Found:
    """Images that are named one by one; what else was named with them is counted."""
    found = Found()
    for file in files:
        if is_image_file(file) and file.name not in SYSTEM_NAMES:
            found.entries.append((len(found.entries) + 1, file, None))
        else:
            found.skip(HIDDEN if _is_hidden(file.name) else OTHER_TYPE, file)
    return found


def _folder_entries(request: Request) -> Found:
    root = require_folder(request.path)
    if not request.labelled:
        return _all_entries(root)
    folders = _folders(root)
    _require_classes(root, folders, request.split)
    found, above, counts = Found(), _identities(root), Counter[str]()
    for one in _listing(root, found):
        if not _is_folder(one):
            _skip_beside(one, found)
            continue
        for file in _walk(one, above, found):
            found.entries.append((len(found.entries) + 1, file, one.name))
            counts[one.name] += 1
    empty = [folder.name for folder in folders if not counts[folder.name]]
    if empty and request.split == "train":
        raise DataError(f"{root}: class folder(s) without images: {join_limited(map(repr, empty))}; remove or fill them")
    return found


def _require_classes(root: Path, folders: Sequence[Path], split: Split) -> None:
    """Refuse a folder whose folders are no classes.

    Raises:
        DataError: saying what they look like.
    """
    if not folders:
        raise DataError(f"{root}: holds no class folders; expected one folder of images per class, named as its label")
    splits = split_folders(root)
    if splits:
        raise DataError(
            f"{root}: holds the splits {join_limited(_names(splits))}, not class folders; expected the folder of one of them"
        )
    worded = [_SPLIT_WORD.search(folder.name.lower()) for folder in folders]
    words = {SPLIT_NAMES.get(word[1], "dev") for word in worded if word}
    if all(worded) and len(words) > 1:
        raise DataError(
            f"{root}: its folders {join_limited(folder.name for folder in folders)} are named as splits, not as classes; set "
            "`train`, `dev` and `test` to the folder of each split that holds the class folders"
        )
    inner = {folder: [one.name for one in _folders(folder)] for folder in folders}
    mixed = [folder for folder, names in inner.items() if len(_splits_named(names)) > 1]
    if mixed:
        raise DataError(
            f"{root}: the folders {join_limited(folder.name for folder in mixed)} hold splits "
            f"({join_limited(inner[mixed[0]])}), which would be mixed; put the class folders into one folder for each split, "
            "and set `train`, `dev` and `test` to these"
        )
    only = folders[0]
    if split == "train" and len(folders) == 1 and len(inner[only]) > 1 and not any(map(_is_image, _listing(only, Found()))):
        raise DataError(
            f"{root}: its only folder {only.name!r} holds the folders {join_limited(inner[only])}; if these are the classes, "
            f"set the path to {only}"
        )


def _splits_named(names: Iterable[str]) -> set[Split]:
    return {SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}


def _all_entries(root: Path) -> Found:
    """Every image below a folder, for prediction: the name of its class folder is its label, if it lies in one."""
    splits: Mapping[Split, Path] = {}
    with suppress(DataError):  # they tell where the labels are, which prediction does not need
        splits = split_folders(root)
    found, above, level = Found(), _identities(root), 1 if splits else 0
    for one in _listing(root, found):
        for file in _walk(one, above, found):
            parts = file.relative_to(root).parts
            found.entries.append((len(found.entries) + 1, file, parts[level] if len(parts) > level + 1 else None))
    return found


def _walk(top: "os.DirEntry[str]", above: Set[Identity], found: Found) -> Iterator[Path]:
    """Images at or below an entry of a folder, in the order of their paths.

    Links are followed, to each folder once and to none of those above, so that loops end. A file that is named as an image but
    is missing, or is no regular file, is one of them: reading it tells what is wrong.
    """
    entered, waiting = set(above), [top]
    while waiting:
        entry = waiting.pop()
        path = Path(entry.path)
        if _is_folder(entry):
            identity = _identity(path)
            if identity in entered:
                found.skip(READ_ALREADY, path)
            else:
                entered.add(identity)
                waiting += reversed(_listing(path, found))
        elif _is_image(entry):
            yield path
        else:
            found.skip(_why_no_image(path), path)


def _listing(folder: Path, found: Found) -> list["os.DirEntry[str]"]:
    """What a folder holds, by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        found.skip(UNREADABLE, folder)
        return []
    for entry in listed:
        if _is_hidden(entry.name):
            found.skip(HIDDEN, Path(entry.path))
    return [entry for entry in listed if not _is_hidden(entry.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_NAMES


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or where nobody may look
        return False


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return not _is_folder(entry) and is_image_file(Path(entry.path))


def _why_no_image(path: Path) -> str:
    return OTHER_TYPE if path.is_file() else NOT_REGULAR if os.path.exists(path) else BROKEN_LINK


def _skip_beside(entry: "os.DirEntry[str]", found: Found, reason: str = BESIDE) -> None:
    path = Path(entry.path)
    found.skip(reason if _is_image(entry) else _why_no_image(path), path)


def _folders(root: Path) -> list[Path]:
    return [Path(entry.path) for entry in _listing(root, Found()) if _is_folder(entry)]


def _has_images(folder: Path) -> bool:
    return any(True for entry in _listing(folder, Found()) for _ in _walk(entry, _identities(folder), Found()))


def _identity(path: Path) -> Identity:
    info = os.stat(path)
    return info.st_dev, info.st_ino


def _identities(root: Path) -> set[Identity]:
    """A folder and those above it, as the system knows them."""
    real = Path(os.path.realpath(root))
    return {_identity(folder) for folder in (real, *real.parents)}


def _names(splits: Mapping[Split, Path]) -> list[str]:
    return [folder.name for folder in splits.values()]


def read_digits(request: Request) -> pd.DataFrame:
    """Scikit-learn's 8x8 handwritten digits of the classes `digits`: PNG bytes in the column `image`, no files."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    chosen = np.flatnonzero(np.isin(targets, request.spec.digits))
    if not len(chosen):
        raise DataError("scikit-learn digits: `digits` names no class; give some of 0 to 9")
    pictures = [_png(images[index].reshape(8, 8)) for index in chosen]
    rows = pd.DataFrame({"row": chosen.astype(np.int64) + 1})
    rows["path"] = pd.Series([f"digits/{index}" for index in chosen], dtype="str")
    rows["label"] = pd.Series([str(target) for target in targets[chosen]], dtype="str")
    rows["sha256"] = pd.Series([hashlib.sha256(picture).hexdigest() for picture in pictures], dtype="str")
    rows["image"] = pd.Series(pictures, dtype=object)
    return rows


def _named_labels(request: Request, entries: list[Entry]) -> list[Entry]:
    if request.spec.label_list is None or request.spec.format != "image_list":
        return entries
    written = read_label_list(expanded(request.spec.label_list), request.spec.encoding)
    labels = read_label_list(expanded(request.spec.label_list), request.spec.encoding, numbered=True)
    if labels == written and all(label.isdecimal() for label in labels):
        return entries  # the names themselves are numbers
    names = {str(position): label for position, label in enumerate(labels)}
    return [(number, file, names.get(clean_label(label), label) if label else label) for number, file, label in entries]


def _frame(entries: Sequence[Entry], hashes: Sequence[Any], has_labels: bool) -> pd.DataFrame:
    rows = pd.DataFrame({"row": pd.Series([number for number, _, _ in entries], dtype="int64")})
    rows["path"] = pd.Series([os.path.abspath(file) for _, file, _ in entries], dtype="str")
    if has_labels:
        rows["label"] = pd.Series([label for _, _, label in entries], dtype="str")
    rows["sha256"] = pd.Series(list(hashes), dtype="str")
    return rows


def _hashes(entries: Sequence[Entry]) -> list[str | OSError]:
    """SHA-256 of each image, or why there is none."""
    max_bytes = library_settings().limits.max_image_bytes
    return list(thread_map(lambda entry: _hash(entry, max_bytes), entries, HASHING_THREADS, ahead=HASHED_AHEAD, at_once=SMALL))


def _hash(entry: Entry, max_bytes: int) -> str | OSError:
    try:
        str(entry[1]).encode()
        return file_sha256(entry[1], max_bytes, "limits.max_image_bytes")
    except OSError as error:
        return error
    except UnicodeEncodeError:
        return OSError(None, "its name is not UTF-8")


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.rint(pixels * (255 / DIGITS_MAX)).astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()
