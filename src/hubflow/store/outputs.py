"""Files that a user names and hubflow writes: where they may be, and what of theirs may be replaced.

Predictions, their quarantine and the history of a training are written to places of the user's choice, where other files may
be. Beside each output is a record, `.<name>.hubflow`, of the size and time of what hubflow wrote there: a file that is still
as recorded is hubflow's own and is replaced by the next run. Any other file is replaced only when the user says so.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hubflow.errors import SettingsError, StoreError
from hubflow.files import open_file
from hubflow.schemas.library import library_settings
from hubflow.store.manifest import LEFT_OVER_AFTER_SECONDS, MANIFEST, atomic_file, remove_leftovers, write_atomically

MAX_RECORD_BYTES = 65536
HEAD_BYTES = 4096
CLOCK_NS = 2_000_000_000  # some file systems keep times of two seconds


def require_in_output_root(path: Path, setting: str) -> Path:
    """Refuse a path to write to that leads out of `trust.output_root`, where the owner of the machine has set one.

    Args:
        path: absolute.
        setting: that has the path, named in the error.

    Returns:
        The path.

    Raises:
        SettingsError: when it leads elsewhere, by a link or `..` too.
    """
    root = library_settings().trust.output_root
    if root is not None:
        allowed, found = Path(os.path.realpath(Path(root).expanduser())), Path(os.path.realpath(path))
        if not found.is_relative_to(allowed):
            leads = "" if found == path else f", which leads to {found},"
            raise SettingsError(
                f"{setting}: {path}{leads} is outside of {allowed}, where this machine lets runs write (trust.output_root); "
                "choose a path in it"
            )
    return path


@dataclass(frozen=True)
class Output:
    """One file that the user named.

    Attributes:
        path: absolute.
        setting: that has the path, named in errors.
        overwrite: replace a file that hubflow did not write.
        remedy: how a user says so.
    """

    path: Path
    setting: str
    overwrite: bool = False
    remedy: str = "set overwrite: true"

    @classmethod
    def named(cls, value: str, setting: str, overwrite: bool = False, remedy: str = "set overwrite: true") -> "Output":
        """The output that a setting names.

        Raises:
            SettingsError: when it names a folder, or is outside of `trust.output_root`.
        """
        if value.endswith(("/", os.sep)):
            raise SettingsError(f"{setting}: {value!r} ends with a slash, as a folder; expected the path of a file")
        path = Path(value).expanduser().absolute()
        return cls(require_in_output_root(path, setting), setting, overwrite, remedy)

    @property
    def record(self) -> Path:
        """Where it is recorded what hubflow wrote."""
        return self.path.with_name(f".{self.path.name}.hubflow")

    def require_replaceable(self) -> None:
        """Refuse to write where something is that hubflow did not write.

        Raises:
            SettingsError: naming what is there, and what to do; or the path leads out of `trust.output_root`.
        """
        require_in_output_root(self.path, self.setting)
        for folder in self.path.parents:
            if _is_sealed(folder):
                raise SettingsError(
                    f"{self.setting}: {self.path} is in {folder}, a folder of hubflow's own whose files are listed in its "
                    f"{MANIFEST}; choose a path outside of it"
                )
        try:
            found = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise SettingsError(f"{self.setting}: {self.path} cannot be looked at ({error}); choose another path") from error
        if stat.S_ISLNK(found.st_mode):
            raise SettingsError(
                f"{self.setting}: {self.path} is a link to {os.readlink(self.path)}, and outputs are not written over links; "
                "name the file itself, or remove the link"
            )
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file, but a device, a pipe or a socket"
            raise SettingsError(f"{self.setting}: {self.path} is {kind}; expected the path of a file")
        if not (self.overwrite or self._own()):
            raise SettingsError(
                f"{self.setting}: {self.path} is there already, and no run of this user's wrote it, or it was changed since; "
                f"choose another path, remove the file, or {self.remedy}"
            )
        self._require_rights(found)

    def _require_rights(self, found: os.stat_result) -> None:
        """Refuse, before long work, what could not be replaced after it."""
        try:
            is_record = stat.S_ISREG(self.record.lstat().st_mode)
        except OSError:
            is_record = True  # none yet
        if not is_record:
            raise SettingsError(
                f"{self.setting}: {self.record} is no file; expected the record of what hubflow wrote there, or nothing: "
                "move it away"
            )
        folder = self.path.parent.stat()
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid, folder.st_uid):
            raise SettingsError(
                f"{self.setting}: {self.path} is another user's, in a folder where each user replaces files of their own alone "
                "(its sticky bit is set); choose another path"
            )

    def require_no_source(self, sources: Iterable[Path]) -> None:
        """Refuse to write over a file that is read, whatever names it has.

        Raises:
            SettingsError: naming both.
        """
        for source in sources:
            with suppress(OSError):
                if os.path.samefile(source, self.path):
                    raise SettingsError(f"{self.setting}: {self.path} is {source}, which is read; choose another path")

    @contextmanager
    def write(self, holds: Iterable[Path] = ()) -> Iterator[IO[bytes]]:
        """Write the file as a whole, and record it; see `atomic_file`.

        Raises:
            SettingsError: when something else has come there.
            StoreError: when it cannot be written; what was there is unharmed.
        """
        self.require_replaceable()
        with suppress(OSError, StoreError):  # drafts of killed runs, where this user may remove them
            remove_leftovers(self.path.parent, LEFT_OVER_AFTER_SECONDS)
        replaced = [self.path] if self.path.exists() else []  # who may not read it today may not read it then
        try:
            with atomic_file(self.path, [*holds, *replaced]) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                # Before the file is in its place, with an own one that is there now: whichever a killed run leaves is known.
                facts = [_fact(os.fstat(stream.fileno())), *self._own()]
                write_atomically(self.record, (json.dumps({"written": facts}) + "\n").encode())
        except StoreError:
            if not self._own():  # the record is of a file that did not come, in the place of another's
                with suppress(OSError):
                    self.record.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove what an earlier run wrote there, and its record.

        Raises:
            SettingsError: when hubflow did not write it.
            OSError: when it cannot be removed.
        """
        self.require_replaceable()
        self.path.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def _own(self) -> list[dict[str, int]]:
        """What the record says of the file that is there; nothing when it is not hubflow's, or the record cannot be trusted.

        A record is not trusted that is a link or another user's, and a file is not this user's that another one owns.
        """
        try:
            found = self.path.lstat()
            descriptor = os.open(self.record, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(descriptor, "rb") as stream:
                own = os.fstat(descriptor)
                if not stat.S_ISREG(own.st_mode) or {own.st_uid, found.st_uid} != {os.geteuid()}:
                    return []
                known = json.loads(stream.read(MAX_RECORD_BYTES))["written"]
                facts = [{name: int(one[name]) for name in ("bytes", "modified_ns")} for one in known]
                return [one for one in facts if _is_same(one, found)][:1]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []


def _fact(found: os.stat_result) -> dict[str, int]:
    return {"bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def _is_same(known: dict[str, int], found: os.stat_result) -> bool:
    return known["bytes"] == found.st_size and abs(known["modified_ns"] - found.st_mtime_ns) <= CLOCK_NS


def _is_sealed(folder: Path) -> bool:
    """Whether a folder has a manifest as hubflow writes it."""
    try:
        with open_file(folder / MANIFEST) as stream:
            start = stream.read(HEAD_BYTES)
    except OSError:
        return False
    return b'"kind": ' in start and b'"format_version": ' in start
