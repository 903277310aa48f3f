"""What a person sees of an image file is what the model gets: orientation, depth, transparency, colours, first frames."""

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from hubflow.errors import ImageError, StoreError
from hubflow.modules.images import ImageRules, decode_image, is_image_file, load_pixels, read_image

PATCHES = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
PHOTO = Image.fromarray(np.kron(PATCHES, np.ones((16, 16, 1), np.uint8)))
STORED = {  # how a camera stores the picture that its orientation then turns upright, by Exif 2.32, 4.6.4
    1: np.asarray(PHOTO),
    2: np.asarray(PHOTO)[:, ::-1],
    3: np.asarray(PHOTO)[::-1, ::-1],
    4: np.asarray(PHOTO)[::-1],
    5: np.asarray(PHOTO).transpose(1, 0, 2),
    6: np.rot90(np.asarray(PHOTO), 1),
    7: np.asarray(PHOTO)[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(np.asarray(PHOTO), -1),
}
WHITE, GREEN = (255, 255, 255), (0, 128, 0)


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def oriented(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}.get(kind, {})
    return encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation])), kind, exif=exif, **options)


def seen(source: bytes | Image.Image, **more: Any) -> NDArray[np.uint8]:
    return np.asarray(read_image(source, **more).colours)


def grey(source: bytes | Image.Image) -> list[int]:
    """The first row, which is grey."""
    pixels = seen(source)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    found: list[int] = pixels[0, :, 0].tolist()
    return found


def like(found: Any, expected: Any, mean: float) -> bool:
    return bool(np.abs(np.asarray(found, int) - np.asarray(expected, int)).mean() <= mean)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(orientation: int, kind: str) -> None:
    data = oriented(orientation, kind)
    image = read_image(data)
    assert (image.width, image.height) == image.colours.size == PHOTO.size
    assert like(image.colours, PHOTO, 8 if kind in ("JPEG", "AVIF") else 0)
    assert image.changes == (("turned",) if orientation > 1 else ())
    opened = Image.open(io.BytesIO(data))
    assert like(read_image(opened).colours, image.colours, 0)
    assert like(load_pixels(data, 16), load_pixels(PHOTO, 16), 8)
    if kind != "TIFF":
        assert like(read_image(opened.convert("RGB")).colours, image.colours, 0)  # which keeps the EXIF data


def test_the_same_picture_stored_turned_gives_the_same_pixels(shared_case: Callable[[str], Path]) -> None:
    photos = shared_case("exif-orientation") / "photos"
    upright = decode_image(photos / "upright.png", 32)
    for name in ("same_picture_camera_upside_down.png", "same_as_jpeg.jpg"):
        turned = decode_image(photos / name, 32)
        assert turned.changes == ("turned",)
        assert like(turned.pixels, upright.pixels, 0 if name.endswith("png") else 25)  # the JPEG's edges are sharper
        assert not like(turned.pixels, upright.pixels[:, ::-1, ::-1], 50)


def test_a_turned_jpeg_is_still_decoded_at_a_smaller_scale() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(PHOTO.resize((1600, 960)), "JPEG", exif=exif)
    image = read_image(data, 64)
    assert (image.width, image.height) == (960, 1600)
    assert image.colours.size == (120, 200)


def test_exif_data_that_cannot_be_read_turn_nothing() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        image = read_image(encoded(PHOTO, kind, exif=b"Exif\0\0no TIFF header"))
        assert image.changes == (() if kind == "JPEG" else ("orientation_unreadable",))  # Pillow passes over those of JPEG
        assert image.colours.size == PHOTO.size
    exif = Image.Exif()
    exif[0x0112] = 9
    assert read_image(encoded(PHOTO, "PNG", exif=exif)).changes == ()


