"""Images: decoded to RGB, resized and cropped to a square. Must not import Paddle."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hubflow.schemas.errors import HubflowError

MAX_PIXELS = 100_000_000
"""More than this is refused as a decompression bomb."""
LONGEST = 8
"""An image with longer sides than so many shorter ones is cropped first: resized whole it could fill the memory."""


_HASHED = 32
_COSINES = np.cos(np.pi / (2 * _HASHED) * np.outer(np.arange(8), 2 * np.arange(_HASHED) + 1))


class ImageError(HubflowError):
    """A file is not an image that can be decoded; the message names it."""


@dataclass(frozen=True)
class DecodedImage:
    """One image: RGB `pixels` `[3, size, size]`, its own `width` and `height`, and its perceptual hash, 64 bits."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    phash: int


def load_pixels(source: str | Path | bytes, size: int, name: str = "") -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]` of an image file, or of its bytes.

    The shorter side is resized to `size` (bilinear, antialiased; JPEG decoded at the smallest sufficient scale), the middle
    square kept.

    Raises:
        ImageError: naming the file, when it is missing, is not an image, is damaged or has more than MAX_PIXELS pixels.
    """
    with _opened(source, size, name) as (image, _):
        return square_pixels(image, size)


def decode_image(source: str | Path | bytes, size: int, name: str = "") -> DecodedImage:
    """What `load_pixels` gives, and the image's own size and perceptual hash, from one decoding.

    Raises:
        ImageError: as `load_pixels`.
    """
    with _opened(source, size, name) as (image, (width, height)):
        colours = image.convert("RGB")
        return DecodedImage(square_pixels(colours, size), width, height, perceptual_hash(colours))


@contextmanager
def _opened(source: str | Path | bytes, size: int, name: str) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """An image about to be decoded for `size`, and its own size; what goes wrong in the block is its fault."""
    shown = name or (str(source) if not isinstance(source, bytes) else "image bytes")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            own_size = image.size
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{shown}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are decoded")
            image.draft("RGB", (size, size))
            yield image, own_size
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        raise ImageError(f"{shown}: not an image that can be decoded ({error}); mend or remove it") from error


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
    """RGB pixels `[3, size, size]` of an opened image."""
    if max(image.size) > LONGEST * min(image.size):
        image = _middle(image, LONGEST * min(image.size))
    scale = size / min(image.width, image.height)
    sides = max(size, round(image.width * scale)), max(size, round(image.height * scale))
    colours = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.asarray(colours if colours.size == sides else colours.resize(sides, Image.Resampling.BILINEAR), np.uint8)
    left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size].transpose(2, 0, 1))


def _middle(image: Image.Image, longest: int) -> Image.Image:
    """The middle of an image, at most `longest` pixels a side."""
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
