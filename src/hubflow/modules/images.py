"""Images: opened, decoded to what a person sees, resized and cropped to a square.

`read_image` is the one place that opens an image file. Its pixels are those that a person sees in a viewer: the orientation of
the camera is applied, deep grey values are scaled to 8 bits, colour profiles are converted to sRGB, and transparent parts show
a background.
"""

import functools
import io
import math
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from hubflow.errors import ImageError, StoreError
from hubflow.files import open_file
from hubflow.schemas.library import Limits, library_settings

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
"""Formats that Pillow may open; no other reader of Pillow sees a file."""
ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .gif .bmp .ppm .pgm .pbm .pnm .jp2 .j2k .jpx .jpf .avif".split()
)
"""Endings of the names of image files, in lower case."""
LONGEST = 8
"""An image with longer sides than so many shorter ones is cropped first: resized whole it could fill the memory."""
RULES_VERSION = 1
"""Of the rules by which an image file becomes pixels: raise it when the same file would give others."""

Change = Literal[
    "turned",
    "depth_scaled",
    "composited",
    "profile_converted",
    "cmyk_converted",
    "profile_unreadable",
    "orientation_unreadable",
    "first_frame",
]
CHANGES: dict[Change, str] = {
    "turned": "turned as their EXIF orientation says",
    "depth_scaled": "grey values of more than 8 bits scaled to 8",
    "composited": "transparent parts shown on the background",
    "profile_converted": "colour profile converted to sRGB",
    "cmyk_converted": "CMYK without a profile converted to RGB",
    "profile_unreadable": "colour profile unreadable or of other colours, left out",
    "orientation_unreadable": "EXIF data unreadable, left out",
    "first_frame": "first of several frames or pages used",
}
"""What may be done to the pixels of a file, and how a report says it of several images."""

_WHITE = (255, 255, 255)
_HASHED = 32
_COSINES = np.cos(np.pi / (2 * _HASHED) * np.outer(np.arange(8), 2 * np.arange(_HASHED) + 1))
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II[*+]\x00|MM\x00[*+]|BM....\x00\x00\x00\x00|P[1-7]\s+(?:#[^\n]*\s+)*\d"
    rb"|\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|....ftypavi[fs]",
    re.DOTALL,
)
_OTHER_KINDS = (
    (re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\x76\x2f\x31\x01"), "OpenEXR"),
    (re.compile(rb"#\?(?:RADIANCE|RGBE)"), "Radiance HDR"),
    (re.compile(rb"DDS |\x00\x00[\x01\x02]\x00[^\x00]\x00", re.DOTALL), "an icon or a texture"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "EPS"),
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb"8BPS"), "PSD"),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<svg|\s*<\?xml[^>]*>.{0,200}<svg", re.DOTALL), "SVG"),
    (re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE), "HTML"),
)
STRIP_PIXELS = 1 << 20
"""An image with more pixels is converted in strips, so that what is between the file's pixels and RGB needs little memory."""
HEAD_BYTES = 512
"""So many bytes of a file tell whether it is an image."""


@dataclass(frozen=True)
class ImageRules:
    """How the content of an image file becomes pixels.

    Attributes:
        background: RGB colour that transparent parts show.
        version: of the rules; 0 stands for those before there were versions, which convert to RGB and nothing else.
    """

    background: tuple[int, int, int] = _WHITE
    version: int = RULES_VERSION

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Self:
        """The rules that a signature's `image`, or the facts of encoded rows, have kept.

        Raises:
            StoreError: when they are of a later version of hubflow.
        """
        version = known.get("image_rules", 0)
        if version > RULES_VERSION:
            raise StoreError(
                f"images are prepared by rules {version}, this hubflow knows up to {RULES_VERSION}; update hubflow"
            )
        return cls(tuple(known.get("background", _WHITE)), version)

    def facts(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"background": list(self.background), "image_rules": self.version}


