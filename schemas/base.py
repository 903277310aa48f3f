"""What all settings share. Must not import Paddle or Prefect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Policy = Literal["ignore", "warn", "fail"]
"""What is done about a fault: nothing, it is said and written down, or the stage fails."""
SECRET = "secret_in_url"  # noqa: S105
"""Type of a Pydantic fault whose value may hold a secret: it is reported without the value."""


def rgb_of(colour: Any) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name, of `#rrggbb`, or of the three numbers themselves.

    Raises:
        ValueError: when it is no colour.
    """
    from PIL import ImageColor

    expected = f"expected a colour: a name (white), a hex value in quotes ('#ffffff') or three numbers, found {colour!r}"
    if isinstance(colour, str):
        try:
            found = tuple(ImageColor.getrgb(colour.strip()))
        except ValueError:
            raise ValueError(expected) from None
    else:
        found = tuple(colour) if isinstance(colour, list | tuple) else ()
    is_byte = [isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in found]  # noqa: PLR2004
    if len(found) != 3 or not all(is_byte):  # noqa: PLR2004
        raise ValueError(expected)
    red, green, blue = found
    return red, green, blue


def _require_colour(colour: Any) -> Any:
    rgb_of(colour)
    return colour


Byte = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[str | tuple[Byte, Byte, Byte], BeforeValidator(_require_colour)]
"""A colour: its name, `#rrggbb`, or red, green and blue from 0 to 255."""


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")
