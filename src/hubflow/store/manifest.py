"""Files and folders that are whole or not there: written under a random name beside their place, then renamed into it.

Everything that hubflow writes to keep goes through `atomic_file` and `atomic_folder`: new entries alone (O_EXCL), the umask
decides who may read them, and less may where the data that they hold may be read by less. Sealed folders have a manifest,
written last, and every file is verified on reading. Must not import Paddle or Prefect.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hubflow.errors import StoreError, join_limited
from hubflow.files import open_file, read_file

MANIFEST = "manifest.json"
MANIFEST_SIGNATURE = "manifest.sig"
"""Beside the manifest and not in it: it signs the manifest."""
FORMAT_VERSION = 2
FIRST_ASIDE = "0"  # where a folder is put when another takes its place
LEFT_OVER_AFTER_SECONDS = 3600.0
DRAFT, ASIDE = "draft", "old"
LEFTOVER = re.compile(rf"\.(.+?)\.[0-9a-f]{{16}}\.({DRAFT}|{ASIDE})")
"""Names of drafts, and of folders for what another takes the place of, beside their targets. Of others' files none is such."""
MAX_NAME_BYTES = 200  # of a target's name in that of its draft: a name may have 255
_SILENT_SECONDS = 2.0  # that are waited for a lock before it is said
log = logging.getLogger(__name__)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def file_sha256(path: Path, max_bytes: int | None = None, limit: str = "") -> str:
    """SHA-256 of a regular file's content.

    Args:
        path: of the file.
        max_bytes: the most that it may hold.
        limit: the setting that says so, for the error.

    Raises:
        OSError: when it is none, is larger than `max_bytes`, or cannot be read.
    """
    with open_file(path, max_bytes, limit) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_file(target: Path, holds: Iterable[Path] = ()) -> Iterator[IO[bytes]]:
    """A new file beside `target`, open for writing, that takes its place when the block ends without an error.

    Args:
        target: the file; a link in its place is replaced, not followed.
        holds: files and folders whose data the new file holds: who may not read each of them may not read it.

    Yields:
        The stream.

    Raises:
        StoreError: when the disk is full or the file cannot be written; what was at `target` is unharmed.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        path, descriptor = _new_file(target, holds)
    stream = os.fdopen(descriptor, "wb")
    try:
        with in_use(path):
            with _explained(target, path):
                yield stream
            with _explained(target):
                stream.flush()
                os.fsync(descriptor)
                stream.close()
                os.replace(path, target)
                sync(target.parent)
    finally:
        with contextlib.suppress(OSError):  # what its buffer still holds has no room; that error is under way
            stream.close()
        with contextlib.suppress(OSError):  # it has taken its place
            path.unlink()


def write_atomically(path: Path, data: bytes, holds: Iterable[Path] = ()) -> None:
    """Write a file as a whole; see `atomic_file`.

    Raises:
        StoreError: when it cannot be written; what was at `path` is unharmed.
    """
    with atomic_file(path, holds) as stream:
        stream.write(data)


@contextlib.contextmanager
def atomic_folder(target: Path, holds: Iterable[Path] = ()) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends without an error.

    What killed writers left beside it is removed.

    Args:
        target: the folder.
        holds: files and folders whose data the new folder holds: who may not read each of them may not open it.

    Yields:
        The new folder.

    Raises:
        StoreError: when the disk is full or the folder cannot be written; what was at `target` is unharmed.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(StoreError):  # another user's; the folder itself can be written, or not, all the same
            remove_leftovers(target.parent, LEFT_OVER_AFTER_SECONDS)
    with draft_folder(target, holds) as folder:
        with _explained(target, folder):
            yield folder
        with _explained(target):
            _sync_tree(folder)
            _replace(folder, target)


@contextlib.contextmanager
def draft_folder(target: Path, holds: Iterable[Path] = ()) -> Iterator[Path]:
    """A new folder beside `target` under a name that nobody can guess; what is still in its place at the end is removed.

    Args:
        target: what it is for.
        holds: as for `atomic_folder`.

    Raises:
        StoreError: when it cannot be made.
    """
    path = _beside(target, DRAFT)
    with _explained(target):
        _make_folder(path, holds)
    try:
        with in_use(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Mark a temporary file or folder as one whose process is alive, for `remove_leftovers` of all processes."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # no more files can be open: its age protects it
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def working_folder(path: Path, holds: Iterable[Path] = ()) -> None:
    """Make a folder under a fixed name, for work that a later run of the same user goes on with, where it is not there yet.

    Args:
        path: the folder.
        holds: as for `atomic_folder`.

    Raises:
        StoreError: when it is a link, or another user's: that user could lead the work elsewhere or put results into it.
        OSError: when it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        _make_folder(path, holds)
    found = path.lstat()
    is_link = stat.S_ISLNK(found.st_mode)
    if is_link or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        fault = f"is a link to {os.readlink(path)}" if is_link else "is another user's, or no folder"
        raise StoreError(f"{path}: {fault}; expected a folder of this user's own: remove it, or write to another folder")


