"""Labels: the label map, which one hash identifies everywhere, and the tags of words with their prefix and type."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hubflow.errors import LabelMapError, TagError, join_limited
from hubflow.files import read_file

TagScheme = Literal["auto", "plain", "IOB1", "IOB2", "IOE1", "IOE2", "BIOES", "BILOU"]
Style = Literal["prefix", "suffix", "letter", "plain"]
OUTSIDE = "O"
"""The one tag of words that are in no entity. Every other tag is of a type."""
LETTERS: dict[TagScheme, str] = {
    "auto": "BIESLUMW",
    "plain": "",
    "IOB1": "BI",
    "IOB2": "BI",
    "IOE1": "IE",
    "IOE2": "IE",
    "BIOES": "BIESMW",
    "BILOU": "BILU",
}
"""By scheme the letters that say where in an entity a word is; BIOES is also written with M for I and W for S (BMES, BMEWO)."""
_MEANING = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_PREFIX = re.compile(r"([BIESLUMW])[\W_](.*)", re.DOTALL)
_SUFFIX = re.compile(r"(.+)[\W_]([BIESLUMW])", re.DOTALL)
_LOWER_CASE = re.compile(r"([bi])[-_](.+)", re.DOTALL)
_REMEDY = "set data.tag_scheme to the scheme, or to `plain` when every tag is a type of its own"


class Tag(NamedTuple):
    """A tag in parts.

    Attributes:
        prefix: B, I, E or S as BIOES has them, whatever letter or place the scheme gives them; O outside; empty of a tag that
            is a type of its own.
        type: of the entity; `_` where a tag is a letter alone, as seqeval has it; empty outside.
    """

    prefix: str
    type: str


@dataclass(frozen=True)
class Tagging:
    """How the labels of one data set are to be read as tags.

    Attributes:
        style: whether a letter comes before the type (`B-PER`), after it (`PER-B`), alone (`B`), or not at all (`PER`).
        letters: that count as such; a tag without one of them is a type of its own.
    """

    style: Style
    letters: str = LETTERS["auto"]

    def parse(self, label: str) -> Tag:
        """A label as a tag."""
        if label == OUTSIDE:
            return Tag(OUTSIDE, "")
        letter, kind = _split(label, self.style)
        return Tag(_MEANING[letter], kind) if letter and letter in self.letters else Tag("", label)

    def used_letters(self, labels: Sequence[str]) -> set[str]:
        """Letters of the labels, as written."""
        found = {_split(label, self.style)[0] for label in labels if label != OUTSIDE}
        return found & set(self.letters)


def tagging_of(labels: Sequence[str], scheme: TagScheme = "auto") -> Tagging:
    """How labels are to be read as tags.

    Only `O` is outside. A tag without a letter of a scheme is a type of its own; names that begin with such a letter, as LOC
    or S-BAHN, do not make a scheme.

    Args:
        labels: all of the data set, or of the label map.
        scheme: that they are written in; recognized from the labels when `auto`.

    Raises:
        TagError: when they can be read in two ways.
    """
    tags = [label for label in labels if label != OUTSIDE]
    if scheme != "auto":
        every: tuple[Style, ...] = ("prefix", "suffix", "letter")
        counts = {style: sum(_split(tag, style)[0] in {*LETTERS[scheme]} for tag in tags) for style in every}
        best = max(every, key=lambda style: counts[style])
        return Tagging(best if counts[best] else "plain", LETTERS[scheme])
    _require_upper_case(tags)
    if {"B", "I"} & {*tags} and {*tags} <= {*LETTERS["auto"]}:
        return Tagging("letter")
    styles: tuple[Style, ...] = ("prefix", "suffix")
    forms = {style: _by_type(tags, style) for style in styles}
    matched = {style: sum(map(len, forms[style].values())) for style in styles}
    whole = [style for style in styles if matched[style] == len(tags)]
    strong = [style for style in styles if any(len(letters) > 1 for letters in forms[style].values())]
    if not any(matched.values()):
        return Tagging("plain")
    if whole:
        chosen: Style = whole[0]
        if chosen == "suffix" and len(tags) == 1:
            raise _ambiguous(tags, tags)
    elif strong:
        chosen = strong[0]
        if len(strong) > 1:
            raise _ambiguous(tags, tags)
    elif not matched["prefix"]:
        return Tagging("plain")  # as HEPATITIS-A and HEPATITIS-B
    elif not matched["suffix"]:
        chosen = "prefix"
    else:
        raise _ambiguous(tags, tags)
    return _letters_told(tags, chosen, forms[chosen], is_whole=bool(whole))


def has_entities(labels: Sequence[str]) -> bool:
    """Whether labels are tags of entities, and not, as parts of speech, one of a kind for each word."""
    if OUTSIDE in labels:
        return True
    try:
        return tagging_of(labels).style != "plain"
    except TagError:
        return False


def require_names(labels: Sequence[str]) -> None:
    """Refuse tags that are numbers alone: which of them is outside, and of what type the others are, is unknown.

    Raises:
        TagError: naming what gives them names.
    """
    if labels and all(label.removeprefix("-").isdecimal() for label in labels):
        raise TagError(
            f"the tags are the numbers {join_limited(labels)}; expected names, of which `O` is outside: name them in the order "
            "of their numbers by label_list, keep the `huggingface` metadata of the Parquet file, or set data.tag_scheme to "
            "`plain` when each number is a type of its own"
        )


def _split(label: str, style: Style) -> tuple[str, str]:
    """The letter of a label, or nothing, and its type."""
    if style == "letter":
        return (label, "_") if label in _MEANING else ("", label)
    if style == "prefix":
        found = _PREFIX.fullmatch(label)
        return (found[1], found[2] or "_") if found else ("", label)
    found = _SUFFIX.fullmatch(label) if style == "suffix" else None
    return (found[2], found[1]) if found else ("", label)


def _by_type(tags: Sequence[str], style: Style) -> dict[str, set[str]]:
    """The letters that come with each type."""
    found: dict[str, set[str]] = {}
    for letter, kind in (_split(tag, style) for tag in tags):
        if letter:
            found.setdefault(kind, set()).add(letter)
    return found


def _letters_told(tags: Sequence[str], style: Style, by_type: dict[str, set[str]], is_whole: bool) -> Tagging:
    """The tagging of a style, once its letters make a scheme.

    B and I always do. E, S and the like are the first letters of names too: they are letters of the scheme when a type has
    them beside B or I, or when every tag has one and there are several types.
    """
    letters = set().union(*by_type.values())
    usual = letters & {"B", "I"}
    is_shown = any(found & {"B", "I"} and found - {"B", "I"} for found in by_type.values())
    if not usual and not is_whole:
        return Tagging("plain")
    if letters - usual and not is_shown and (usual or len(by_type) == 1):
        raise _ambiguous([tag for tag in tags if _split(tag, style)[0] not in {"", "B", "I"}], tags)
    plain = {tag for tag in tags if not _split(tag, style)[0]}
    if plain & by_type.keys():
        raise _ambiguous(sorted(plain & by_type.keys()), tags)
    return Tagging(style)


def _require_upper_case(tags: Sequence[str]) -> None:
    found = [match for match in map(_LOWER_CASE.fullmatch, tags) if match]
    if {match[2] for match in found if match[1] == "b"} & {match[2] for match in found if match[1] == "i"}:
        raise TagError(
            f"the tags {join_limited(repr(match[0]) for match in found)} have their letters in lower case; expected B-, I- and "
            "O: write them so, or set data.tag_scheme to `plain` when every tag is a type of its own"
        )


def _ambiguous(doubtful: Sequence[str], tags: Sequence[str]) -> TagError:
    return TagError(
        f"the scheme of the tags is ambiguous: {join_limited(map(repr, doubtful))} may be a place in an entity and its type, "
        f"or a type of its own, among the tags {join_limited(map(repr, tags))}; {_REMEDY}"
    )


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

    Example:
        >>> label_map = LabelMap.from_values(["positive", "negative", "positive"])
        >>> label_map.labels
        ('negative', 'positive')
        >>> label_map.index()["positive"], label_map.num_classes
        (1, 2)
        >>> label_map.sha256 == LabelMap(labels=("positive", "negative")).sha256
        False
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    labels: tuple[str, ...] = Field(description="Labels in the order of their class ids, from 0")
    tag_scheme: TagScheme = Field("auto", description="Scheme of labels that are tags; auto reads it from the labels")

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
        """Refuse to go on when `other` is not this map.

        Args:
            other: a label map, or its hash.
            here: what this map belongs to, named in the error.
            there: what the other map belongs to, named in the error.

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
        """Write the labels as a JSON list; with a scheme of tags that is set, as an object with `labels` and `tag_scheme`.

        Args:
            path: the file; one that is there is replaced.
        """
        path.write_text(json.dumps(self._content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Args:
            path: the file.

        Returns:
            The label map.

        Raises:
            LabelMapError: when the file cannot be read, or is no label map.
        """
        try:
            return cls.parse(read_file(path), path)
        except OSError as error:
            raise LabelMapError(f"{path} cannot be read ({error}); make the folder again") from error

    @classmethod
    def parse(cls, content: bytes, source: Path) -> Self:
        """Parse the content of a label map's file.

        Args:
            content: what `save` wrote.
            source: names the file in errors.

        Returns:
            The label map.

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
        """Map of the distinct values: in numeric order when all are integers, in code-point order otherwise.

        Args:
            values: labels, repeats included.
            tag_scheme: scheme of labels that are tags; auto reads it from the labels.

        Returns:
            The label map.

        Raises:
            ValueError: when there are none, or one is empty.
        """
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
    """Labels in quotes, so that no two look alike: with escapes where two would be printed alike."""
    composed = [unicodedata.normalize("NFC", label) for label in labels]
    return [repr(label) if composed.count(look) == 1 else ascii(label) for label, look in zip(labels, composed, strict=True)]


def _look(label: str) -> str:
    text = unicodedata.normalize("NFKC", label.translate(_WITHOUT_INVISIBLE)).casefold()
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    text = _TRUTH.get(text, text)
    return f"{Decimal(text).normalize():f}" if _NUMBER.fullmatch(text) else text