@dataclass(frozen=True)
class SeenImage:
    """An image as a person sees it.

    Attributes:
        colours: in mode RGB; of a JPEG file decoded for a size, at a smaller scale.
        width: of the whole image, once it is turned.
        height: likewise.
        changes: what was done to the file's pixels.
    """

    colours: Image.Image
    width: int
    height: int
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class DecodedImage:
    """One image: RGB `pixels` `[3, size, size]`, its own `width` and `height`, its perceptual hash, 64 bits, and `changes`."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    phash: int
    changes: tuple[Change, ...] = ()


def read_image(
    source: str | Path | bytes | Image.Image, size: int | None = None, name: str = "", rules: ImageRules = ImageRules()
) -> SeenImage:
    """An image as a person sees it.

    Args:
        source: an image file, its bytes, or an image of Pillow, which stays as it is.
        size: when given, a JPEG file is decoded at the smallest scale whose sides are not below it.
        name: names the image in errors.
        rules: how its content becomes pixels.

    Raises:
        ImageError: naming the file, when it is missing, is not an image, is damaged or exceeds the library's limits.
    """
    with seen_image(source, size, name, rules) as seen:
        return seen


@contextmanager
def seen_image(
    source: str | Path | bytes | Image.Image, size: int | None = None, name: str = "", rules: ImageRules = ImageRules()
) -> Iterator[SeenImage]:
    """What `read_image` gives, for as long as the block needs it: for threads that decode at the same time.

    Together they take no more memory than the library's `limits.image_memory_bytes`: a thread waits until there is some, or
    until no other decodes. A block must not open another image.

    Raises:
        ImageError: as `read_image`.
    """
    with ExitStack() as memory:
        with _opened(source, size, name, memory) as (image, sides):
            seen = _seen(image, sides, rules, is_file=not isinstance(source, Image.Image))
        yield seen


def _seen(image: Image.Image, sides: tuple[int, int], rules: ImageRules, is_file: bool) -> SeenImage:
    if rules.version == 0:
        image.load()
        return SeenImage(image if image.mode == "RGB" else image.convert("RGB"), *sides)
    changes: list[Change] = ["first_frame"] if is_file and _has_frames(image) else []
    file = _FileFacts.of(image)
    _mend_planes(image, file)
    image.load()  # which turns a TIFF image
    orientation = _orientation(image, changes)
    if orientation > 1 or file.orientation > 1:
        changes.append("turned")
    middle = _middle(_on_canvas(image, file), LONGEST * min(image.size))
    colours = _colours(middle, file, rules.background, changes)
    if orientation > 1:
        colours = colours.transpose(_TURNS[orientation])
    width, height = reversed(sides) if orientation in _SIDEWAYS else sides
    return SeenImage(colours, width, height, tuple(dict.fromkeys(changes)))


def load_pixels(
    source: str | Path | bytes | Image.Image, size: int, name: str = "", rules: ImageRules = ImageRules()
) -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]` of an image file, of its bytes, or of an image of Pillow.

    The shorter side is resized to `size` (bilinear, antialiased; JPEG decoded at the smallest sufficient scale), the middle
    square kept.

    Raises:
        ImageError: as `read_image`.
    """
    with seen_image(source, size, name, rules) as seen:
        return square_pixels(seen.colours, size)


def decode_image(source: str | Path | bytes, size: int, name: str = "", rules: ImageRules = ImageRules()) -> DecodedImage:
    """What `load_pixels` gives, and the image's own size, perceptual hash and changes, from one decoding.

    Raises:
        ImageError: as `read_image`.
    """
    with seen_image(source, size, name, rules) as seen:
        pixels = square_pixels(seen.colours, size)
        return DecodedImage(pixels, seen.width, seen.height, perceptual_hash(seen.colours), seen.changes)


