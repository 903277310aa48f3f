"""Images: decoded to RGB, resized and cropped to a square, by a pool of threads. Must not import Paddle."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hubflow.schemas.errors import MAX_LISTED, HubflowError
from hubflow.stages.hub.cores import usable_cores

MAX_PIXELS = 100_000_000
"""More than this is refused as a decompression bomb."""
LONGEST = 8
"""An image with longer sides than so many shorter ones is cropped first: resized whole it could fill the memory."""


class ImageError(HubflowError):
    """A file is not an image that can be decoded; the message names it."""


def load_pixels(source: str | Path | bytes, size: int, name: str = "") -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]` of an image file, or of its bytes.

    The shorter side is resized to `size` (bilinear, antialiased; JPEG decoded at the smallest sufficient scale), the middle
    square kept.

    Raises:
        ImageError: naming the file, when it is missing, is not an image, is damaged or has more than MAX_PIXELS pixels.
    """
    shown = name or (str(source) if not isinstance(source, bytes) else "image bytes")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{shown}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are decoded")
            image.draft("RGB", (size, size))
            return square_pixels(image, size)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{shown}: not an image that can be decoded ({error}); mend or remove it") from error


def load_all_pixels(items: Sequence[tuple[str | bytes, str]], size: int) -> NDArray[np.uint8]:
    """Pixels `[images, 3, size, size]` of `(source, name)` items, decoded in parallel.

    Raises:
        ImageError: listing every one that does not decode.
    """

    def load(item: tuple[str | bytes, str]) -> NDArray[np.uint8] | ImageError:
        try:
            return load_pixels(item[0], size, item[1])
        except ImageError as error:
            return error

    loaded = list(in_parallel(load, items, usable_cores()))
    faults = [one for one in loaded if isinstance(one, ImageError)]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults[:MAX_LISTED])
        more = f"\n  … and {len(faults) - MAX_LISTED} more" if len(faults) > MAX_LISTED else ""
        raise ImageError(f"{len(faults)} images cannot be decoded\n{lines}{more}")
    return np.stack(loaded)


def square_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB pixels `[3, size, size]` of an opened image."""
    if max(image.size) > LONGEST * min(image.size):
        image = _middle(image, LONGEST * min(image.size))
    scale = size / min(image.width, image.height)
    resized = image.convert("RGB").resize(
        (max(size, round(image.width * scale)), max(size, round(image.height * scale))), Image.Resampling.BILINEAR
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    cropped = resized.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(cropped, np.uint8).transpose(2, 0, 1))


def _middle(image: Image.Image, longest: int) -> Image.Image:
    """The middle of an image, at most `longest` pixels a side."""
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def in_parallel(function: Callable[[Any], Any], items: Sequence[Any], workers: int, ahead: int = 64) -> Iterator[Any]:
    """Results of `function` in order, computed by threads at most `ahead` items ahead of the reader."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), ahead):
            yield from pool.map(function, items[start : start + ahead])
