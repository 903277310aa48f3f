"""What a Parquet file decodes to, from the headers of its pages, before anything of it is decoded.

A page says how large it is once decompressed, and how many values it holds; a dictionary may be referred to by any number of
values. So a kilobyte may decode to terabytes, and the sizes in the footer need not be those of the pages. Must not import
Paddle or Prefect.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import compute
from pyarrow import types as kinds

from hubflow.errors import DataError
from hubflow.schemas.library import library_settings

DATA, INDEX, DICTIONARY, DATA_V2 = range(4)
"""Types of pages."""
DELTA_BYTE_ARRAY = 7
"""An encoding of text in which a value of any length may take a byte: what it shares with the one before is a number."""
BY_DICTIONARY = {2, 8}
"""Both names of the encoding by a dictionary."""
AS_DICTIONARY = {0, *BY_DICTIONARY}
"""Encodings that Arrow reads as dictionaries; 0 is that of plain text."""
_FIRST_BYTES, _MOST_BYTES = 1 << 9, 1 << 24  # of a header: it may hold the smallest and the largest value
_HEADERS = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}  # field of the page's header that says more, by type
_ENCODINGS = {DATA: 2, DATA_V2: 4}
_FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 2, 3, 7, 8, 9, 10, 12  # types of Thrift's compact protocol
_MAX_DEPTH = 16
HADOOP_LZ4 = "LZ4 as Hadoop writes it"
_COMPRESSIONS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", HADOOP_LZ4, "ZSTD", "LZ4")
_MAX_INDEX_BITS = 32
_PACKED_AT_ONCE = 1 << 16


PART_BYTES = 1 << 27
"""Of the text of rows that become a chunk; rows whose text repeats may be more when it is written out."""
ROW_FRACTION = 8
"""Of `limits.max_batch_bytes`, one row may have this part."""
SMALL_RATIO = 100
"""A file that decodes to so many times its size is none of honest rows, when it is large too."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 8, "INT64": 8, "INT96": 16, "FLOAT": 8, "DOUBLE": 8, "BYTE_ARRAY": 8}
"""Bytes that a value takes in memory at most, beside its text."""
_VALUE_BYTES = 8


class PageError(ValueError):
    """The pages of a column are none."""


@dataclass
class Plan:
    """How a file is read so that its batches fit into memory.

    Attributes:
        path: of the file, named in errors.
        schema: the columns of its rows.
        dictionaries: columns of text to be read as dictionaries, whose size does not grow with how often a text occurs.
        most_rows: of a batch.
        decoded_bytes: of all pages.
        file_bytes: of the file.
        seen_bytes: of the lists and of the text of the batches so far.
    """

    path: Path
    schema: Any
    dictionaries: list[str]
    most_rows: int
    decoded_bytes: int
    file_bytes: int
    seen_bytes: int = 0

    def parts(self, batch: Any, number: int) -> Iterator[Any]:
        """A batch that was read with these dictionaries, in parts whose text is written out.

        Args:
            batch: of the file.
            number: of its first row, for errors.

        Raises:
            DataError: when one row is larger than a machine bears.
        """
        grown = [column for column in batch.columns if kinds.is_nested(column.type) or kinds.is_dictionary(column.type)]
        sizes: Any = sum(map(_row_bytes, grown), np.zeros(len(batch), np.int64))
        self.seen_bytes += int(sizes.sum())
        _require_plausible(self.path, self.file_bytes, self.seen_bytes)
        most = library_settings().limits.max_batch_bytes // ROW_FRACTION
        if len(sizes) and sizes.max() > most:
            row = int(sizes.argmax())
            raise DataError(
                f"{self.path}: record {number + row}: {sizes[row]:,} bytes, more than an eighth of limits.max_batch_bytes "
                f"({most:,}); shorten or remove the row"
            )
        ends = np.cumsum(sizes)
        start = 0
        while start < len(batch):
            before = int(ends[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + PART_BYTES, side="right")))
            part = batch.slice(start, end - start)
            yield part if part.schema.equals(self.schema) else part.cast(self.schema)
            start = end