def is_image_file(path: Path) -> bool:
    """Whether a file is named as an image, or begins as one where its ending is another; False of one that cannot be read."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with open_file(path) as stream:
            return _MAGIC.match(stream.read(HEAD_BYTES)) is not None
    except OSError:
        return False


@contextmanager
def _opened(
    source: str | Path | bytes | Image.Image, size: int | None, name: str, memory: ExitStack
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """An image about to be decoded, and its own size; what goes wrong in the block is its fault.

    `memory` holds what decoding takes of the library's `limits.image_memory_bytes`.
    """
    shown = name or (str(source) if isinstance(source, str | Path) else "image bytes" if isinstance(source, bytes) else "image")
    limits = library_settings().limits
    try:
        if isinstance(source, Image.Image):
            _require_within(limits, source, shown)
            memory.enter_context(_MEMORY.taken(_needed_bytes(source), limits.image_memory_bytes))
            yield source, source.size
            return
        with _stream(source, limits) as stream, Image.open(stream, formats=FORMATS) as image:
            own_size = image.size
            _require_within(limits, image, shown)
            _require_few_scans(limits, image, stream, shown)
            if size is not None:
                image.draft("RGB", (size, size))
            memory.enter_context(_MEMORY.taken(_needed_bytes(image), limits.image_memory_bytes))
            yield image, own_size
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{shown}: {error.strerror}; correct the path") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{shown}: {_at_most(limits, 'max_image_pixels', 'pixels')} ({error})") from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fault = _fault(source, isinstance(error, UnidentifiedImageError)) or cause
        raise ImageError(f"{shown}: not an image that can be decoded ({fault}); mend or remove it") from error


def _stream(source: str | Path | bytes, limits: Limits) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_file(source, limits.max_image_bytes, "limits.max_image_bytes")


def _require_within(limits: Limits, image: Image.Image, shown: str) -> None:
    """Refuse an image before it is decoded when its sides, or those of the tiles that it is written in, are too large."""
    tags: Any = getattr(image, "tag_v2", {})
    tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    for what, sides in (("", image.size), ("tiles of ", tile)):
        width, height = (side if isinstance(side, int) else 0 for side in sides)
        if not width * height:
            raise ImageError(f"{shown}: {what}{width}x{height} pixels; expected at least one")
        if max(width, height) > limits.max_image_side:
            raise ImageError(f"{shown}: {what}{width}x{height} pixels; {_at_most(limits, 'max_image_side', 'pixels a side')}")
        if width * height > limits.max_image_pixels:
            raise ImageError(f"{shown}: {what}{width}x{height} pixels; {_at_most(limits, 'max_image_pixels', 'pixels')}")


_TILE_WIDTH, _TILE_LENGTH = 322, 323


def _require_few_scans(limits: Limits, image: Image.Image, stream: IO[bytes], shown: str) -> None:
    """Refuse a progressive JPEG that goes over its pixels again and again: a scan of a few bytes takes as long as any."""
    if not image.info.get("progressive"):
        return
    position = stream.tell()
    stream.seek(0)
    scans = stream.read().count(b"\xff\xda")
    stream.seek(position)
    if scans > limits.max_image_scans:
        raise ImageError(f"{shown}: a progressive JPEG of {scans} scans; {_at_most(limits, 'max_image_scans', 'scans')}")


def _at_most(limits: Limits, name: str, unit: str) -> str:
    value = getattr(limits, name)
    return f"at most {value:,} {unit} are decoded (limits.{name}); make the image smaller, or remove it"


def _needed_bytes(image: Image.Image) -> int:
    """About how much memory an image takes at most, from its file to RGB."""
    kind = "progressive" if image.info.get("progressive") else image.format or ""
    return image.width * image.height * _PIXEL_BYTES.get(kind, _USUAL_PIXEL_BYTES)


_PIXEL_BYTES = {"JPEG": 9, "MPO": 9, "progressive": 16, "WEBP": 20, "AVIF": 20, "JPEG2000": 28}
"""Memory that decoding and converting take for a pixel, by format, as measured."""
_USUAL_PIXEL_BYTES = 12


class _Memory:
    """Memory that threads share: a thread waits until there is as much as it needs, or until it is the only one."""

    def __init__(self) -> None:
        self._turn = threading.Lock()  # who waits for much is not overtaken by those who need little
        self._changed = threading.Condition()
        self._in_use = 0

    @contextmanager
    def taken(self, need: int, budget: int) -> Iterator[None]:
        """Hold `need` bytes of `budget`."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._in_use or self._in_use + need <= budget)
            self._in_use += need
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= need
                self._changed.notify_all()


