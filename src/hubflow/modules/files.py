"""The files of a module folder, which may come from a stranger: its own, of bounded size. Must not import Paddle or Prefect."""

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from hubflow.errors import ModuleError
from hubflow.files import read_file
from hubflow.schemas.library import library_settings

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def own_file(path: Path) -> Path:
    """A file of a module folder, once it is known to be one of its own.

    Its links may lead to other files of the folder, to the blobs of a Hugging Face cache that the folder is in, and into the
    folders of `trust.linked_folders`.

    Args:
        path: `folder / name`.

    Returns:
        `path`.

    Raises:
        ModuleError: when a link leads elsewhere.
    """
    folder, target = path.parent, Path(os.path.realpath(path))
    allowed = [folder, *map(Path, library_settings().trust.linked_folders)]
    if folder.parent.name == _SNAPSHOTS:
        allowed.append(folder.parent.parent / _BLOBS)
    if not any(target.is_relative_to(os.path.realpath(one)) for one in allowed):
        raise ModuleError(
            f"{path}: a link that leads out of the module's folder, to {target}; copy the file there, or name its folder in "
            "trust.linked_folders of hubflow's settings"
        )
    return path


def read_bounded(path: Path, limit: int, name: str) -> bytes:
    """The content of a file of a module folder.

    Args:
        path: the file.
        limit: most bytes.
        name: of the limit, for the message.

    Raises:
        ModuleError: when it is larger or no regular file, or as `own_file`.
    """
    try:
        return read_file(own_file(path), limit)
    except OSError as error:
        hint = f", {name}" if error.errno == errno.EFBIG else ""
        raise ModuleError(f"{path}: cannot be read ({error.strerror}{hint}); get the file again") from error


def parse_json(content: bytes, path: Path) -> Any:
    """The value of a JSON file in which no object has a name twice.

    Raises:
        ModuleError: when it is none, or nested too deep.
    """
    try:
        return json.loads(content, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        fault = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ModuleError(f"{path}: not readable as JSON ({fault}); get the file again") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The object of a JSON file of settings, such as config.json.

    Raises:
        ModuleError: when it is no such file, or larger than `limits.max_config_bytes`.
    """
    values = parse_json(read_bounded(path, library_settings().limits.max_config_bytes, "limits.max_config_bytes"), path)
    if not isinstance(values, dict):
        raise ModuleError(f"{path}: holds a {type(values).__name__}; expected an object with settings by name")
    return values


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice!r:.100} is there twice")
    return found
