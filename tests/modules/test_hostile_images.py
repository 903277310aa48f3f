"""Images that ask for much more than their bytes are refused before they are decoded; what is decoded takes bounded memory."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hostile_images import (
    animated_webp,
    chunk,
    circle_of_directories,
    compressed_zeros,
    decode_in_a_process,
    fax,
    gif,
    large_tile,
    many_scans,
    many_tags,
    png,
    saved,
    webp,
    with_head,
)
from PIL import Image

from hubflow.data.readers.reading import iter_rows
from hubflow.errors import ImageError
from hubflow.modules.images import _MEMORY, decode_image, load_pixels, read_image
from hubflow.schemas.settings import DatasetSpec

MEBIBYTE = 1 << 20
SIDE, PIXELS = r"at most 65,535 pixels a side are decoded \(limits\.max_image_side\)", r"\(limits\.max_image_pixels\)"
REFUSED = {
    "PNG, high": (png(1, 99_999_999, is_whole=False), SIDE),
    "PNG, wide": (png(99_999_999, 1, is_whole=False), SIDE),
    "PNG, large": (png(20_000, 20_000, is_whole=False), PIXELS),
    "WebP": (webp(16_383, 16_383), PIXELS),
    "WebP, between the limits of Pillow and ours": (webp(16_383, 8_000), PIXELS),
    "WebP, canvas": (animated_webp(1 << 24, 255, 1), PIXELS),
    "TIFF of a fax, high": (fax(1, 99_999_999), SIDE),
    "TIFF of a fax, large": (fax(20_000, 20_000), PIXELS),
    "TIFF, tile": (large_tile(1 << 15), f"tiles of 32768x32768 pixels.*{PIXELS}"),
    "TIFF, tile beyond 32 bits": (large_tile(1 << 20), SIDE),
    "GIF": (gif(65_535, 65_535, 1), PIXELS),
    "BMP": (with_head(b"BM", 1, 99_999_999), SIDE),
    "PPM": (with_head(b"P6", 1, 99_999_999), SIDE),
    "PGM": (with_head(b"P5", 65_535, 65_535), PIXELS),
    "JPEG, scans": (many_scans(512, 200), r"of 2\d\d scans; at most 100 scans are decoded \(limits\.max_image_scans\)"),
    "EPS": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
        "it is EPS, which is not read",
    ),
    "PNG, text": (png(8, 8, further=chunk(b"zTXt", b"k\0\0" + compressed_zeros(1024))), "MAX_TEXT_CHUNK"),
    "PNG, many texts": (
        png(8, 8, further=chunk(b"zTXt", b"k\0\0" + compressed_zeros(1)) * 100),
        "Too much memory used in text chunks",
    ),
    "PNG, profile": (png(8, 8, further=chunk(b"iCCP", b"k\0\0" + compressed_zeros(1024))), "MAX_TEXT_CHUNK"),
}
"""What asks for much: the text of its refusal."""
DECODED = {
    "PNG, EXIF whose tags share their data": png(8, 8, further=chunk(b"eXIf", many_tags(2_000, MEBIBYTE))),
    "TIFF, tags that share their data": many_tags(2_000, MEBIBYTE),
    "TIFF, a circle of pages": circle_of_directories(),
    "APNG of four billion frames": png(8, 8, further=chunk(b"acTL", b"\xff\xff\xff\xff\0\0\0\0")),
    "WebP of many frames": animated_webp(64, 64, 10_000),
    "GIF of many frames": gif(64, 64, 100_000),
}
"""What asks for much where it is not needed."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Of each image, how much memory it took and what came of it."""
    contents = {name: content for name, (content, _) in REFUSED.items()} | DECODED
    found = decode_in_a_process(tmp_path_factory.mktemp("hostile"), contents)
    return {name: (one.memory, one.outcomes[0]) for name, one in zip(contents, found, strict=True)}


@pytest.mark.parametrize("name", REFUSED)
def test_what_asks_for_much_is_refused_before_it_is_decoded(hostile: dict[str, tuple[int, str]], name: str) -> None:
    memory, outcome = hostile[name]
    assert outcome.startswith("ImageError: ")
    with pytest.raises(ImageError, match=REFUSED[name][1]):
        raise ImageError(outcome)
    assert memory < 80 * MEBIBYTE


@pytest.mark.parametrize("name", DECODED)
def test_what_is_not_needed_takes_nothing(hostile: dict[str, tuple[int, str]], name: str) -> None:
    memory, outcome = hostile[name]
    assert outcome == "decoded"
    assert memory < 80 * MEBIBYTE