_MEMORY = _Memory()
os.register_at_fork(after_in_child=_MEMORY.__init__)  # type: ignore[misc]  # threads that decode are not in the child


def _fault(source: str | Path | bytes | Image.Image, is_unidentified: bool) -> str:
    """What a file is instead, where its first bytes tell, and of one that no reader takes always something."""
    if isinstance(source, Image.Image):
        return ""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_file(source) as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return ""
    kind = next((kind for magic, kind in _OTHER_KINDS if magic.match(head)), None)
    if kind:
        return f"it is {kind}, which is not read; convert it to PNG or JPEG"
    if not is_unidentified or not head:
        return "" if head else "the file is empty"
    begins = next((name for magic, name in _NAMED if magic.match(head)), None)
    if begins is None:
        return "its content begins as no kind of image that is read"
    return (
        f"it begins as {begins}, but is damaged or holds pixels of a type that is not read; convert it to PNG of 8 or 16 bits"
    )


_NAMED = (
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "TIFF"),
    (re.compile(rb"\xff\xd8"), "JPEG"),
    (re.compile(rb"\x89PNG"), "PNG"),
    (re.compile(rb"GIF8"), "GIF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"BM....\x00\x00\x00\x00", re.DOTALL), "BMP"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
)


@dataclass(frozen=True)
class _FileFacts:
    """What a file says of its pixels that is gone, or is not known by the mode, once they are decoded."""

    format: str | None
    orientation: int = 1
    bits: int | None = None
    is_unsigned: bool = False
    is_signed: bool = False
    is_inverted: bool = False
    transparency_scale: float = 1.0
    frame: tuple[int, int, int, int] | None = None
    byte_order: Literal["little", "big"] = sys.byteorder
    is_compressed: bool = False

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        tags = getattr(image, "tag_v2", None)
        if image.format == "JPEG2000":
            _require_true_colours(image)
        if image.format == "GIF":
            return cls(image.format, frame=_first_frame(image))
        if tags is None:
            tiles = getattr(image, "tile", None) if image.format == "PNG" else None
            scale = _SAMPLE_SCALES.get(str(tiles[0][3]), 1.0) if tiles else 1.0
            return cls(image.format, transparency_scale=scale)
        bits, kind, orientation = tags.get(258), tags.get(339, (1,)), tags.get(ExifTags.Base.Orientation, 1)
        return cls(
            image.format,
            orientation if orientation in _TURNS else 1,
            bits[0] if isinstance(bits, tuple) and bits else bits,
            kind in ((1,), 1),
            kind in ((2,), 2),
            tags.get(262) == 0,
            byte_order="big" if tags.prefix == b"MM" else "little",
            is_compressed=tags.get(259, 1) != 1,
        )


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""
_SIDEWAYS = frozenset({5, 6, 7, 8})
_SAMPLE_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 257}
"""PNG names its transparent colour in the samples of the file, which Pillow scales to 8 bits."""


