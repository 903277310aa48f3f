"""What a user names in the settings as `package.module:name`, imported."""

import dis
import functools
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import re
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from hubflow.errors import SettingsError, join_limited

PUBLIC_HOOKS = ("hubflow.schemas.rows", "hubflow.tasks")
"""Modules of hubflow's own that settings may name, whatever `trust.import_packages` says."""
_searched_last: list[str] = []


def search_folder_last(folder: Path) -> None:
    """Let names be looked for in a folder too, where they are not installed.

    The folder comes onto Python's path when settings name something in it, and not before: a file in it that has the name of
    a library that is not installed would be imported by libraries that look whether it is there.
    """
    _searched_last[:] = [str(folder)]


def import_object(path: str, setting: str, expected: str) -> object:
    """Import what `path`, `package.module:name`, names.

    Args:
        path: where to import it from.
        setting: that has the path, named in errors.
        expected: what it should be, for errors.

    Returns:
        What is found, which is not called.

    Raises:
        SettingsError: when the module is not one that settings may name, cannot be imported, or has nothing of this name.
    """
    module_name, _, name = path.partition(":")
    where = f"{setting}: {path!r}"
    _require_allowed(module_name, where, expected)
    try:
        _put_folder_on_path(module_name)
        module = importlib.import_module(module_name)
    except BaseException as error:  # whatever the module raises as it is imported, SystemExit too
        if _is_of_signal(error):
            raise
        raise SettingsError(f"{where}: {module_name} cannot be imported ({_shown(error)}); expected {expected}") from error
    try:
        steps = [module]
        for part in name.split("."):
            steps.append(getattr(steps[-1], part))
    except BaseException as error:  # a module, or a class, may compute its attributes
        if _is_of_signal(error):
            raise
        why = "" if isinstance(error, AttributeError) else f" ({_shown(error)})"
        raise SettingsError(f"{where}: {module_name} has no {name!r}{why}; expected {expected}") from error
    for step in steps[1:]:
        if callable(step) or isinstance(step, ModuleType):
            _require_allowed(_module_of(step), where, expected)
    return steps[-1]


def source_sha256(cls: type) -> str:
    """What tells one version of a user's class from another: the source of the modules that it and its bases are from.

    Modules of hubflow and of Python itself are left out; a class whose source is not there has the hash of nothing.
    """
    skipped = {"hubflow", *sys.stdlib_module_names}
    try:
        modules = dict.fromkeys(
            sys.modules[one.__module__] for one in cls.__mro__ if one.__module__.split(".")[0] not in skipped
        )
        source = "".join([*map(inspect.getsource, modules), cls.__qualname__])
    except (OSError, TypeError, KeyError):
        source = ""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def _require_allowed(module_name: str, where: str, expected: str) -> None:
    """Refuse a module that settings may not name."""
    from hubflow.schemas.library import library_settings  # and Pydantic, for which `hubflow --help` need not wait

    parts = module_name.split(".")
    if "__main__" in parts[1:]:
        raise SettingsError(f"{where}: importing {module_name} runs a program; expected {expected}")
    allowed = library_settings().trust.import_packages
    if parts[0] in sys.stdlib_module_names:
        raise SettingsError(f"{where}: {module_name} is a module of Python itself; expected {expected}")
    if allowed is None or any(_is_within(module_name, package) for package in (*allowed, *PUBLIC_HOOKS)):
        return
    raise SettingsError(
        f"{where}: {module_name} is in none of the packages that settings may name on this machine, trust.import_packages: "
        f"{join_limited(allowed) or 'none'}; leave the setting out, or have the owner of the machine add {parts[0]} "
        "(HUBFLOW_TRUST_IMPORT_PACKAGES)"
    )


def _is_within(module_name: str, package: str) -> bool:
    return module_name == package or module_name.startswith(f"{package}.")


def _module_of(found: Any) -> str:
    """The module that something is, or is defined in."""
    if isinstance(found, functools.partial):
        return _module_of(found.func)
    module = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    return module if isinstance(module, str) else type(found).__module__


def _put_folder_on_path(module_name: str) -> None:
    """Have Python look in the folder of `search_folder_last` for a module that is nowhere else."""
    top = module_name.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        sys.path += [folder for folder in _searched_last if folder not in sys.path]


def _is_of_signal(error: BaseException) -> bool:
    """Whether a signal interrupted the import: Ctrl-C, or what a handler of a signal raised."""
    if isinstance(error, Exception):
        return False
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    if any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__)):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, KeyboardInterrupt):
        return False
    instruction = last.tb_frame.f_code.co_code[last.tb_lasti]  # where no statement raised it, Python's own handler did
    return not dis.opname[instruction].startswith("RAISE")


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # of a class of the user's own
        return type(error).__name__


def their_error(error: BaseException, of: Any) -> str:
    """An error that a user's own code raised, as a person looks for it: what it is, and the line of theirs that it is from.

    Args:
        error: that was raised while `of` ran.
        of: the user's function or class; the last line of its file that was on the way is named.
    """
    frames = [(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    try:
        message = str(error)
    except Exception:  # of a class of the user's own
        message = "?"
    return f"{type(error).__name__}: {message}{_line_of(frames, of)}"


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
