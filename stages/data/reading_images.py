"""Rows of image folders, image lists and scikit-learn's digits; nothing is decoded. Must not import Paddle or Prefect."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hubflow.schemas.errors import bounded
from hubflow.stages.data.reading_chunks import Chunk, Malformed, pieces
from hubflow.stages.data.reading_source import Request, numbered_lines, read_label_list, require_folder
from hubflow.stages.errors import DataError
from hubflow.stages.hub.parallel import SMALL, in_parallel
from hubflow.stages.store import file_sha256

HASHING_THREADS = 4
HASHED_AHEAD = 2 * HASHING_THREADS * SMALL
NOT_IMAGES = frozenset({"Thumbs.db", "desktop.ini"})  # left in folders by file managers
DIGITS_MAX = 16
Entry = tuple[int, Path, str | None]
"""An image's number, place, and label if it has one."""


def read_image_folder(request: Request) -> pd.DataFrame:
    """Images of a folder with one folder per class, sorted; hidden files are left out, folders in a class folder are not.

    Raises:
        DataError: when there are no class folders, or one of train is empty.
    """
    return _rows(request, _folder_entries(request))


def _folder_entries(request: Request) -> list[Entry]:
    root = require_folder(request.path)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes and not request.labelled:
        return [(number, file, None) for number, file in enumerate(_files(root), start=1)]
    if not classes:
        raise DataError(f"{root}: holds no class folders; expected one folder of images per class, named as its label")
    files = {name: _files(root / name) for name in classes}
    empty = [name for name, found in files.items() if not found]
    if empty and request.split == "train" and request.labelled:
        raise DataError(f"{root}: class folder(s) without images: {bounded(map(repr, empty))}; remove or fill them")
    pairs = [(file, name) for name in classes for file in files[name]]
    return [(number, file, label) for number, (file, label) in enumerate(pairs, start=1)]


def read_image_list(request: Request) -> pd.DataFrame:
    """Images of a list of `path label` lines: paths relative to the list's folder, split at the last white space.

    Labels that are integers number the labels of `label_list`, when there is one.

    Raises:
        DataError: for a line without a label, a path that leads out of the list's folder, or images that are missing.
    """
    entries, wrong = _list_entries(request)
    if wrong:
        lines = bounded(f"line {number} ({line[:60]!r})" for number, line in wrong)
        folder = Path(os.path.abspath(request.path)).parent
        raise DataError(
            f"{request.path}: expected `path label` with a path inside {folder} in every line; {len(wrong)} line(s) differ: "
            f"{lines}; correct them, or put the list into the folder that holds the images"
        )
    return _rows(request, _named_labels(request, entries))


def _list_entries(request: Request) -> tuple[list[Entry], list[tuple[int, str]]]:
    """Entries of a list, and the lines that are none."""
    folder = Path(os.path.abspath(request.path)).parent
    entries: list[Entry] = []
    wrong = []
    for number, line in numbered_lines(request.path, request.spec.encoding):
        name, label = _path_and_label(request, folder, line)
        file = Path(os.path.normpath(folder / name))
        if not name or not file.is_relative_to(folder):
            wrong.append((number, line))
        else:
            entries.append((number, file, label))
    return entries, wrong


def image_chunks(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Images of a folder or a list as chunks, for prediction: one that is missing, or a line that is no path, is malformed.

    The places of all images are in memory; the files are read a chunk at a time, to hash them.

    Raises:
        DataError: when the folder or list cannot be read, or names no image.
    """
    is_list = request.spec.format == "image_list"
    entries, wrong = _list_entries(request) if is_list else (_folder_entries(request), [])
    _require_some(request, [*entries, *wrong])
    lines: list[tuple[int, Entry | str]] = sorted(
        [*((entry[0], entry) for entry in _named_labels(request, entries)), *wrong], key=lambda line: line[0]
    )
    has_labels = any(label is not None for _, _, label in entries)
    for piece in pieces(len(lines), chunk_rows):
        part = [entry for _, entry in lines[piece] if not isinstance(entry, str)]
        hashes = _hashes(part)
        malformed = Malformed()
        for number, entry in lines[piece]:
            if isinstance(entry, str):
                malformed.add(number, entry, "path", f"line {number} ({entry[:60]!r})", "expected a path inside the folder")
        for (number, file, _), found in zip(part, hashes, strict=True):
            if found is None:
                malformed.add(number, str(file), "file", f"row {number} ({file})", "missing or unreadable")
        kept = [(entry, found) for entry, found in zip(part, hashes, strict=True) if found is not None]
        yield Chunk(_frame([entry for entry, _ in kept], [found for _, found in kept], has_labels), malformed.frame())


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


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".") and name not in NOT_IMAGES]
    return sorted(found)


def _path_and_label(request: Request, folder: Path, line: str) -> tuple[str, str | None]:
    line = line.strip()
    if not request.labelled and (folder / line).is_file():
        return line, None
    name, *label = line.rsplit(maxsplit=1)
    return (name, label[0]) if label else ("" if request.labelled else name, None)


def _named_labels(request: Request, entries: list[Entry]) -> list[Entry]:
    if request.spec.label_list is None:
        return entries
    labels = read_label_list(Path(request.spec.label_list).expanduser(), request.spec.encoding)
    if all(label.isdecimal() for label in labels):
        return entries  # the names themselves are numbers
    names = {str(position): label for position, label in enumerate(labels)}
    return [(number, file, names.get(label, label) if label else label) for number, file, label in entries]


def _rows(request: Request, entries: Sequence[Entry]) -> pd.DataFrame:
    _require_some(request, entries)
    hashes = _hashes(entries)
    missing = [f"row {number} ({file})" for (number, file, _), found in zip(entries, hashes, strict=True) if found is None]
    if missing:
        raise DataError(
            f"{request.path}: {len(missing)} of {len(entries)} image(s) missing or unreadable: {bounded(missing)}; "
            "correct the paths or remove the rows"
        )
    return _frame(entries, hashes, request.labelled or any(label is not None for _, _, label in entries))


def _require_some(request: Request, entries: Sequence[object]) -> None:
    if not entries:
        raise DataError(f"{request.path}: holds no images; expected at least one")


def _frame(entries: Sequence[Entry], hashes: Sequence[Any], has_labels: bool) -> pd.DataFrame:
    rows = pd.DataFrame({"row": pd.Series([number for number, _, _ in entries], dtype="int64")})
    rows["path"] = pd.Series([os.path.abspath(file) for _, file, _ in entries], dtype="str")
    if has_labels:
        rows["label"] = pd.Series([label for _, _, label in entries], dtype="str")
    rows["sha256"] = pd.Series(list(hashes), dtype="str")
    return rows


def _hashes(entries: Sequence[Entry]) -> list[str | None]:
    """SHA-256 of each image, None where it is missing or unreadable."""
    return list(in_parallel(_hash, entries, HASHING_THREADS, ahead=HASHED_AHEAD, at_once=SMALL))


def _hash(entry: Entry) -> str | None:
    try:
        return file_sha256(entry[1])
    except OSError:
        return None


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.rint(pixels * (255 / DIGITS_MAX)).astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()
