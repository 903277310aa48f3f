"""Images: every mode that Pillow reads becomes RGB of one size; what does not decode is named."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubflow.errors import ImageError
from hubflow.modules.images import decode_image, load_pixels, perceptual_hash, square_pixels


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    source = noise(20, 20).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    pixels = load_pixels(encoded(source, kind), 8)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.uint8)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (31, 9), (1, 1), (7, 8), (1000, 8)])
def test_the_middle_square_is_kept(size: tuple[int, int]) -> None:
    assert load_pixels(encoded(noise(*size)), 8).shape == (3, 8, 8)


def test_the_shorter_side_is_resized_and_the_middle_kept() -> None:
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 0, 255), (10, 0, 20, 10))
    pixels = load_pixels(encoded(image), 10)
    assert (pixels[2] == 255).all()
    assert (pixels[0] == 0).all()


def test_pixels_of_the_right_size_pass_unchanged() -> None:
    image = noise(16, 16)
    np.testing.assert_array_equal(load_pixels(encoded(image), 16), np.asarray(image).transpose(2, 0, 1))
    np.testing.assert_array_equal(square_pixels(image, 16), np.asarray(image).transpose(2, 0, 1))


def test_a_file_its_bytes_and_its_image_give_the_same(tmp_path: Path) -> None:
    image = noise(40, 30)
    (tmp_path / "a.png").write_bytes(encoded(image))
    expected = load_pixels(tmp_path / "a.png", 12)
    np.testing.assert_array_equal(load_pixels(str(tmp_path / "a.png"), 12), expected)
    np.testing.assert_array_equal(load_pixels(encoded(image), 12), expected)
    np.testing.assert_array_equal(square_pixels(image, 12), expected)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no image", lambda data: b""])
def test_what_does_not_decode_is_named(damage: "object", tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(damage(encoded(noise(64, 64))))  # type: ignore[operator]
    with pytest.raises(ImageError, match=r"broken\.png: not an image that can be decoded .*; mend or remove it"):
        load_pixels(path, 8)
    with pytest.raises(ImageError, match="row 7: not an image"):
        load_pixels(path.read_bytes(), 8, "row 7")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError, match=str(path)):
            load_pixels(path, 8)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    data = encoded(Image.new("1", (10_001, 10_001)))
    started = time.perf_counter()
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageError, match="10001x10001 pixels; at most 100,0"):
        load_pixels(data, 8, "bomb.png")
    assert time.perf_counter() - started < 1


def test_a_very_long_image_is_not_blown_up_before_it_is_cropped() -> None:
    data = encoded(Image.new("RGB", (50_000, 1), (9, 9, 9)))
    started = time.perf_counter()
    pixels = load_pixels(data, 64)
    assert time.perf_counter() - started < 1
    assert (pixels == 9).all()


def test_one_decoding_gives_pixels_size_and_hash() -> None:
    data = encoded(noise(40, 30))
    image = decode_image(data, 12)
    np.testing.assert_array_equal(image.pixels, load_pixels(data, 12))
    assert (image.width, image.height) == (40, 30)
    assert 0 < image.phash < 2**64
    large = decode_image(encoded(noise(640, 480), "JPEG"), 32)  # decoded at a smaller scale
    assert (large.width, large.height) == (640, 480)


def test_the_hash_is_that_of_the_look_and_nothing_else() -> None:
    soft = noise(6, 5).resize((120, 100), Image.Resampling.BICUBIC)
    other = noise(7, 4).resize((120, 100), Image.Resampling.BICUBIC)

    def apart(image: Image.Image) -> int:
        return (perceptual_hash(image) ^ perceptual_hash(soft)).bit_count()

    assert apart(Image.open(io.BytesIO(encoded(soft, "JPEG")))) <= 4
    assert apart(soft.resize((60, 50))) <= 4
    assert apart(soft.convert("L")) <= 4
    assert apart(other) > 12
    assert all(perceptual_hash(Image.new("RGB", (50, 40), colour)).bit_count() < 2 for colour in ("black", "white", "red"))


def test_no_fault_of_a_reader_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (EOFError("end"), KeyError("tag"), OverflowError("size")):

        def fail(_source: object, formats: object, error: Exception = error) -> Image.Image:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ImageError, match=r"x\.png: not an image"):
            load_pixels(b"x", 8, "x.png")