@pytest.mark.slow
def test_an_image_takes_what_is_counted_for_it(tmp_path: Path) -> None:
    """The budget of threads counts by pixels: what a file of each kind takes is no more."""
    from hubflow.modules.images import _PIXEL_BYTES, _USUAL_PIXEL_BYTES

    side = 3_000
    grey = np.zeros((side, side))
    files = {
        "png RGB": saved("RGB", (side, side), "PNG"),
        "png RGBA": saved("RGBA", (side, side), "PNG"),
        "png LA": saved("LA", (side, side), "PNG"),
        "png, turned": saved("RGBA", (side, side), "PNG", exif=_turned()),
        "png, 16 bits": png(side, side, 16, 0, chunk(b"tRNS", b"\0\0")),
        "png, palette": saved("P", (side, side), "PNG", transparency=0),
        "tiff F": _tiff(grey.astype(np.float32)),
        "tiff I": _tiff(grey.astype(np.int32)),
        "gif, canvas": gif(side, side, 1),
        "jpeg": saved("RGB", (side, side), "JPEG"),
        "jpeg CMYK": saved("CMYK", (side, side), "JPEG"),
        "progressive": saved("RGB", (side, side), "JPEG", progressive=True),
        "webp": saved("RGBA", (side, side), "WEBP"),
        "avif": saved("RGBA", (side, side), "AVIF", speed=10),
        "jpeg2000": saved("RGBA", (side, side), "JPEG2000"),
    }
    found = decode_in_a_process(tmp_path, files)
    for name, one in zip(files, found, strict=True):
        counted = _PIXEL_BYTES.get(name if name == "progressive" else name.split()[0].upper(), _USUAL_PIXEL_BYTES)
        assert one.outcomes == ["decoded"]
        assert one.memory <= counted * side**2 + 40 * MEBIBYTE, (name, one.memory / side**2)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _tiff(values: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    return stream.getvalue()


@pytest.mark.slow
def test_threads_decode_large_images_one_after_the_other(tmp_path: Path) -> None:
    large = {str(number): saved("RGBA", (3_000, 3_000), "PNG") for number in range(4)}
    limit = {**os.environ, "HUBFLOW_LIMITS_IMAGE_MEMORY_BYTES": "1000000"}
    (alone,) = decode_in_a_process(tmp_path, {"0": large["0"]}, at_once=True)
    (together,) = decode_in_a_process(tmp_path, large, at_once=True, env=limit)
    (free,) = decode_in_a_process(tmp_path, large, at_once=True)
    assert together.outcomes == free.outcomes == ["decoded"] * 4
    assert together.memory < 1.5 * alone.memory + 10 * MEBIBYTE < free.memory


def test_memory_is_shared_within_the_budget_and_in_turn() -> None:
    budget, in_use, most = 100, [0], [0]
    lock = threading.Lock()
    order: list[int] = []

    def take(need: int) -> None:
        with _MEMORY.taken(need, budget):
            with lock:
                in_use[0] += need
                most[0] = max(most[0], in_use[0])
                order.append(need)
            time.sleep(0.01)
            with lock:
                in_use[0] -= need

    threads = [threading.Thread(target=take, args=(need,)) for need in [30] * 6 + [100] + [10] * 30 + [50] * 4]
    for one in threads:
        one.start()
        time.sleep(0.001)
    for one in threads:
        one.join(30)
    assert not any(one.is_alive() for one in threads)
    assert most[0] <= budget
    assert order.index(100) < len(order) - 10  # who needs all of it is not overtaken for ever
    with pytest.raises(ZeroDivisionError), _MEMORY.taken(budget, budget):
        _ = 1 / 0
    with _MEMORY.taken(10 * budget, budget):  # more than the budget: alone
        pass


def test_the_limits_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    assert load_pixels(tmp_path / "a.png", 8).shape == (3, 8, 8)
    for name, value in (("MAX_IMAGE_SIDE", "39"), ("MAX_IMAGE_PIXELS", "799"), ("MAX_IMAGE_BYTES", "50")):
        with monkeypatch.context() as patch:
            patch.setenv(f"HUBFLOW_LIMITS_{name}", value)
            for source in (tmp_path / "a.png", str(tmp_path / "a.png")):
                with pytest.raises(ImageError, match=f"a.png.*limits.{name.lower()}"):
                    decode_image(source, 8)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_IMAGE_PIXELS", "799")
    with pytest.raises(ImageError, match="at most 799"):
        read_image(Image.new("RGB", (40, 20)))


def test_an_image_file_that_is_too_large_is_a_malformed_row_and_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "a.png")
    with (tmp_path / "cat" / "b.png").open("wb") as stream:
        stream.truncate(1 << 42)  # which takes no space on disk, and hours to read
    (chunk_of_rows,) = iter_rows(DatasetSpec(format="image_folder", train="x"), tmp_path, "train")
    assert len(chunk_of_rows.rows) == 1
    assert chunk_of_rows.malformed["found"].str.contains(r"4,398,046,511,104 bytes; .*limits\.max_image_bytes").all()


def test_an_image_that_is_cut_while_it_is_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A file that was mapped into memory would end the process: Pillow is given a stream, and maps nothing."""
    path = tmp_path / "a.bmp"
    Image.new("RGB", (2_000, 2_000)).save(path)
    whole = path.read_bytes()
    done = threading.Event()

    def cut() -> None:
        while not done.is_set():
            os.truncate(path, 100)
            path.write_bytes(whole)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        for _ in range(40):
            try:
                load_pixels(path, 32)
            except ImageError as error:
                assert str(path) in str(error)
    finally:
        done.set()
        thread.join()
