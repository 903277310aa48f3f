"""The label map: the ordered labels of a data set, identified everywhere by one hash."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hubflow.errors import LabelMapError, join_limited
from hubflow.files import read_file
from hubflow.schemas.tags import Tagging, TagScheme, tagging_of

IGNORED_LABEL = -100
"""Label of a token that carries no loss: padding, special tokens, continuation pieces."""
WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028"
    "\u2029\u202f\u205f\u3000"
)
"""What `str.strip` takes off."""
INVISIBLE = "".join(
    chr(code)
    for first, last in (
        (0xAD, 0xAD),
        (0x34F, 0x34F),
        (0x61C, 0x61C),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x200B, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8),
        (0x1BCA0, 0x1BCA3),
        (0x1D173, 0x1D17A),
        (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
)
"""Characters that show nothing: Unicode's property Default_Ignorable_Code_Point, the zero-width space among them."""
_WITHOUT_INVISIBLE = dict.fromkeys(map(ord, INVISIBLE))
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_TRUTH = {"true": "1", "false": "0"}


class LabelMap(BaseModel):
    """Ordered class labels; a label's index is its class id.

    Raises:
        ValueError: when a label repeats or is empty, or when there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    labels: tuple[str, ...]
    tag_scheme: TagScheme = Field("auto", description="Of labels that are tags; told by the labels when auto")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
        if repeated:
            raise ValueError(f"labels must be distinct; repeated: {join_limited(repeated)}")
        if not labels or "" in labels:
            raise ValueError("a label map needs at least one label, and none may be empty")
        return labels

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Hash of the ordered labels: two maps with the same labels in another order differ."""
        return hashlib.sha256(json.dumps(self._content, ensure_ascii=False).encode()).hexdigest()

    @property
    def tagging(self) -> Tagging:
        """How the labels are read as tags.

        Raises:
            TagError: when they can be read in two ways, and `tag_scheme` does not say which.
        """
        return tagging_of(self.labels, self.tag_scheme)

    def index(self) -> dict[str, int]:
        """Class id by label."""
        return {label: position for position, label in enumerate(self.labels)}

    def require_same(self, other: Self | str, here: str, there: str) -> None:
        """Refuse to go on when `other` (a map or a hash) is not this map.

        Raises:
            LabelMapError: naming both sides and the remedy.
        """
        theirs = other if isinstance(other, str) else other.sha256
        if theirs != self.sha256:
            raise LabelMapError(
                f"the label map of {here} ({self.num_classes} labels: {join_limited(self.labels)}; hash {self.sha256[:12]}) "
                f"is not that of {there} (hash {theirs[:12]}); build both from the same data set or label list"
            )

    def save(self, path: Path) -> None:
        """Write the labels as a JSON list; with a scheme of tags that is set, as an object with `labels` and `tag_scheme`."""
        path.write_text(json.dumps(self._content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            LabelMapError: when the file cannot be read, or is no label map.
        """
        try:
            return cls.parse(read_file(path), path)
        except OSError as error:
            raise LabelMapError(f"{path} cannot be read ({error}); make the folder again") from error

    @classmethod
    def parse(cls, content: bytes, source: Path) -> Self:
        """The label map of a file's content.

        Args:
            content: what `save` wrote.
            source: names the file in errors.

        Raises:
            LabelMapError: when it is none.
        """
        try:
            found = json.loads(content.decode("utf-8"))
            values = {"labels": found} if isinstance(found, list) else found
            if not isinstance(values, dict) or not all(isinstance(label, str) for label in values["labels"]):
                raise TypeError("expected a list of texts")
            return cls.model_validate(values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise LabelMapError(f"{source}: no label map ({reason}); make the folder again") from error

    @classmethod
    def from_values(cls, values: Iterable[str], tag_scheme: TagScheme = "auto") -> Self:
        """Map of the distinct values: in numeric order when all are integers, in code-point order otherwise."""
        return cls(labels=tuple(sorted_labels(list(dict.fromkeys(values)))), tag_scheme=tag_scheme)

    @property
    def _content(self) -> Any:
        return self.labels if self.tag_scheme == "auto" else {"labels": self.labels, "tag_scheme": self.tag_scheme}


def sorted_labels(labels: Sequence[str]) -> list[str]:
    """Labels in the order in which a person would number them.

    IOB tags keep `O` first and each type's `B-` before its `I-`.
    """
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=int)
    if "O" in labels and all(label == "O" or label[1:2] == "-" for label in labels):
        return sorted(labels, key=lambda label: (label != "O", label[2:], label[:1]))
    return sorted(labels)


def label_text(value: Any) -> Any:
    """The text of a label that is given as a value: `true`, `false`, whole numbers without decimals; None where it is missing.

    What is no label, such as a list or a date, stays as it is.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real | Decimal) and math.isfinite(value):
        number: Any = value  # whatever of Python's, NumPy's and decimal's it is
        return str(int(number)) if number % 1 == 0 else str(number)
    is_missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value  # noqa: PLR0124
    return None if is_missing is True else value


def clean_label(text: str) -> str:
    """A label as it counts in every format: without outer white space, and a whole number without decimals (`1.0` is `1`)."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    number = whole[1] if whole else text
    return "0" if number == "-0" else number


def similar_labels(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of labels that a person takes for one.

    Those of a group differ only in case, width, Unicode's composed and decomposed forms (NFKC), invisible characters, white
    space within, or in how a number is written (`1`, `01`, `1.50`, `true`).
    """
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(_look(label), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def distinct_texts(labels: Sequence[str]) -> list[str]:
    """Labels in quotes, so that each can be told from the others: with escapes where two would be printed alike."""
    composed = [unicodedata.normalize("NFC", label) for label in labels]
    return [repr(label) if composed.count(look) == 1 else ascii(label) for label, look in zip(labels, composed, strict=True)]


def _look(label: str) -> str:
    text = unicodedata.normalize("NFKC", label.translate(_WITHOUT_INVISIBLE)).casefold()
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    text = _TRUTH.get(text, text)
    return f"{Decimal(text).normalize():f}" if _NUMBER.fullmatch(text) else text
