"""Files of rows as bytes: decompressed on the way, and named for what they are."""

import bz2
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any

import pyarrow as arrow

from hubflow.errors import DataError, join_limited
from hubflow.files import open_file
from hubflow.schemas.library import library_settings

ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Of compressed files that are read."""
HEAD_BYTES = 4096
COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
CONVERT = "convert it to CSV, JSON lines or Parquet"
FRAMES = "read it with pandas and give the frame to `dataset_from_frames`"
UNPACK = "unpack it and name the file of rows"
DOWNLOAD = "the file itself was not downloaded: "
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", "set `format: parquet`"),
    (b"ARROW1\x00", "an Arrow IPC (Feather) file", f"{CONVERT}, or {FRAMES}"),
    (b"FEA1", "a Feather file of version 1", f"{CONVERT}, or {FRAMES}"),
    (b"Obj\x01", "an Avro file", CONVERT),
    (b"SQLite format 3\x00", "an SQLite database", FRAMES),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", f"{CONVERT}, or {FRAMES}"),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook or another Office document", f"save it as CSV, or {FRAMES}"),
    (b"%PDF-", "a PDF document", CONVERT),
    (b"{\\rtf", "an RTF document", "save it as plain text"),
    (b"\x89PNG\r\n", "a PNG image", "use a format of images"),
    (b"\xff\xd8\xff", "a JPEG image", "use a format of images"),
    (b"GIF87a", "a GIF image", "use a format of images"),
    (b"GIF89a", "a GIF image", "use a format of images"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "compress it with gzip or zstd, or not at all"),
    (b"\x1f\x9d", "a file of Unix compress (.Z)", "compress it with gzip or zstd, or not at all"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", f"{DOWNLOAD}run `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer", f"{DOWNLOAD}run `git annex get`"),
)
PATTERNS = (
    *((re.compile(re.escape(signature)), name, remedy) for signature, name, remedy in SIGNATURES),
    (re.compile(rb".{257}ustar", re.S), "a tar archive", UNPACK),
    (re.compile(rb"RIFF.{4}WEBP", re.S), "a WebP image", "use a format of images"),
    (re.compile(rb"ORC[^\x00]*\x00", re.S), "an ORC file", f"{CONVERT}, or {FRAMES}"),
    (re.compile(rb"\x80[\x02-\x05]"), "a Python pickle", "write the rows as Parquet: a pickle can run code"),
)
MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?(?:<!doctype\s+html[^>\t]*>|<html(?:\s[^>\t]*)?>|(<\?xml\s[^>\t]*>))\s*(?:<|$)", re.I)
MOST_NULS = 0.7
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, arrow.ArrowException, RuntimeError)
"""What decompressing raises; a RuntimeError is of a zip file with a password or an unknown method."""


XZ_MEMORY_BYTES = 1 << 28
"""That decoding xz may need; `xz -9` needs a quarter of it. A file may ask for a dictionary of 4 GB."""


class DataBytes:
    """The bytes of a file of rows, a part at a time.

    Attributes:
        head: the first few thousand, for a look ahead.
    """

    def __init__(self, path: Path, stream: Any, compression: str | None) -> None:
        self._path, self._stream, self._compression = path, stream, compression
        self._limits, self._size = library_settings().limits, 0
        self.head = b""
        while len(self.head) < HEAD_BYTES and (part := self._read(HEAD_BYTES - len(self.head))):
            self.head += part
        self._ahead = self.head

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, or all that are left; empty at the end.

        Raises:
            DataError: when the file cannot be read or is damaged.
        """
        if size < 0:
            parts, most = [self._ahead], self._limits.max_document_bytes
            self._ahead = b""
            while part := self._read(1 << 22):
                parts.append(part)
                if self._size > most:
                    raise DataError(
                        f"{self._path}: more than {most:,} bytes, limits.max_document_bytes; a file of this kind, or in this "
                        "encoding, is read at once: divide it, or write it in UTF-8"
                    )
            return b"".join(parts)
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        return ahead + self._read(size - len(ahead)) if len(ahead) < size else ahead

    def _read(self, size: int) -> bytes:
        try:
            part = bytes(self._stream.read(size))
            self._size += len(part)
            if self._compression is not None and self._size > self._limits.max_decoded_bytes:
                raise DataError(
                    f"{self._path}: its {self._compression} content has more than {self._limits.max_decoded_bytes:,} bytes, "
                    "limits.max_decoded_bytes; divide the file"
                )
            return part
        except DAMAGED as error:
            if self._compression is None:
                raise DataError(f"{self._path}: cannot be read ({error}); make it readable or correct the path") from error
            raise DataError(
                f"{self._path}: its {self._compression} content is damaged, cut off or locked ({error}); copy or compress "
                "the file again"
            ) from error


@contextmanager
def open_data(path: Path) -> Iterator[DataBytes]:
    """A file of rows, decompressed when its content, whatever its name, is gzip, bzip2, xz, zstd or a zip file of one file.

    Raises:
        DataError: when it cannot be read, is damaged, or is a zip file of several files.
    """
    with ExitStack() as stack:
        try:
            stream: Any = stack.enter_context(open_file(path))
            compression = compression_of(stream.peek(16))
            if compression == "gzip":
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            elif compression == "bzip2":
                stream = stack.enter_context(bz2.BZ2File(stream))
            elif compression == "xz":
                stream = _Xz(stream)
            elif compression == "zstd":
                stream = stack.enter_context(arrow.CompressedInputStream(arrow.PythonFile(stream, "r"), "zstd"))
            elif compression == "zip":
                archive = stack.enter_context(zipfile.ZipFile(stream))
                stream = stack.enter_context(archive.open(member := _only_member(path, archive)))
                if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    stream = _Steps(stream)
        except DAMAGED as error:
            raise DataError(f"{path}: cannot be read ({error}); make it readable or correct the path") from error
        yield DataBytes(path, stream, compression)