STEPS = np.array([[0, 1, 128, 254, 255]])


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(encoded(Image.fromarray((STEPS * 257).astype(np.uint16))), id="PNG"),
        pytest.param(encoded(Image.fromarray((STEPS * 257).astype(np.uint16)), "TIFF"), id="TIFF"),
        pytest.param(encoded(Image.fromarray((STEPS * 257).astype(">u2")), "TIFF"), id="big-endian TIFF"),
        pytest.param(encoded(Image.fromarray((STEPS * 257).astype(np.int32)), "PPM"), id="PGM"),
        pytest.param(encoded(Image.fromarray((STEPS * 257).astype(np.int32)), "TIFF"), id="16 bits in TIFF of 32"),
        pytest.param(encoded(Image.fromarray(STEPS.astype(np.int32)), "TIFF"), id="8 bits in TIFF of 32"),
        pytest.param(encoded(Image.fromarray((STEPS * 8421504).astype(np.int32)), "TIFF"), id="TIFF of 32 bits"),
        pytest.param(Image.fromarray((STEPS * 257).astype(np.uint16)), id="I;16"),
        pytest.param(Image.fromarray((STEPS * 257).astype(">u2")), id="I;16B"),
        pytest.param(Image.fromarray((STEPS * 257).astype(np.int32)), id="I"),
        pytest.param(encoded(Image.fromarray((STEPS / 255).astype(np.float32)), "TIFF"), id="floats to 1"),
        pytest.param(encoded(Image.fromarray(STEPS.astype(np.float32)), "TIFF"), id="floats to 255"),
        pytest.param(encoded(Image.fromarray((STEPS * 257).astype(np.float32)), "TIFF"), id="floats to 65535"),
        pytest.param(Image.fromarray((STEPS / 51 - 2.5).astype(np.float32)), id="floats from -2.5 to 2.5"),
        pytest.param(Image.fromarray((STEPS * 1.5).astype(np.float32)), id="floats to 382.5"),
        pytest.param(Image.fromarray((STEPS - 100).astype(np.int32)), id="negative numbers"),
    ],
)
def test_grey_of_any_depth_is_scaled_to_eight_bits(image: bytes | Image.Image) -> None:
    assert grey(image) == STEPS[0].tolist()
    assert read_image(image).changes == ("depth_scaled",)


def test_dark_images_of_16_bits_stay_dark() -> None:
    dark = Image.fromarray(np.array([[0, 100, 255]], np.uint16))
    assert grey(encoded(dark)) == grey(dark) == grey(encoded(dark, "TIFF")) == [0, 0, 1]


