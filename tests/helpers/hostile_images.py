"""Images that ask for much more than their bytes, made by hand; and how much memory a fresh process takes to decode them."""

import functools
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

PROGRAM = """
import json, sys, threading, warnings
warnings.simplefilter("ignore")
from hubflow.modules.images import decode_image

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def decoded(path):
    try:
        return decode_image(path, 224) and "decoded"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

threads, first, *paths = json.loads(sys.stdin.read())
decoded(first)
found = []
for group in [paths] if threads else [[path] for path in paths]:
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
    before, outcomes = peak(), []
    running = [threading.Thread(target=lambda path=path: outcomes.append(decoded(path))) for path in group]
    for one in running:
        one.start()
    for one in running:
        one.join()
    found.append([(peak() - before) * 1024, *outcomes])
print(json.dumps(found))
"""


class Decoding(NamedTuple):
    """What came of decoding images in a fresh process, and how many bytes more than before it has held."""

    memory: int
    outcomes: list[str]


MEBIBYTE, ADLER_BASE = 1 << 20, 65521
LAST_BLOCK = b"\x03\x00"  # empty, of fixed codes: RFC 1951


def decode_in_a_process(
    folder: Path, contents: Mapping[str, bytes], at_once: bool = False, env: Mapping[str, str] | None = None
) -> list[Decoding]:
    """Each of the images by itself, or all of them by a thread each."""
    small = folder / "small.png"
    Image.new("RGB", (8, 8)).save(small)
    paths: list[str] = []
    for number, content in enumerate(contents.values()):
        (folder / f"{number}.img").write_bytes(content)
        paths.append(str(folder / f"{number}.img"))
    asked = json.dumps([at_once, str(small), *paths])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=asked, capture_output=True, text=True, check=True, timeout=500, env=env
    )
    return [Decoding(memory, outcomes) for memory, *outcomes in json.loads(done.stdout)]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int = 8, colours: int = 0, further: bytes = b"", is_whole: bool = True) -> bytes:
    """A PNG of zeros, or without any pixels; `colours` is its colour type."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    packed = zlib.compressobj(9)
    row = bytes(1 + (width * bits * channels + 7) // 8) if is_whole else b""
    data = b"".join(packed.compress(row) for _ in range(height if is_whole else 0)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + further + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(tags: Sequence[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF file of one directory and then `data`, which begins at `tiff_data(len(tags))`."""
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4) + data


def tiff_data(tags: int) -> int:
    """Where the data of such a file begins."""
    return 8 + 2 + 12 * tags + 4


def fax(width: int, height: int) -> bytes:
    """A TIFF file compressed as group 4, of 64 bytes of data."""
    size = [(256, 4, 1, width), (257, 4, 1, height), (278, 4, 1, height)]
    kind = [(258, 3, 1, 1), (259, 3, 1, 4), (262, 3, 1, 0), (277, 3, 1, 1)]
    return tiff([*size, *kind, (273, 4, 1, tiff_data(9)), (279, 4, 1, 64)], b"\xff" * 64)


def large_tile(side: int) -> bytes:
    """A TIFF file of 64 x 64 pixels, in one compressed tile of `side` x `side`."""
    size = [(256, 4, 1, 64), (257, 4, 1, 64), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, tiff_data(10)), (325, 4, 1, 64)]
    return tiff([*size, (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)], bytes(64))


def many_tags(tags: int, size: int) -> bytes:
    """A TIFF file whose tags all have the same `size` bytes as their value."""
    own = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1)]
    place = tiff_data(tags + 9)
    return tiff([*own, (278, 3, 1, 8), (279, 4, 1, 64), *((1000 + tag, 1, size, place) for tag in range(tags))], bytes(size))


def circle_of_directories() -> bytes:
    """A TIFF file whose second directory is its first."""
    content = bytearray(many_tags(0, 64))
    content[tiff_data(9) - 4 : tiff_data(9)] = struct.pack("<I", 8)
    return bytes(content)


def webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend((value >> place) & 1 for place in range(count))

    for value, count in ((0x2F, 8), (width - 1, 14), (height - 1, 14), (1, 1), (0, 3), (0, 3)):
        put(value, count)
    for symbol in (0, 255, 0, 255, 0):  # of green, red, blue, alpha and distance, each the only one
        put(1, 1)
        put(0, 1)
        put(int(symbol > 1), 1)
        put(symbol, 8 if symbol > 1 else 1)
    packed = bytes(sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)) + bytes(4)
    packed += bytes(len(packed) % 2)
    body = b"WEBPVP8L" + struct.pack("<I", len(packed)) + packed
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated_webp(width: int, height: int, frames: int) -> bytes:
    """Frames of 16 x 16 on a canvas."""

    def three(value: int) -> bytes:
        return struct.pack("<I", value)[:3]

    frame = three(0) * 2 + three(15) * 2 + three(10) + b"\0" + webp(16, 16)[12:]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([0x12, 0, 0, 0]) + three(width - 1) + three(height - 1)
    body = b"WEBP" + extended + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += (b"ANMF" + struct.pack("<I", len(frame)) + frame + bytes(len(frame) % 2)) * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(width: int, height: int, frames: int) -> bytes:
    """Frames of one pixel on a canvas."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\1\1\1" + frame * frames + b";"


def saved(mode: str, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    """An image that Pillow writes."""
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = saved("L", (side, side), "JPEG", progressive=True)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * scans + content[-2:]


def with_head(kind: bytes, first: int, second: int) -> bytes:
    """Headers without pixels, of formats that are nothing but a header and pixels."""
    if kind == b"BM":
        return (
            b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, first, second, 1, 24, 0, 0, 0, 0, 0, 0)
        )
    return kind + b" %d %d 255\n" % (first, second)


@functools.cache
def compressed_zeros(mebibytes: int) -> bytes:
    """As many zeros as zlib compresses them, by repeating what it makes of a part: to compress a gibibyte takes seconds."""
    packer = zlib.compressobj(9)
    part = packer.compress(bytes(MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    header, block = part[:2], part[2:]
    checksum = (mebibytes * MEBIBYTE % ADLER_BASE) << 16 | 1  # Adler-32 of zeros, RFC 1950
    return header + block * mebibytes + LAST_BLOCK + checksum.to_bytes(4, "big")
