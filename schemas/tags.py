"""Tags of words: prefix and type of entity, told by the labels of a data set. Must not import Paddle or Prefect."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hubflow.errors import TagError, join_limited

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
        scheme: that they are written in; told by the labels when `auto`.

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
    """Refuse tags that are numbers alone: which of them is outside, and of what type the others are, cannot be told.

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
        f"the scheme of the tags cannot be told: {join_limited(map(repr, doubtful))} may be a place in an entity and its type, "
        f"or a type of its own, among the tags {join_limited(map(repr, tags))}; {_REMEDY}"
    )