def tiff(values: NDArray[Any], photometric: int, sample_format: int, is_compressed: bool = False) -> bytes:
    """A TIFF of one strip for each plane of `values` `[height, width]` or `[planes, height, width]`, as others write it."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    planes = values.reshape(-1, *values.shape[-2:])
    count, height, width = planes.shape
    strips = [zlib.compress(plane.tobytes()) if is_compressed else plane.tobytes() for plane in planes]
    starts = np.cumsum([8, *map(len, strips)])
    end = int(starts[-1])
    lists = [[values.itemsize * 8] * count, starts[:-1].tolist(), list(map(len, strips)), [sample_format] * count]
    outside = b"".join(struct.pack(f"{order}{count}I", *one) for one in lists)
    places = [one[0] if count == 1 else end + 4 * count * place for place, one in enumerate(lists)]
    entries = [
        (256, 1, width), (257, 1, height), (258, count, places[0]), (259, 1, 8 if is_compressed else 1), (262, 1, photometric),
        (273, count, places[1]), (277, 1, count), (278, 1, height), (279, count, places[2]), (284, 1, 2 if count > 1 else 1),
        (339, count, places[3]),
    ]  # fmt: skip
    table = struct.pack(f"{order}H", len(entries))
    table += b"".join(struct.pack(f"{order}HHII", tag, 4, number, value) for tag, number, value in entries)
    head = struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, end + len(outside))
    return head + b"".join(strips) + outside + table + bytes(4)


def test_tiff_says_whether_numbers_are_signed_and_which_end_is_white() -> None:
    assert grey(tiff((STEPS * 257).astype("<u2"), photometric=0, sample_format=1)) == (255 - STEPS[0]).tolist()
    assert grey(tiff((STEPS * 16843009).astype("<u4"), photometric=1, sample_format=1)) == STEPS[0].tolist()
    assert grey(tiff((STEPS * 128.4980392).astype("<i2"), photometric=1, sample_format=2)) == STEPS[0].tolist()
    assert grey(tiff((STEPS / 255).astype("<f4"), photometric=0, sample_format=3)) == (255 - STEPS[0]).tolist()


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_either_byte_order_is_read_as_it_was_written(order: str, is_compressed: bool) -> None:
    def read(values: NDArray[Any], kind: str, sample_format: int) -> list[int]:
        return grey(tiff(values.astype(f"{order}{kind}"), 1, sample_format, is_compressed))

    steps = STEPS[0].tolist()
    assert read(STEPS / 255, "f4", 3) == read(STEPS * 257, "u2", 1) == read(STEPS * 257, "i4", 2) == steps
    assert read((STEPS - 128) * 100, "i2", 2) == read(STEPS - 100, "i4", 2) == read(STEPS - 128, "i1", 2) == steps
    planes = np.asarray(PHOTO).transpose(2, 0, 1)
    for deep in (planes.astype(f"{order}u2") * 257, planes):
        np.testing.assert_array_equal(seen(tiff(deep.astype(deep.dtype.newbyteorder(order)), 2, 1, is_compressed)), PHOTO)


def deep_jpeg_2000(bits: int) -> bytes:
    """A picture in JPEG 2000 whose header names another depth of its three components."""
    content = bytearray(encoded(PHOTO, "JPEG2000"))
    start = content.index(b"\xff\x4f\xff\x51")
    content[start + 42 : start + 51 : 3] = bytes([bits - 1] * 3)
    return bytes(content)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_colours_of_jpeg_2000_are_refused(bits: int) -> None:  # Pillow shows the brightest of them as black
    with pytest.raises(ImageError, match=f"it is JPEG 2000 with colours of {bits} bits, which are not read; convert it"):
        read_image(deep_jpeg_2000(bits))
    np.testing.assert_array_equal(seen(deep_jpeg_2000(8)), PHOTO)


def test_values_that_are_no_number_are_black_and_infinite_ones_the_ends() -> None:
    values = np.array([[np.nan, 0.5, np.inf, -np.inf, 1]], np.float32)
    assert grey(Image.fromarray(values)) == [0, 128, 255, 0, 255]
    assert grey(Image.fromarray(np.full((1, 2), np.nan, np.float32))) == [0, 0]
    assert grey(Image.fromarray(np.full((1, 2), 7.5, np.float32))) == [0, 0]


def see_through() -> Image.Image:
    """Opaque blue on the left, and red that nobody sees on the right."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    return image


