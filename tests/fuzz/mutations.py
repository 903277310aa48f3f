"""Damaged copies of sound inputs: bits turned, parts repeated, numbers that lie, and trees of JSON with other leaves."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Change = Callable[[bytes, Random], bytes]
"""One change of an input; the input itself where it cannot be changed so."""

MAX_BYTES = 1 << 15
INTEGERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
)
NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"2147483648",
    b"1e999999999",
    b"NaN",
    b"-Infinity",
    b"9" * 5000,
    b"0." + b"0" * 400 + b"1",
    b"00",
    b"1_0",
)
TEXTS = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\t",
    b"\xe2\x80\xa8",
    b"\x1b[2J",
    b"\\ud800",
    b"'",
    b'"',
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**63, -(2**63), 10**30, 1e308, float("nan"), float("inf"), 0.1, "", "a", "1", "..",
    "../x", "/dev/zero", "\x00", "\ud800", "a" * 300, "auto", [], {}, [[]], [None], [0, 0], {"": None}, {"a": {"a": {}}},
)  # fmt: skip
REPEATED = (2, 2, 3, 3, 8, 8, 64, 500, 3000)


def mutated(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], changes: Sequence[Change], random: Random) -> bytes:
    """A copy of an input with one or a few changes.

    Args:
        data: the input.
        others: inputs of the same reader, parts of which may be spliced in.
        tokens: words of the format.
        changes: further kinds of changes, which know the format.
        random: decides what is changed.
    """
    for _ in range(min(1 + int(random.expovariate(0.8)), 8)):
        if changes and random.random() < 0.5:
            data = random.choice(changes)(data, random)
        else:
            data = random.choice(_PLAIN)(data, random, others, tokens)
        data = data[:MAX_BYTES]
    return data


def _span(data: bytes, random: Random, most: int = 64) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randint(0, most))


def _flip(data: bytes, random: Random, *_: Any) -> bytes:
    if not data:
        return b"\x00"
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]


def _byte(data: bytes, random: Random, *_: Any) -> bytes:
    place = random.randrange(len(data) + 1)
    return (
        data[:place]
        + bytes([random.choice((0, 1, 9, 10, 13, 32, 34, 44, 127, 128, 255, random.randrange(256)))])
        + data[place + 1 :]
    )


def _cut(data: bytes, random: Random, *_: Any) -> bytes:
    start, end = _span(data, random, 1 << random.randrange(14))
    return data[:start] + data[end:] if random.random() < 0.8 else data[:start]


def _repeat(data: bytes, random: Random, *_: Any) -> bytes:
    start, end = _span(data, random, 1 << random.randrange(8))
    return data[:start] + data[start:end] * random.choice(REPEATED) + data[end:]


def _splice(data: bytes, random: Random, others: Sequence[bytes], *_: Any) -> bytes:
    other = random.choice(others)
    start, end = _span(other, random, 1 << random.randrange(12))
    into, out = _span(data, random)
    return data[:into] + other[start:end] + data[out if random.random() < 0.5 else into :]


def _token(data: bytes, random: Random, _: Any, tokens: Sequence[bytes]) -> bytes:
    start, end = _span(data, random, 8)
    token = random.choice((*tokens, *TEXTS, *NUMBERS)) * (1 if random.random() < 0.9 else random.choice(REPEATED))
    return data[:start] + token + data[end if random.random() < 0.5 else start :]


def _integer(data: bytes, random: Random, *_: Any) -> bytes:
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    value = random.choice(INTEGERS) & ((1 << 8 * size) - 1)
    place = random.randrange(len(data) + 1)
    return data[:place] + value.to_bytes(size, order) + data[place + size :]  # type: ignore[arg-type]


def _digits(data: bytes, random: Random, *_: Any) -> bytes:
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    start = end = random.choice(places)
    while data[end : end + 1].isdigit():
        end += 1
    return data[:start] + random.choice(NUMBERS) + data[end:]


_PLAIN = (_flip, _flip, _byte, _cut, _repeat, _splice, _token, _token, _integer, _digits)


def json_change(data: bytes, random: Random) -> bytes:
    """JSON with a value, a name or a whole branch changed."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data
    try:
        return json.dumps(_changed_tree(tree, random), ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # the first of an integer of too many digits
        return data


def _changed_tree(tree: Any, random: Random) -> Any:
    if not isinstance(tree, list | dict) or not tree or random.random() < 0.15:
        return _changed_leaf(tree, random)
    choice = random.random()
    if isinstance(tree, list):
        place = random.randrange(len(tree))
        if choice < 0.2:  # leave it out, or repeat it
            return tree[:place] + [tree[place]] * random.choice((0, *REPEATED[:6])) + tree[place + 1 :]
        return [_changed_tree(item, random) if at == place else item for at, item in enumerate(tree)]
    chosen = random.choice(list(tree))
    if choice < 0.1:
        return {name: value for name, value in tree.items() if name != chosen}
    if choice < 0.15:
        return {str(_changed_leaf(name, random)) if name == chosen else name: value for name, value in tree.items()}
    return {name: _changed_tree(value, random) if name == chosen else value for name, value in tree.items()}


def _changed_leaf(value: Any, random: Random) -> Any:
    choice = random.random()
    if choice < 0.7 or value is None:
        return random.choice(VALUES)
    if choice < 0.8:
        for _ in range(random.choice((1, 2, 60, 400))):
            value = [value] if random.random() < 0.5 else {"a": value}
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * random.choice((-1, 2, 1000, 10**9)) + random.choice((-1, 0, 1))
    return value * random.choice(REPEATED) if isinstance(value, str) and len(value) < 99 else random.choice(VALUES)


def png_change(data: bytes, random: Random) -> bytes:
    """A PNG image with another value in a chunk, whose checksum fits."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    chunks, place = [], 8
    while place + 12 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    if not chunks:
        return data
    chosen = random.randrange(len(chunks))
    name, content = chunks[chosen]
    chunks[chosen] = (name, random.choice((_flip, _integer, _integer, _repeat, _cut))(content, random))
    if random.random() < 0.2:
        chunks.insert(random.randrange(len(chunks)), chunks[chosen])
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def zip_change(data: bytes, random: Random) -> bytes:
    """A zip file with another content, or another name, of a member."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(entry.filename, archive.read(entry)[:MAX_BYTES]) for entry in archive.infolist()[:20]]
    except Exception:
        return data
    if not members:
        return data
    chosen = random.randrange(len(members))
    name, content = members[chosen]
    if random.random() < 0.1:
        members[chosen] = (random.choice(("../x", name + "x", "a/" + name, "")), content)
    else:
        members[chosen] = (name, random.choice(_PLAIN[:5])(content, random))
    if random.random() < 0.1:
        members = members[:chosen] + members[chosen + 1 :]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members:
            archive.writestr(name or "x", content)
    return out.getvalue()


def header_change(data: bytes, random: Random) -> bytes:
    """A safetensors file with another header, whose length fits."""
    (size,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))
    if size > len(data):
        return data
    header = json_change(data[8 : 8 + size], random)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def tail_change(data: bytes, random: Random) -> bytes:
    """A change in the last part of a file, where Parquet has its footer."""
    if len(data) < 12 or not data.endswith(b"PAR1"):
        return data
    (size,) = struct.unpack("<I", data[-8:-4])
    start = max(0, len(data) - 8 - size)
    footer = random.choice((_flip, _flip, _byte, _integer, _repeat, _cut))(data[start:-8], random)
    return data[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def inside(change: Change, size: int) -> Change:
    """A change of what follows the first `size` bytes, which choose among the variants of a reader."""
    return lambda data, random: data[:size] + change(data[size:], random)