@contextlib.contextmanager
def _explained(target: Path, draft: Path | None = None) -> Iterator[None]:
    """Raise what the system refuses as a StoreError about `target`; in the block of a draft, what is about the draft alone."""
    try:
        yield
    except OSError as error:
        is_about_another = error.filename and not str(error.filename).startswith(str(draft))
        if draft is not None and not _is_full(error) and (isinstance(error, FileNotFoundError) or is_about_another):
            raise
        raise not_written(target, error) from error


def _new_file(target: Path, holds: Iterable[Path]) -> tuple[Path, int]:
    """A file beside `target` under a name that nobody can guess, and its descriptor."""
    allowed, groups = _readers(holds)
    path = _beside(target, DRAFT)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o666 & allowed)  # less the umask
    try:
        _restrict(descriptor, groups)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return path, descriptor


def _make_folder(path: Path, holds: Iterable[Path]) -> None:
    allowed, groups = _readers(holds)
    path.mkdir(0o777 & allowed)  # less the umask; the bit that hands the group down stays, if the folder above has it
    _restrict(path, groups)


def _beside(target: Path, role: str) -> Path:
    name = os.fsencode(target.name)[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    return target.with_name(f".{name}.{secrets.token_hex(8)}.{role}")


def _readers(holds: Iterable[Path]) -> tuple[int, set[int]]:
    """The permissions that are left to those who may read every one of `holds`, and the groups of these.

    Who may read, may do all that the umask allows; the owner of what is written always may.
    """
    allowed, groups = 0o777, set()
    for path in holds:
        with contextlib.suppress(OSError):  # it is gone, or is a name and no file
            found = path.stat()
            allowed &= 0o700 | (0o070 if found.st_mode & stat.S_IRGRP else 0) | (0o007 if found.st_mode & stat.S_IROTH else 0)
            groups.add(found.st_gid)
    return allowed, groups


def _restrict(entry: Path | int, groups: set[int]) -> None:
    """Take a new file or folder from its group, where the data it holds is for another group and not for all."""
    found = os.stat(entry)
    if groups - {found.st_gid} and found.st_mode & 0o070 and not found.st_mode & 0o007:
        os.chmod(entry, stat.S_IMODE(found.st_mode) & ~0o070)


@contextlib.contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Raise a full disk that something in the block met, which writes by itself, as a StoreError that says what to do.

    Args:
        folder: where it writes, named when the system names no file.

    Raises:
        StoreError: when there is no room.
    """
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        name = error.filename2 or error.filename
        raise not_written(Path(name) if isinstance(name, str) else folder, error) from error


def not_written(target: Path, error: OSError, remedy: str = "") -> "StoreError":
    """The error of a file or folder that could not be written: of a full disk with what is free on it."""
    what = f"{target} could not be written ({error})"
    if _is_full(error):
        what += f": {_how_full(target, error)}"
        remedy = remedy or "free space and run the same again"
    return StoreError(f"{what}; what was there before is unharmed{'; ' if remedy else ''}{remedy}")


def _is_full(error: OSError) -> bool:
    """Whether there was no room; NumPy says so in words alone."""
    return error.errno in DISK_FULL or re.search(r"\d+ requested and \d+ written", str(error)) is not None


def _how_full(target: Path, error: OSError) -> str:
    folder = next((one for one in (target, *target.parents) if one.is_dir()), Path("/"))
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return "the disk is full"
    shown = f"{disk.free / 2**20:,.1f} of {disk.total / 2**20:,.1f} MiB are free"
    if error.errno not in (errno.EDQUOT, errno.EFBIG):
        return f"the disk of {folder} is full, {shown}"
    return f"this user's, or process's, limit of bytes is reached; of the disk of {folder} {shown}"


def remove_leftovers(parent: Path, min_age_seconds: float = 0.0, is_dry: bool = False) -> list[Path]:
    """Remove what killed writers left beside their targets, and bring back a target that one of them had put aside.

    Args:
        parent: the folder of the targets.
        min_age_seconds: what was changed later stays. 0 is for folders that one process at a time writes to: there is a
            moment between the making of a temporary folder and its mark, and file systems without locks have no marks.
        is_dry: remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        StoreError: when the folder cannot be read or written.
    """
    found = []
    try:
        with os.scandir(parent) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith("."))
        for name in names:
            leftover = parent / name
            match = LEFTOVER.fullmatch(name)
            if match is None or not _is_left_over(leftover, min_age_seconds):
                continue
            found.append(leftover)
            if is_dry:
                continue
            if match[2] == ASIDE:
                _put_back(leftover / FIRST_ASIDE, parent / match[1])
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
    except OSError as error:
        raise StoreError(f"{parent}: what a killed run left behind cannot be removed ({error})") from error
    return found


def seal(folder: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Write the folder's manifest: the hash and size of every file in it, and `facts`."""
    files = {
        file.relative_to(folder).as_posix(): {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file not in (folder / MANIFEST, folder / MANIFEST_SIGNATURE)
    }
    manifest = {"kind": kind, "format_version": FORMAT_VERSION, "facts": dict(facts), "files": files}
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=1, ensure_ascii=False, default=jsonable) + "\n", encoding="utf-8"
    )