def plan_of(path: Path, stream: IO[bytes], metadata: Any, schema: Any) -> Plan:
    """How to read a file.

    Args:
        path: of the file, named in errors.
        stream: the file.
        metadata: its footer.
        schema: its columns as Arrow has them.

    Raises:
        DataError: when what is decoded together would not fit into memory, naming the limit.
        PageError: when the headers of its pages cannot be read.
    """
    most, size = library_settings().limits.max_batch_bytes, os.fstat(stream.fileno()).st_size
    leaves = [metadata.schema.column(position) for position in range(metadata.num_columns)]
    groups = column_chunks(stream, len(leaves))
    pages = [[column_pages(stream, group[position], _levels(leaf)) for group in groups] for position, leaf in enumerate(leaves)]
    together = sum(max((one.largest_page for one in column), default=0) for column in pages)
    if together > most:
        raise DataError(
            f"{path}: pages that are decoded together have {together:,} bytes, more than limits.max_batch_bytes ({most:,}); "
            "write smaller pages"
        )
    flat_text = {field.name for field in schema if _is_text(field.type)}
    dictionaries, row_bytes, value_bytes = [], 0, 0
    for position, column in enumerate(pages):
        leaf = leaves[position]
        width = _WIDTHS.get(leaf.physical_type, max(int(leaf.length or 0), 8))
        value_bytes += width * sum(one.values for one in column)
        if leaf.path in flat_text and all(one.encodings <= AS_DICTIONARY for one in column):
            dictionaries.append(leaf.path)
        elif leaf.physical_type == "BYTE_ARRAY" and leaf.max_repetition_level == 0:
            width += max((one.largest_value(stream) for one in column), default=0)
        row_bytes += width if leaf.max_repetition_level == 0 else 0
        for one in column if leaf.max_repetition_level else ():
            largest = one.values * width + (one.text_bytes(stream, most) if leaf.physical_type == "BYTE_ARRAY" else 0)
            if largest > most:
                raise DataError(
                    f"{path}: column {leaf.path!r}: the lists of a row group may take {largest:,} bytes, more than "
                    f"limits.max_batch_bytes ({most:,}); write smaller row groups, and text without DELTA_BYTE_ARRAY"
                )
    decoded = sum(one.decoded_bytes for column in pages for one in column)
    _require_plausible(path, size, decoded + value_bytes)
    return Plan(path, schema, dictionaries, max(1, most // 4 // max(row_bytes, 1)), decoded, size)


def _require_plausible(path: Path, size: int, decoded: int) -> None:
    """Refuse a small file that would be read for hours."""
    most = library_settings().limits.max_decoded_bytes
    if decoded > max(most, SMALL_RATIO * size):
        raise DataError(
            f"{path}: a file of {size:,} bytes that decodes to {decoded:,}, more than limits.max_decoded_bytes ({most:,})"
        )


def _is_text(kind: Any) -> bool:
    """Whether a type is of text or bytes, as they are or as a dictionary."""
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    is_text = kinds.is_string(kind) or kinds.is_large_string(kind)
    return bool(is_text or kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _row_bytes(array: Any) -> Any:
    """The bytes of each row's value, text of dictionaries as often as it occurs; one number where all rows have the same."""
    kind = array.type
    if _is_text(kind):
        is_dictionary = kinds.is_dictionary(kind)
        sizes = compute.binary_length(array.dictionary).take(array.indices) if is_dictionary else compute.binary_length(array)
        return compute.fill_null(sizes, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if kinds.is_struct(kind):
        return sum(_row_bytes(array.field(position)) for position in range(kind.num_fields))
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_map(kind):
        inner = _row_bytes(array.keys) + _row_bytes(array.items) if kinds.is_map(kind) else _row_bytes(array.values)
        return _sums(inner, array.offsets.to_numpy().astype(np.int64))
    if kinds.is_fixed_size_list(kind):
        return _sums(_row_bytes(array.values), (array.offset + np.arange(len(array) + 1)) * kind.list_size)
    return _VALUE_BYTES


def _sums(sizes: Any, ends: NDArray[np.int64]) -> Any:
    """The sums of `sizes` between each of `ends` and the next."""
    if isinstance(sizes, int):
        return (sizes + 1) * np.diff(ends)
    return np.diff(np.concatenate([[0], np.cumsum(sizes)])[ends])


class _Page(NamedTuple):
    """A page whose values are those of a dictionary, or the dictionary: where its content is, and what its header says."""

    offset: int
    stored_bytes: int
    decoded_bytes: int
    values: int
    is_second_version: bool
    header: dict[int, Any]


@dataclass
class ColumnPages:
    """The pages of a column in a row group.

    Attributes:
        compression: of the pages, as the file names it.
        levels: how many kinds of levels stand before the values: of lists, and of nulls.
        values: that the pages hold, nulls too.
        decoded_bytes: of all pages, decompressed.
        largest_page: bytes of the largest, decompressed.
        largest_delta_page: of the largest in which values refer to those before them.
        delta_values: that such pages hold.
        encodings: of the pages with values.
    """

    compression: str
    levels: int
    values: int = 0
    decoded_bytes: int = 0
    largest_page: int = 0
    largest_delta_page: int = 0
    delta_values: int = 0
    encodings: set[int] = field(default_factory=set)
    dictionary: _Page | None = None
    referring: list[_Page] = field(default_factory=list)

    def add_values(self, page: _Page, encoding: int) -> None:
        """Count a page with values."""
        self.values += page.values
        self.encodings.add(encoding)
        if encoding == DELTA_BYTE_ARRAY:
            self.delta_values += page.values
            self.largest_delta_page = max(self.largest_delta_page, page.decoded_bytes)
        elif encoding in BY_DICTIONARY:
            self.referring.append(page)

    def largest_value(self, stream: IO[bytes]) -> int:
        """The bytes that a text may have, beyond those that stand in a page in full."""
        return max(self.largest_delta_page, int(self._lengths(stream).max(initial=0)))

    def text_bytes(self, stream: IO[bytes], most: int) -> int:
        """The bytes of all texts; where they are no more than `most`, possibly some more."""
        found = self.decoded_bytes + self.delta_values * self.largest_delta_page
        lengths = self._lengths(stream)
        referring = sum(page.values for page in self.referring) * int(lengths.max(initial=0))
        if found + referring <= most:
            return found + referring
        return found + sum(_referred_bytes(self._content(stream, page), page, self.levels, lengths) for page in self.referring)

    def _lengths(self, stream: IO[bytes]) -> NDArray[np.int64]:
        """The lengths of the dictionary's texts."""
        if self.dictionary is None:
            return np.zeros(0, np.int64)
        content = self._content(stream, self.dictionary)
        lengths, position = list[int](), 0
        while position + 4 <= len(content) and len(lengths) < self.dictionary.values:
            lengths.append(int.from_bytes(content[position : position + 4], "little"))
            position += 4 + lengths[-1]
        return np.array(lengths, np.int64)

    def _content(self, stream: IO[bytes], page: _Page) -> bytes:
        stream.seek(page.offset)
        content, levels = stream.read(page.stored_bytes), 0
        if page.is_second_version:  # its levels are not compressed
            levels = _whole(page.header.get(5, 0)) + _whole(page.header.get(6, 0))
        if self.compression == "UNCOMPRESSED" or (page.is_second_version and page.header.get(7) is False):
            return content
        try:
            return content[:levels] + _decompressed(content[levels:], self.compression, page.decoded_bytes - levels)
        except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise PageError(f"a page cannot be decompressed: {error}") from error


def _decompressed(content: bytes, compression: str, size: int) -> bytes:
    codec = arrow.Codec({"LZ4": "lz4_raw", HADOOP_LZ4: "lz4_raw"}.get(compression, compression.lower()))
    blocks, position, left = list[bytes](), 0, size
    # Blocks with their sizes before them, or none.
    while compression == HADOOP_LZ4 and position + 8 <= len(content) and left > 0:
        decoded, stored = (int.from_bytes(content[position + start : position + start + 4], "big") for start in (0, 4))
        if decoded > left or position + 8 + stored > len(content):
            break
        blocks.append(codec.decompress(content[position + 8 : position + 8 + stored], decoded, asbytes=True))
        position, left = position + 8 + stored, left - decoded
    if blocks and not left:
        return b"".join(blocks)
    return bytes(codec.decompress(content, size, asbytes=True))


def _referred_bytes(content: bytes, page: _Page, levels: int, lengths: NDArray[np.int64]) -> int:
    """The bytes of the texts that a page refers to."""
    if page.is_second_version:
        position = _whole(page.header.get(5, 0)) + _whole(page.header.get(6, 0))
    else:
        position = 0
        for _ in range(levels):
            position += 4 + int.from_bytes(content[position : position + 4], "little")
    if not 0 <= position < len(content):
        return 0
    width, total, left = content[position], 0, page.values
    if width > _MAX_INDEX_BITS or not len(lengths):
        raise PageError("a page refers to a dictionary that is none")
    reader = _Compact(content, position + 1)
    while left > 0 and reader.position < len(content):
        run = reader.varint()
        count = min(left, (run >> 1) * (8 if run & 1 else 1))
        if run & 1:
            total += _packed_bytes(content, reader.position, width, count, lengths)
            reader.position += (run >> 1) * width
        else:
            size = -(-width // 8)
            index = int.from_bytes(content[reader.position : reader.position + size], "little")
            total += count * int(lengths[min(index, len(lengths) - 1)])
            reader.position += size
        left -= max(count, 1)
    return total


def _packed_bytes(content: bytes, position: int, width: int, count: int, lengths: NDArray[np.int64]) -> int:
    """The bytes of `count` texts whose numbers stand one after the other, in `width` bits each."""
    total = 0
    for start in range(0, count if width else 0, _PACKED_AT_ONCE):
        begins = position + start * width // 8
        size = min(count - start, _PACKED_AT_ONCE)
        bits = np.unpackbits(np.frombuffer(content[begins : begins - (-size * width // 8)], np.uint8), bitorder="little")
        whole = len(bits) // width
        indices = bits[: whole * width].reshape(whole, width).astype(np.int64) @ (1 << np.arange(width))
        total += int(lengths[np.minimum(indices[:size], len(lengths) - 1)].sum())
    return total if width else count * int(lengths[0])


class ColumnChunk(NamedTuple):
    """A column in a row group, as the footer has it."""

    compression: str
    num_values: int
    data_page_offset: int
    dictionary_page_offset: int


def column_chunks(stream: IO[bytes], num_columns: int) -> list[list[ColumnChunk]]:
    """The columns of each row group.

    The footer is read here: `pyarrow` ends the process when it is asked for a column whose facts contradict each other.

    Args:
        stream: the file, which is not at any place afterwards.
        num_columns: of each row group.

    Raises:
        PageError: when the footer cannot be read, or a row group has other columns.
    """
    end = os.fstat(stream.fileno()).st_size - 8
    stream.seek(max(end, 0))
    size = int.from_bytes(stream.read(4), "little")
    stream.seek(max(end - size, 0))
    try:
        footer = _Compact(stream.read(size)).struct()
        groups = [[_column_chunk(column) for column in group[1]] for group in footer[4]]
    except (IndexError, KeyError, TypeError) as error:
        raise PageError("its footer is damaged") from error
    if any(len(group) != num_columns for group in groups):
        raise PageError("a row group has other columns than the file")
    return groups


def _column_chunk(column: dict[int, Any]) -> ColumnChunk:
    facts = column[3]
    codec = _whole(facts[4])
    if not 0 <= codec < len(_COMPRESSIONS):
        raise PageError(f"a column has the unknown compression {codec}")
    return ColumnChunk(_COMPRESSIONS[codec], *(_whole(facts.get(number, 0)) for number in (5, 9, 11)))


def column_pages(stream: IO[bytes], chunk: ColumnChunk, levels: int) -> ColumnPages:
    """The pages of a column chunk.

    Args:
        stream: the file, which is not at any place afterwards.
        chunk: where it is.
        levels: how many kinds of levels stand before the values of a page.

    Raises:
        PageError: when a header cannot be read.
    """
    found, position = ColumnPages(chunk.compression, levels), chunk.data_page_offset
    if 0 < chunk.dictionary_page_offset < position:
        position = chunk.dictionary_page_offset
    size = os.fstat(stream.fileno()).st_size
    while found.values < chunk.num_values and 0 <= position < size:
        header, length = _header(stream, position)
        kind, decoded, stored = (_whole(header.get(number, 0)) for number in (1, 2, 3))
        inner = header.get(_HEADERS.get(kind, 0), {})
        if not isinstance(inner, dict):
            raise PageError("a page's header holds a number where it should hold more")
        values = _whole(inner.get(1, 0))
        if min(decoded, stored, values) < 0:
            raise PageError("a page has a negative size")
        found.decoded_bytes += decoded
        found.largest_page = max(found.largest_page, decoded)
        page = _Page(position + length, stored, decoded, values, kind == DATA_V2, inner)
        if kind == DICTIONARY:
            found.dictionary = page
        elif kind in _ENCODINGS:
            found.add_values(page, _whole(inner.get(_ENCODINGS[kind], 0)))
        position += length + stored
    return found


def _levels(leaf: Any) -> int:
    return int(leaf.max_repetition_level > 0) + int(leaf.max_definition_level > 0)


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise PageError("a page's header holds something else than a number")
    return value


def _header(stream: IO[bytes], position: int) -> tuple[dict[int, Any], int]:
    """The header of the page at a place, and its length."""
    size = _FIRST_BYTES
    while True:
        stream.seek(position)
        data = stream.read(size)
        try:
            reader = _Compact(data)
            return reader.struct(), reader.position
        except IndexError as error:  # it goes on
            if len(data) < size or size >= _MOST_BYTES:
                raise PageError("a page's header is cut off") from error
            size *= 8


class _Compact:
    """A struct of Thrift's compact protocol: its numbers and structs by field."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data, self.position = data, position

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a struct."""
        if depth > _MAX_DEPTH:
            raise PageError("a page's header is nested too deeply")
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            kind = head & 15
            found[field] = kind != _FALSE if kind <= _FALSE else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_LIST, _SET):
            return self._list(depth)
        if _BYTE < kind < _DOUBLE:
            return self._number()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            self._skip({_BYTE: 1, _DOUBLE: 8}.get(kind) or self.varint())
            return None
        raise PageError(f"a header holds a value of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        kind = head & 15
        count = head >> 4 if head >> 4 < 15 else self.varint()  # noqa: PLR2004
        if count > len(self._data) - self.position or depth > _MAX_DEPTH:
            raise IndexError  # each item takes a byte at least
        if kind <= _FALSE:
            self._skip(count)
            return []
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self._data):
            raise IndexError

    def varint(self) -> int:
        """A number without a sign."""
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:  # noqa: PLR2004
                return value
            shift += 7
            if shift > 63:  # noqa: PLR2004
                raise PageError("a page's header holds a number that is too long")

    def _number(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)
