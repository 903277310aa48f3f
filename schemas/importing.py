"""What a user names in the settings as `package.module:name`, imported. Must not import Paddle or Prefect."""

import importlib
import inspect
import linecache
import re
import traceback
from pathlib import Path
from typing import Any

from hubflow.schemas.errors import SettingsError


def imported(path: str, setting: str, expected: str) -> object:
    """What `path`, `package.module:name`, names.

    Args:
        path: where to import it from.
        setting: that has the path, named in errors.
        expected: what it should be, for errors.

    Raises:
        SettingsError: when the module cannot be imported, or has nothing of this name.
    """
    module_name, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:  # whatever the module raises as it is imported
        raise SettingsError(
            f"{setting}: {path!r}: {module_name} cannot be imported ({error!r}); expected {expected}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise SettingsError(f"{setting}: {path!r}: {module_name} has no {name!r}; expected {expected}")
        found = getattr(found, part)
    return found


def their_error(error: BaseException, of: Any) -> str:
    """An error that a user's own code raised, as a person looks for it: what it is, and the line of theirs that it is from.

    Args:
        error: that was raised while `of` ran.
        of: the user's function or class; the last line of its file that was on the way is named.
    """
    frames = [(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {error}{_line_of(frames, of)}"


def their_printed_error(text: str, of: Any) -> str:
    """As `their_error`, of an error of which only the printed traceback is left, after a first line that names it."""
    first, _, rest = text.partition("\n")
    frames = [(file, int(line), name) for file, line, name in re.findall(r'File "(.+?)", line (\d+), in (\S+)', rest)]
    return f"{first}{_line_of(frames, of)}"


def _line_of(frames: list[tuple[str, int, str]], of: Any) -> str:
    try:
        own = inspect.getsourcefile(inspect.unwrap(of))
    except TypeError:  # of what is not written in Python
        own = None
    theirs = [frame for frame in frames if own is not None and Path(frame[0]) == Path(own)]
    if not theirs:
        return ""
    file, line, name = theirs[-1]
    return f" ({file}, line {line}, in {name}: {linecache.getline(file, line).strip()})"