@dataclass(frozen=True)
class SealedFolder:
    """A folder whose manifest was read and whose files are as it says.

    Attributes:
        kind: of artifact.
        facts: what the manifest says of the artifact beside its files.
        files: by name relative to the folder, with `/`.
        manifest: the bytes of the manifest that all of this was read from.
    """

    folder: Path
    kind: str
    facts: dict[str, Any]
    files: Mapping[str, "_File"]
    manifest: bytes
    stamps: Mapping[str, tuple[int, ...]] = field(repr=False)

    @property
    def sha256(self) -> str:
        """Hash of the manifest, as references hold it."""
        return hashlib.sha256(self.manifest).hexdigest()

    def read(self, name: str) -> bytes:
        """Content of a file, verified again: these bytes are those of the manifest.

        Raises:
            StoreError: when the manifest has no such file, or it was altered.
        """
        known = self.files.get(name)
        try:
            content = b"" if known is None else read_file(self.folder / name, follow_links=False)
        except OSError as error:
            raise StoreError(f"{self.folder / name} cannot be read ({error}); make it again") from error
        if known is None or hashlib.sha256(content).hexdigest() != known.sha256:
            fault = "is not in the manifest" if known is None else "was altered while it was in use"
            raise StoreError(f"{self.folder / name} {fault}; make it again")
        return content

    def require_unchanged(self, name: str) -> None:
        """Refuse a file that was written or replaced since it was verified: a library may have read other bytes of it.

        Raises:
            StoreError: naming the file.
        """
        try:
            stamp = _stamp(os.lstat(self.folder / name))
        except OSError:
            stamp = ()
        if stamp != self.stamps[name]:
            raise StoreError(f"{self.folder / name} was altered while it was in use; make it again")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    kind: str
    format_version: int
    facts: dict[str, Any]
    files: dict[str, _File] = Field(min_length=1)

    @field_validator("format_version")
    @classmethod
    def _known(cls, version: int) -> int:
        if version != FORMAT_VERSION:
            raise ValueError(f"this hubflow reads version {FORMAT_VERSION}; use the version that wrote the folder")
        return version


def verify_folder(folder: Path, kind: str | None = None, remedy: str = "; make it again") -> SealedFolder:
    """Check every file of a sealed folder against its manifest.

    Args:
        folder: what `seal` was called for.
        kind: that the folder must be of; any when None.
        remedy: ends the message about files that are missing or altered.

    Raises:
        StoreError: when the manifest is not one of hubflow's, or is of another kind; or naming what is missing, altered or no
            regular file: links are refused, also where they lead to a file of the folder.
    """
    path = folder / MANIFEST
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # nobody but another user may look into a folder above it
        raise StoreError(f"{folder} cannot be read ({error}); have its owner allow it, or choose another store") from error
    if not is_folder:
        raise StoreError(f"{folder}: no such folder; correct the path, or make it again")
    try:
        content = read_file(path, follow_links=False)
        manifest = _Manifest.model_validate(json.loads(content.decode("utf-8")))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StoreError(
            f"{path}: no readable manifest ({where}: {error.errors()[0]['msg']}); make the folder again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: no readable manifest ({error}); the folder is incomplete or not one of hubflow's") from error
    if kind is not None and manifest.kind != kind:
        raise StoreError(f"{folder}: a folder of {manifest.kind!r}, expected one of {kind!r}; correct the path")
    links = [name for name, entry in _entries(folder) if entry.is_symlink() or not (entry.is_file() or entry.is_dir())]
    if links:
        raise StoreError(
            f"{folder}: {len(links)} link(s) or special file(s), expected regular files alone: {join_limited(links)}; copy "
            "what they lead to in their place"
        )
    stamps = {name: _intact(folder, name, known) for name, known in manifest.files.items()}
    bad = [name for name, stamp in stamps.items() if stamp is None]
    if bad:
        raise StoreError(
            f"{folder}: {len(bad)} file(s) missing or altered since they were written: {join_limited(bad)}{remedy}"
        )
    found = {name: stamp for name, stamp in stamps.items() if stamp is not None}
    return SealedFolder(folder, manifest.kind, manifest.facts, manifest.files, content, found)