def _first_frame(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The box that the first frame of a GIF fills, when it is not all of it."""
    tiles = getattr(image, "tile", None)
    box = tuple(tiles[0][1]) if tiles and image.tell() == 0 else None
    return None if box == (0, 0, *image.size) else box


def _on_canvas(image: Image.Image, file: _FileFacts) -> Image.Image:
    """The image, transparent where its frame does not reach: Pillow shows the first colour of the palette there."""
    if file.frame is None:
        return image
    canvas = Image.new("RGBA", image.size)
    canvas.paste(image.crop(file.frame).convert("RGBA"), file.frame)
    canvas.info = {"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}
    return canvas


def _require_true_colours(image: Image.Image) -> None:
    """Refuse colours of more than 8 bits in JPEG 2000, of which Pillow shows the brightest as black.

    Raises:
        ValueError: naming their depth.
    """
    stream = getattr(image, "fp", None)
    if stream is None or image.mode not in ("RGB", "RGBA", "LA", "YCbCr", "CMYK"):
        return
    position = stream.tell()
    stream.seek(0)
    head = stream.read(_HEADER_BYTES)
    stream.seek(position)
    start = head.find(b"\xff\x4f\xff\x51")
    count = int.from_bytes(head[start + 40 : start + 42], "big")
    bits = max(((depth & 0x7F) + 1 for depth in head[start + 42 : start + 42 + 3 * count : 3]), default=8)
    if start >= 0 and bits > 8:  # noqa: PLR2004
        raise ValueError(f"it is JPEG 2000 with colours of {bits} bits, which are not read; convert it to PNG or to 8 bits")


_HEADER_BYTES = 1 << 20


def _mend_planes(image: Image.Image, file: _FileFacts) -> None:
    """Have Pillow read the 16-bit planes of a TIFF image as such: it takes those that are not compressed for 8 bits."""
    tiles = getattr(image, "tile", None)
    if file.format != "TIFF" or file.bits != _HALF_WORD_BITS or not tiles or tiles[0][0] != "raw":
        return
    if all(tile[3][0] in ("R", "G", "B", "A") for tile in tiles):
        ending = ";16B" if file.byte_order == "big" else ";16L"
        image.tile = [tile._replace(args=(tile[3][0] + ending, *tile[3][1:])) for tile in tiles]  # type: ignore[attr-defined]


def _has_frames(image: Image.Image) -> bool:
    if image.format == "MPO":  # a photo, with previews or depths of its own behind it
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the frames after the first are damaged, which it does not need
        return True


def _orientation(image: Image.Image, changes: list[Change]) -> int:
    """The EXIF orientation of a loaded image that is not yet applied, 1 to 8."""
    if not _EXIF.intersection(image.info) and not hasattr(image, "tag_v2"):  # as most images are
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as many kinds as there are damages; viewers show such an image as it is stored
        changes.append("orientation_unreadable")
        return 1
    return orientation if orientation in _TURNS else 1


_EXIF = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
"""Where Pillow keeps what may name an orientation; files of TIFF have tags for it."""


def _colours(image: Image.Image, file: _FileFacts, background: tuple[int, int, int], changes: list[Change]) -> Image.Image:
    """The image in RGB: in sRGB by its profile, on the background where it is transparent."""
    if image.mode == "RGB" and not _RARE.intersection(image.info):  # as most images are
        return image
    is_deep = image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and file.is_signed)
    if not is_deep and not image.has_transparency_data:
        return _in_srgb(image, changes)
    scale = _range(image, file) if is_deep and not image.mode.startswith("I;16") else None
    colours = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        if is_deep:
            changes.append("depth_scaled")
            shown, alpha = _eight_bits(strip, file, scale)
            shown.info = image.info
        else:
            shown, alpha = _without_alpha(strip, file)
        shown = _in_srgb(shown, changes)
        if alpha is not None and alpha.getextrema() != (255, 255):
            changes.append("composited")
            ground = Image.new("RGB", shown.size, background)
            ground.paste(shown, mask=alpha)
            shown = ground
        colours.paste(shown, (0, top))
    return colours


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in strips of at most STRIP_PIXELS, each with its first row: what is made of one needs little memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


_RARE = frozenset({"icc_profile", "transparency"})


def _without_alpha(image: Image.Image, file: _FileFacts) -> tuple[Image.Image, Image.Image]:
    """The colours alone, grey ones in mode L, and how opaque they are."""
    known = image.info.get("transparency")
    if file.transparency_scale != 1 and known is not None:
        image = image.copy()
        parts = known if isinstance(known, tuple) else (known,)
        scaled = tuple(round(part * file.transparency_scale) for part in parts)
        image.info["transparency"] = scaled if isinstance(known, tuple) else scaled[0]
    is_grey = image.mode in ("1", "L", "LA", "La")
    whole = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    colours = whole.getchannel(0) if is_grey else whole.convert("RGB")
    colours.info = {"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}
    return colours, whole.getchannel("A")


def _eight_bits(
    image: Image.Image, file: _FileFacts, scale: tuple[float, float] | None
) -> tuple[Image.Image, Image.Image | None]:
    """Grey values of more than 8 bits as 8, and how opaque they are where one value stands for transparency.

    Whole numbers are shares of the most that their depth holds: the depth of the file where it says so, or else 8, 16 or 32
    bits, the fewest that hold all of them. Other numbers from 0 to 1 are shares of white. All others, and negative numbers,
    are spread from the least value, black, to the greatest, white. `scale` is what `_range` gives of the whole image.
    """
    values = _values(image, file)
    clear = image.info.get("transparency")
    alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)) if isinstance(clear, int) else None
    if scale is None:
        bits = min(file.bits or _HALF_WORD_BITS, _HALF_WORD_BITS)
        grey = np.rint(np.minimum(np.arange(2.0**_HALF_WORD_BITS) / (2**bits - 1), 1) * 255).astype(np.uint8)[values]
    else:
        black, white = scale
        with np.errstate(invalid="ignore"):
            shares = (values.astype(np.float64) - black) / ((white - black) or 1)
        grey = np.rint(np.nan_to_num(np.clip(shares, 0, 1), nan=0.0) * 255).astype(np.uint8)
    return Image.fromarray(255 - grey if file.is_inverted else grey), alpha


def _values(image: Image.Image, file: _FileFacts) -> NDArray[Any]:
    """Grey values as the file means them: Pillow takes bytes of some files of TIFF for others."""
    values = np.asarray(image)
    if image.mode == "L":
        return values.view(np.int8)
    if image.mode in ("I", "F") and file.is_compressed and file.byte_order != sys.byteorder:  # swapped twice
        is_short = image.mode == "I" and file.bits == _HALF_WORD_BITS
        values = (values.astype(np.int16) if is_short else values).byteswap()
    return values.view(np.uint32) if image.mode == "I" and file.is_unsigned and file.bits == _WORD_BITS else values


_HALF_WORD_BITS, _WORD_BITS = 16, 32


def _range(image: Image.Image, file: _FileFacts) -> tuple[float, float]:
    """The values that stand for black and for white."""
    mode, low, high, is_whole = image.mode, math.inf, -math.inf, True
    for _, strip in _strips(image):
        values = _values(strip, file)
        known = values[np.isfinite(values)] if mode == "F" else values
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
            is_whole = is_whole and (mode != "F" or bool((known == np.rint(known)).all()))
    if low > high:
        return 0, 1
    if mode == "F" and 0 <= low and high <= 1:
        return 0, 1
    if low < 0 or not is_whole:
        return low, high
    if mode == "I" and (file.format in ("PNG", "PPM") or file.bits == _HALF_WORD_BITS):
        return 0, 2.0**15 - 1 if file.format == "TIFF" else 2.0**16 - 1  # TIFF has signed numbers of 16 bits in this mode
    depths = (2.0**8 - 1, 2.0**16 - 1, 2.0**32 - 1 if file.is_unsigned else 2.0**31 - 1)
    return 0, next((white for white in depths if high <= white), high)


def _in_srgb(image: Image.Image, changes: list[Change]) -> Image.Image:
    """The image in RGB, as its colour profile means it."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile or image.mode == "LAB":
        try:
            return _converted(image, profile or b"", changes)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            changes.append("profile_unreadable")
            if image.mode == "LAB":
                return _converted(image, b"", changes)
    elif "icc_profile" in image.info:  # Pillow could not read it
        changes.append("profile_unreadable")
    if image.mode == "CMYK":
        changes.append("cmyk_converted")
    return image.convert("RGB")


def _converted(image: Image.Image, profile: bytes, changes: list[Change]) -> Image.Image:
    from PIL import ImageCms

    conversion = _conversion if len(profile) <= _KEPT_PROFILE_BYTES else _conversion.__wrapped__
    mode, transform = conversion(profile, image.mode)
    shown = image if image.mode == mode else image.convert(mode)
    if transform is None:
        return shown
    changes.append("profile_converted")
    converted = ImageCms.applyTransform(shown, transform)
    assert converted is not None, "it is not converted in place"
    return converted


@functools.lru_cache(maxsize=64)
def _conversion(profile: bytes, mode: str) -> tuple[str, Any]:
    """How an image of a mode becomes sRGB: the mode that its profile is for, and the transform, None where it is sRGB already.

    Raises:
        PyCMSError: when the profile is damaged; ValueError when it is of other colours than the image.
    """
    from PIL import ImageCms

    known = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
    space = known.profile.xcolor_space
    wanted, fitting = _PROFILE_MODES.get(space, ("", ()))
    if mode not in fitting:
        raise ValueError(f"a profile of {space.strip()} colours does not fit an image of mode {mode}")
    transform = ImageCms.buildTransform(
        known, ImageCms.createProfile("sRGB"), wanted, "RGB", flags=ImageCms.Flags.NOCACHE
    )  # by threads at once, so without a cache of its own
    if wanted in ("RGB", "L"):
        steps = np.arange(0, 256, 51 if wanted == "RGB" else 1, dtype=np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3) if wanted == "RGB" else steps[None]
        before = Image.fromarray(grid)
        after = np.asarray(ImageCms.applyTransform(before, transform), np.int16)
        if np.abs(after - np.asarray(before.convert("RGB"), np.int16)).max() <= _SAME_COLOUR:
            return "RGB", None
    return wanted, transform


_KEPT_PROFILE_BYTES = 1 << 20
_SAME_COLOUR = 2
"""Profiles that call themselves sRGB differ from it by that much of 255, from rounding."""
_PROFILE_MODES = {
    "RGB ": ("RGB", ("RGB", "P", "L", "1", "YCbCr")),
    "GRAY": ("L", ("L", "1")),
    "CMYK": ("CMYK", ("CMYK",)),
    "Lab ": ("LAB", ("LAB",)),
}
"""Colour space of a profile: the mode that it converts, and the modes of images that it may be of."""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that images of the same look share, or nearly: pHash by the discrete cosine transform.

    The 8 x 8 lowest frequencies of the 32 x 32 grey image, each above their median or not (C. Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions", 2010; N. Krawetz, "Looks Like It", 2011). At most one bit is set for
    an image of a single colour.
    """
    grey = np.asarray(image.convert("L").resize((_HASHED, _HASHED), Image.Resampling.BILINEAR), np.float64)
    waves = np.round(_COSINES @ grey @ _COSINES.T, 3).reshape(-1)  # rounded: nothing is nothing, whatever the last bits say
    return int.from_bytes(np.packbits(waves > np.median(waves[1:])).tobytes())


def square_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]` of an image in RGB."""
    image = _middle(image, LONGEST * min(image.size))
    scale = size / min(image.width, image.height)
    sides = max(size, round(image.width * scale)), max(size, round(image.height * scale))
    pixels = np.asarray(image if image.size == sides else image.resize(sides, Image.Resampling.BILINEAR), np.uint8)
    left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size].transpose(2, 0, 1))


def _middle(image: Image.Image, longest: int) -> Image.Image:
    """The image, or its middle where a side is longer than `longest`."""
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