class _Xz:
    """An xz file, decompressed within XZ_MEMORY_BYTES."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._decoder = stream, self._new_decoder()

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        data = b""
        while not data:
            if self._decoder.eof:  # another stream may follow
                raw = self._decoder.unused_data or self._stream.read(HEAD_BYTES)
                if not raw.startswith(b"\xfd7zXZ"):
                    return b""
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input:
                raw = self._stream.read(1 << 16)
                if not raw:
                    raise EOFError("it ends before its content does")
            else:
                raw = b""
            data = self._decoder.decompress(raw, size)
        return data

    @staticmethod
    def _new_decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


class _Steps:
    """A member of a zip file whose method decompresses all that is read of it at once, read in small steps."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        parts = []
        while size > 0 and (part := self._stream.read(min(size, HEAD_BYTES))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def compression_of(head: bytes) -> str | None:
    """How a file that begins with `head` is compressed, if it is and can be read."""
    return next((name for signature, name in COMPRESSIONS.items() if head.startswith(signature)), None)


def plain_name(path: Path) -> str:
    """The name of a file of rows without the endings of compression: `a.csv` for `a.csv.gz`, and for `a.zip` with it inside."""
    name = path.name
    if path.suffix.lower() not in ENDINGS:
        return name
    inner = path.name[: -len(path.suffix)]
    if PurePath(inner).suffix or path.suffix.lower() != ".zip":
        return inner
    try:
        with open_file(path) as stream, zipfile.ZipFile(stream) as archive:
            members = _members(archive)
    except DAMAGED:
        return inner
    return PurePath(members[0]).name if len(members) == 1 else inner


def require_text(path: Path, head: bytes) -> None:
    """Refuse a file that is no text, by what it is.

    Args:
        path: named in the error.
        head: its first bytes, decompressed.

    Raises:
        DataError: naming what it is and what to do.
    """
    found = what_it_is(head)
    if found is not None:
        name, remedy = found
        raise DataError(f"{path}: is {name}; expected a text file of rows: {remedy}")


def what_it_is(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins with `head`, and what to do about it; None for what may be text."""
    compression = compression_of(head)
    if compression is not None:
        return f"compressed with {compression}", "decompress it (once, when it is compressed twice)"
    for pattern, name, remedy in PATTERNS:
        if pattern.match(head):
            return name, remedy
    markup = MARKUP.match(head.lstrip().split(b"\n", 1)[0])
    if markup is not None and markup[1] is None:
        return "an HTML page", "download the file itself: what was saved is a page of the site, such as a login"
    return None if markup is None else ("an XML document", CONVERT)


def encoding_of_mark(head: bytes) -> str | None:
    """The encoding that a byte-order mark at the beginning tells: UTF-8, UTF-16 or UTF-32."""
    marks = {
        b"\xff\xfe\x00\x00": "utf-32-le",
        b"\x00\x00\xfe\xff": "utf-32-be",
        b"\xff\xfe": "utf-16-le",
        b"\xfe\xff": "utf-16-be",
        b"\xef\xbb\xbf": "utf-8",
    }
    return next((encoding for mark, encoding in marks.items() if head.startswith(mark)), None)


def encoding_of_nuls(head: bytes) -> str | None:
    """The encoding of text without a byte-order mark in which nearly every second byte is zero."""
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = head[first::2]
        if len(half) > 3 and half.count(0) > MOST_NULS * len(half) and head[1 - first :: 2].count(0) < len(half) / 2:  # noqa: PLR2004
            return encoding
    return None


def _only_member(path: Path, archive: zipfile.ZipFile) -> str:
    """The one file of a zip archive."""
    names = archive.namelist()
    folders = {name.split("/", 1)[0] for name in names}
    if "[Content_Types].xml" in names:
        kinds = {"xl": "an Excel workbook (.xlsx)", "word": "a Word document", "ppt": "a PowerPoint file"}
        kind = next((kinds[folder] for folder in kinds if folder in folders), "an Office document")
        raise DataError(f"{path}: is {kind}; expected a text file of rows: save the sheet as CSV UTF-8, or {FRAMES}")
    if "mimetype" in names and "content.xml" in names:
        raise DataError(f"{path}: is an OpenDocument file; expected a text file of rows: save the sheet as CSV, or {FRAMES}")
    members = _members(archive)
    if len(members) != 1:
        raise DataError(
            f"{path}: is a zip file of {len(members)} files ({join_limited(members, 5)}); expected one file of rows: {UNPACK}"
        )
    return members[0]


def _members(archive: zipfile.ZipFile) -> list[str]:
    """The files of an archive, without those that file managers leave there."""
    return [
        entry.filename
        for entry in archive.infolist()
        if not entry.filename.endswith("/")  # `is_dir` fails at an empty name
        and not entry.filename.startswith("__MACOSX/")
        and PurePath(entry.filename).name not in (".DS_Store", "Thumbs.db", "desktop.ini")
    ]