def unlisted(sealed: SealedFolder) -> list[str]:
    """Files of a sealed folder that its manifest does not have: somebody added them. Hidden ones are left out."""
    beside = {*sealed.files, MANIFEST, MANIFEST_SIGNATURE}
    found = [name for name, entry in _entries(sealed.folder) if entry.is_file(follow_symlinks=False) and name not in beside]
    return sorted(name for name in found if not any(part.startswith(".") for part in PurePosixPath(name).parts))


def _entries(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder and those below it, by name relative to it; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield prefix + entry.name, entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(Path(entry.path), f"{prefix}{entry.name}/")
    except OSError as error:
        raise StoreError(f"{folder} cannot be read ({error})") from error


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Changes whenever the file is written or another takes its place: nobody but root can set the last time back."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file that every user who may write beside it can hold, as the umask allows.

    Raises:
        StoreError: when it cannot be opened, as another user's, or is a file with content and so no lock.
        Timeout: when another process holds it for `timeout` seconds; -1 waits for it.
    """
    from filelock import FileLock, Timeout

    try:
        # Made here: the library sets the mode that it is given whatever the umask is.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if found.st_size or not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path}: not a lock of hubflow's, but a file of somebody's in its place; move it away")
        lock = FileLock(path, timeout=timeout, mode=stat.S_IMODE(found.st_mode))
        try:
            lock.acquire(timeout=min(timeout, _SILENT_SECONDS) if timeout >= 0 else _SILENT_SECONDS)
        except Timeout:
            if 0 <= timeout <= _SILENT_SECONDS:
                raise
            log.warning("%s is held by another process; this one waits for it", path)
            lock.acquire(timeout=timeout)
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise StoreError(
            f"{path}: the lock cannot be opened ({error}); where several users share a folder, give them one group, the folder "
            "that group with its setgid bit (chmod g+ws), and each of them umask 002"
        ) from error
    try:
        yield
    finally:
        lock.release()


def leads_out(name: str) -> bool:
    """Whether a relative path, as a manifest has it, would lead out of its folder."""
    return not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _is_left_over(path: Path, min_age_seconds: float) -> bool:
    """Whether no process that is alive writes to a temporary file or folder, and nothing in it is young."""
    if path.is_symlink():
        return False
    try:
        if min_age_seconds:
            newest = max((one.lstat().st_mtime for one in path.rglob("*")), default=0.0)
            if max(newest, path.lstat().st_mtime) > time.time() - min_age_seconds:
                return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe would wait for its other end
    except (FileNotFoundError, PermissionError):  # another process has just put it in its place; or another user's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    finally:
        os.close(descriptor)
    return True


def _intact(folder: Path, name: str, known: _File) -> tuple[int, ...] | None:
    """The stamp of a file that is as the manifest says; None of one that is not, or cannot be read."""
    try:
        if leads_out(name):
            return None
        with open_file(folder / name, follow_links=False) as stream:
            status = os.fstat(stream.fileno())
            if status.st_size != known.bytes or hashlib.file_digest(stream, "sha256").hexdigest() != known.sha256:
                return None
        return _stamp(status)
    except (OSError, ValueError):  # another user's, or a name that is none
        return None


def _replace(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`, which other processes may be replacing too: the last one stays."""
    # What was there may be another user's, in parts that this one cannot remove.
    old, is_done = _beside(target, ASIDE), False
    old.mkdir(0o700)
    try:
        with in_use(old):
            for attempt in itertools.count(int(FIRST_ASIDE)):
                try:
                    os.rename(folder, target)
                    is_done = True
                    break
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        _put_back(old / str(attempt - 1), target)
                        raise
                with contextlib.suppress(FileNotFoundError):  # another process has just put it aside
                    os.rename(target, old / str(attempt))
    finally:
        # Where another process has put ours aside by now and nothing is there, what we put aside is out of date all the same.
        if is_done or target.exists():  # else what was there could not be put back: `remove_leftovers` tries again
            shutil.rmtree(old, ignore_errors=True)
    sync(target.parent)


def _put_back(aside: Path, target: Path) -> None:
    if aside.exists() and not target.exists():
        os.rename(aside, target)


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def jsonable(value: object) -> object:
    """What `json.dumps` takes as its `default`: pydantic models and paths."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} is not JSON-serialisable")