TRANSPARENT = {
    "PNG": encoded(see_through()),
    "WebP": encoded(see_through(), "WEBP", lossless=True),
    "TIFF": encoded(see_through(), "TIFF"),
    "GIF": encoded(see_through(), "GIF"),
    "palette": encoded(see_through().quantize(4)),
    "palette of one clear colour": encoded(see_through().convert("RGB").quantize(2), transparency=0),
    "JPEG 2000": encoded(see_through(), "JPEG2000"),
    "grey with alpha": encoded(see_through().convert("LA")),
    "RGB with tRNS": encoded(see_through().convert("RGB"), transparency=(255, 0, 0)),
    "grey with tRNS": encoded(see_through().convert("L"), transparency=76),
    "PA": see_through().convert("PA"),
    "RGBa": see_through().convert("RGBa"),
    "La": see_through().convert("LA").convert("La"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_shows_the_background(name: str) -> None:
    image = TRANSPARENT[name]
    on_white, on_green = seen(image), seen(image, rules=ImageRules(GREEN))
    clear = (on_green == GREEN).all(-1)
    assert clear[:, 4:].all() != clear[:, :4].all()
    assert (on_white[clear] == WHITE).all()
    np.testing.assert_array_equal(on_white[~clear], on_green[~clear])
    assert read_image(image).changes == ("composited",)


def test_half_transparent_colours_mix_with_the_background() -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    expected = Image.alpha_composite(Image.new("RGBA", (4, 4), (0, 100, 0, 255)), image).convert("RGB")
    assert like(seen(encoded(image), rules=ImageRules((0, 100, 0))), expected, 1)


def test_an_alpha_channel_that_hides_nothing_changes_nothing() -> None:
    image = PHOTO.convert("RGBA")
    np.testing.assert_array_equal(seen(encoded(image)), np.asarray(PHOTO))
    assert read_image(encoded(image)).changes == ()


def png(colour_type: int, bits: int, row: bytes, width: int, clear: bytes) -> bytes:
    """A PNG of one row with a tRNS chunk, of a depth that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"tRNS", clear) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def test_the_clear_colour_of_a_png_is_of_its_own_depth() -> None:
    assert grey(png(0, 2, bytes([0b00_01_10_11]), 4, b"\0\1")) == [0, 255, 170, 255]
    assert grey(png(0, 4, bytes([0x05, 0xF0]), 4, b"\0\5")) == [0, 255, 255, 0]
    assert grey(png(0, 16, struct.pack(">3H", 1000, 65535, 0), 3, struct.pack(">H", 1000))) == [255, 255, 0]
    assert grey(png(0, 1, bytes([0b0100_0000]), 2, b"\0\0")) == [255, 255]
    two = seen(png(2, 16, struct.pack(">6H", 0, 65535, 0, 65535, 0, 0), 2, struct.pack(">3H", 0, 65535, 0)))
    assert two.tolist() == [[[255, 255, 255], [255, 0, 0]]]


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """A profile whose red is sRGB's blue, and whose blue its red."""
    data = srgb()
    return data.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colours_are_shown_as_their_profile_means_them(kind: str) -> None:
    data = encoded(PHOTO, kind, icc_profile=swapped())
    assert like(seen(data), seen(encoded(PHOTO, kind))[..., ::-1], 2)
    assert read_image(data).changes == ("profile_converted",)
    assert read_image(encoded(PHOTO, kind, icc_profile=srgb())).changes == ()


def test_threads_share_the_conversion_of_a_profile() -> None:
    images = [encoded(noise_of(seed), icc_profile=swapped()) for seed in range(24)]
    alone = [load_pixels(image, 32) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(lambda image: load_pixels(image, 32), images * 8), alone * 8, strict=True):
            np.testing.assert_array_equal(found, expected)


def noise_of(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def test_a_profile_goes_with_palettes_transparency_and_turns() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = read_image(encoded(see_through(), icc_profile=swapped(), exif=exif))
    assert image.colours.getpixel((7, 0)) == pytest.approx((255, 0, 0), abs=3)  # blue, by the profile
    assert image.colours.getpixel((0, 0)) == WHITE
    assert set(image.changes) == {"turned", "composited", "profile_converted"}
    flat = see_through().convert("RGB").quantize(2)
    assert read_image(encoded(flat, icc_profile=swapped())).colours.getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=3)


@pytest.mark.parametrize("profile", [b"no profile at all" * 9, srgb()[:200], srgb().replace(b"RGB XYZ ", b"CMYKXYZ ", 1)])
def test_a_damaged_or_unfit_profile_is_left_out_and_counted(profile: bytes) -> None:
    data = encoded(PHOTO, "JPEG", icc_profile=profile, quality=95)
    np.testing.assert_array_equal(seen(data), seen(encoded(PHOTO, "JPEG", quality=95)))
    assert read_image(data).changes == ("profile_unreadable",)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_shown_in_its_colours(kind: str) -> None:
    data = encoded(PHOTO.convert("CMYK"), kind, **({"quality": 95} if kind == "JPEG" else {}))
    assert like(seen(data), PHOTO, 3)
    assert read_image(data).changes == ("cmyk_converted",)


def test_lab_and_ycbcr_are_shown_in_their_colours() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(PHOTO, to_lab)
    assert lab is not None
    assert like(seen(encoded(lab, "TIFF")), PHOTO, 2)
    assert like(seen(encoded(PHOTO.convert("YCbCr"), "TIFF")), PHOTO, 2)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_frames_the_first_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    image = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert image.changes == ("first_frame",)
    assert image.colours.getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=2)
    assert read_image(encoded(frames[0], kind)).changes == ()


def test_a_gif_shows_the_background_where_its_frame_does_not_reach() -> None:
    content = bytearray(encoded(Image.new("RGB", (4, 4), "red"), "GIF"))
    content[6:10] = struct.pack("<2H", 8, 6)  # the canvas is larger
    start = content.index(b"\x2c\0\0\0\0")
    content[start + 1 : start + 5] = struct.pack("<2H", 2, 1)
    expected = np.full((6, 8, 3), GREEN, np.uint8)
    expected[1:5, 2:6] = (255, 0, 0)
    np.testing.assert_array_equal(seen(bytes(content), rules=ImageRules(GREEN)), expected)
    assert read_image(bytes(content)).changes == ("composited",)


def test_a_photo_with_previews_behind_it_is_one_photo() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    preview = Image.new("RGB", (16, 16))
    stored = Image.fromarray(np.ascontiguousarray(STORED[8]))
    image = read_image(encoded(stored, "MPO", save_all=True, append_images=[preview], exif=exif, quality=95))
    assert image.changes == ("turned",)
    assert like(image.colours, PHOTO, 8)


def test_older_rules_convert_to_rgb_and_nothing_else() -> None:
    older = ImageRules.of({"image_size": 8})
    assert older.version == 0
    image = see_through()
    np.testing.assert_array_equal(seen(encoded(image), rules=older), np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(seen(oriented(6, "PNG"), rules=older), STORED[6])
    assert ImageRules.of(ImageRules(GREEN).facts()) == ImageRules(GREEN)
    with pytest.raises(StoreError, match="rules 2, this hubflow knows up to 1; update hubflow"):
        ImageRules.of({"image_rules": 2})


def test_images_of_pillow_stay_as_they_are() -> None:
    image = see_through()
    before = np.asarray(image).copy()
    read_image(image)
    np.testing.assert_array_equal(np.asarray(image), before)
    opened = Image.open(io.BytesIO(encoded(PHOTO.resize((800, 480)), "JPEG")))
    load_pixels(opened, 16)
    assert opened.size == (800, 480)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b'<?xml version="1.0"?>\n<!-- drawn --><svg width="4">', "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
    ],
)
def test_other_kinds_of_files_are_named(content: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=rf"photo\.jpg: .*it is {kind}, which is not read; convert it to PNG or JPEG"):
        load_pixels(content, 8, "photo.jpg")


def test_an_image_of_pixels_that_are_not_read_is_no_damaged_one() -> None:
    with pytest.raises(
        ImageError, match="it begins as TIFF, but is damaged or holds pixels of a type that is not read; convert"
    ):
        read_image(tiff((STEPS / 255).astype("<f8"), photometric=1, sample_format=3))
    with pytest.raises(ImageError, match=r"its content begins as no kind of image that is read\); mend or remove it"):
        read_image(b"some other bytes")
    with pytest.raises(ImageError, match="input 3: 0x5 pixels; expected at least one"):
        load_pixels(Image.new("RGB", (0, 5)), 8, "input 3")


def test_images_are_told_by_their_ending_or_their_content(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"):
        (tmp_path / kind).write_bytes(encoded(PHOTO, kind))
        assert is_image_file(tmp_path / kind), kind
        assert read_image(tmp_path / kind).colours.size == PHOTO.size
    for name, content in {"list.txt": "a.png cat\n", "BMW": "BMW 1 and more text", "P1": "P1 a.png", "empty": ""}.items():
        (tmp_path / name).write_text(content)
        assert not is_image_file(tmp_path / name), name
    assert is_image_file(tmp_path / "GONE.JPG")
    assert not is_image_file(tmp_path)
