"""Files that others may have written, opened only when they are regular files.

A named pipe without a writer never opens, a device such as /dev/zero never ends, and a path may name either by the time that it
is opened. So every file from outside is opened here, and the descriptor is checked, not the path. Links are followed.
"""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
}


def open_file(path: str | Path, max_bytes: int | None = None, limit: str = "", follow_links: bool = True) -> io.BufferedReader:
    """A regular file, open for reading.

    Args:
        path: of the file, or of a link to it.
        max_bytes: the most that the file may hold.
        limit: the setting that says so, for the error.
        follow_links: False refuses a link.

    Raises:
        OSError: when it is missing, cannot be read, is larger than `max_bytes`, or is no regular file; the text says which.
    """
    try:
        # To open a pipe or a device may already have an effect; one that has taken the place must not block.
        _require_regular(os.stat(path, follow_symlinks=follow_links), path)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"not a path that can name a file ({error})", repr(path)) from error
    try:
        facts = os.fstat(descriptor)
        _require_regular(facts, path)
        if max_bytes is not None and facts.st_size > max_bytes:
            raise _too_large(path, f"{facts.st_size:,} bytes", max_bytes, limit)
        return _File(io.FileIO(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


class _File(io.BufferedReader):
    """A file of which a read takes no more memory than there are bytes: a length that a file claims may be any."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LARGE_READ:
            left = os.fstat(self.fileno()).st_size - self.tell()
            size = min(size, max(left, _LARGE_READ))  # a file of /proc has no size
        return super().read(size)


_LARGE_READ = 1 << 20


def read_file(path: str | Path, max_bytes: int | None = None, follow_links: bool = True) -> bytes:
    """Content of a regular file.

    Args:
        path: of the file, or of a link to it.
        max_bytes: the most that it may hold; None for the library's `limits.max_document_bytes`.
        follow_links: False refuses a link.

    Raises:
        OSError: as `open_file`.
    """
    limit = ""
    if max_bytes is None:
        from hubflow.schemas.library import library_settings  # which reads its own file by this function

        max_bytes, limit = library_settings().limits.max_document_bytes, "limits.max_document_bytes"
    with open_file(path, max_bytes, limit, follow_links) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:  # such as a file of /proc, which has no size
        raise _too_large(path, "more", max_bytes, limit)
    return content


def read_text(path: str | Path, encoding: str = "utf-8", max_bytes: int | None = None) -> str:
    """Decoded content of a regular file, every end of a line a line feed.

    Raises:
        OSError: as `open_file`.
        UnicodeDecodeError: when the content is not in the encoding.
    """
    content = read_file(path, max_bytes)
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding).read()


@contextlib.contextmanager
def held_open(path: str | Path) -> Iterator[str]:
    """A name by which a library that takes names alone reads the regular file that is open here, whatever the path names then.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path) as stream:
        name = f"/proc/self/fd/{stream.fileno()}"
        yield name if os.path.exists(name) else str(path)


def _too_large(path: str | Path, found: str, max_bytes: int, limit: str) -> OSError:
    named = f" ({limit})" if limit else ""
    return OSError(errno.EFBIG, f"the file has {found}; at most {max_bytes:,} bytes are read{named}", str(path))


def why_no_file(path: str | Path) -> str | None:
    """What a path names, such as "a named pipe", where it is neither a regular file nor missing.

    Returns:
        None of a regular file, and where nothing is, or nobody may look.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except ValueError:
        return None
    except OSError as error:
        if not os.path.islink(path):
            return None
        return "a link that leads in a circle" if error.errno == errno.ELOOP else "a link to a file that is missing"
    return None if kind == stat.S_IFREG else _KINDS.get(kind, "no regular file")


def _require_regular(facts: os.stat_result, path: str | Path) -> None:
    kind = stat.S_IFMT(facts.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"{_KINDS.get(kind, 'something')}, not a regular file", str(path))
