"""Entities in rows of tags: leniently as conlleval reads them, or strictly by a scheme."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.labels import Tag, Tagging, tagging_of

Scheme = Literal["plain", "IOB1", "IOB2", "IOE1", "IOE2", "BIOES", "BILOU"]
Mode = Literal["default", "strict"]
RULES: dict[Scheme, tuple[str, str, str]] = {
    "IOB1": ("OI* II! BI* IB= BB=", "BI= II=", "II! IO* IB* BO* BI! BB="),
    "IOB2": ("?B*", "BI= II=", "IO* II! IB* BO* BI! BB*"),
    "IOE1": ("OI* II! EI* EE=", "II= IE=", "II! IO* IE! EI= EE="),
    "IOE2": ("OI* OE* EI* EE* II! IE!", "IE= II=", "E?*"),
    "BIOES": ("?B* ?S*", "BI= BE= II= IE=", "S?* E?*"),
}
RULES |= {"BILOU": RULES["BIOES"], "plain": RULES["IOB1"]}
"""By scheme what starts an entity, what goes on with it, and what comes after a complete one: the prefix before, the prefix,
and whether their types are the same (=), differ (!) or do not matter (*); `?` is any prefix. seqeval's, its quirks included.
L and U of BILOU are E and S here, as `Tagging.parse` has them; of plain tags no rule is needed."""
_LENIENT = (
    "?B* ?S* EE* EI* SE* SI* OE* OI*",
    "E?* S?* BB* BS* BO* IB* IS* IO*",
)


@dataclass(frozen=True)
class Found:
    """Entities: type id, first and last position in the flat tags `[entities]`."""

    kind: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def among(self, others: "Found") -> NDArray[np.bool_]:
        """Whether each of these is one of `others` `[entities]`."""
        width = 1 + max(
            (int(values.max()) for one in (self, others) for values in (one.kind, one.last) if len(values)), default=0
        )
        mine, theirs = ((one.first * width + one.last) * width + one.kind for one in (self, others))
        return np.isin(mine, theirs)

    def joined(self, others: "Found") -> "Found":
        """These and `others`."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Found(*(np.concatenate(pair) for pair in pairs))


class TagReader:
    """Finds the entities of rows of tags, given as ids of `labels`.

    Attributes:
        kinds: types of entities that the labels name, in code-point order.
    """

    def __init__(self, labels: Sequence[str], scheme: Scheme, tagging: Tagging | None = None) -> None:
        """Read labels as `tagging` says, or as they tell themselves.

        Raises:
            TagError: when they do not.
        """
        tagging = tagging or tagging_of(labels)
        tags = [*map(tagging.parse, labels), Tag("O", "")]  # the last one stands between rows
        self.outside, self.scheme = len(labels), scheme
        self.kinds = tuple(sorted({tag.type for tag in tags if tag.prefix != "O"}))
        known = {name: place for place, name in enumerate(self.kinds)}
        self._kind = np.array([known.get(tag.type, -1) for tag in tags])
        is_plain = np.array([not tag.prefix for tag in tags])
        self._plain = np.where(is_plain, self._kind, -1) if is_plain.any() else None
        self._without_plain = np.where(is_plain, self.outside, np.arange(len(tags)))
        self._start, self._end = (_table(rules, tags) for rules in _LENIENT)
        starts_by_type, ends_by_type = _by_type(tags)
        self._start, self._end = self._start | starts_by_type, self._end | ends_by_type
        self._strict = tuple(_table(rules, tags) for rules in RULES[scheme])

    def flat(self, rows: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Rows of label ids one after the other, each with an `O` after it."""
        parts: list[Any] = []
        for row in rows:
            parts += [row, [self.outside]]
        return np.concatenate(parts or [[]]).astype(np.int64)

    def read(self, flat: NDArray[np.int64], mode: Mode) -> Found:
        """Entities of flat rows; those of tags without a prefix come last."""
        tags = flat if self._plain is None else self._without_plain[flat]
        before = np.concatenate([[self.outside], tags[:-1]]).astype(np.int64)
        found = self._lenient(before, tags) if mode == "default" else self._strictly(before, tags)
        return found if self._plain is None else found.joined(_runs(self._plain[flat]))

    def is_same_type(self, flat: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each tag of flat rows follows a tag of its own type `[tags]`."""
        kinds = self._kind[flat]
        return np.concatenate([[False], (kinds[1:] == kinds[:-1]) & (kinds[1:] >= 0)])[: len(flat)]

    def _lenient(self, before: NDArray[np.int64], tags: NDArray[np.int64]) -> Found:
        """As conlleval does."""
        places = np.arange(len(tags))
        started = np.maximum.accumulate(np.where(self._start[before, tags], places, 0)) if len(tags) else places
        ends = np.flatnonzero(self._end[before, tags])
        return Found(self._kind[before[ends]], started[ends - 1], ends - 1)

    def _strictly(self, before: NDArray[np.int64], tags: NDArray[np.int64]) -> Found:
        starts, inside, complete = self._strict
        breaks = np.flatnonzero(~inside[before, tags])
        first = np.flatnonzero(starts[before, tags])
        after = breaks[np.minimum(np.searchsorted(breaks, first, side="right"), len(breaks) - 1)] if len(first) else first
        taken, place = np.ones(len(first), bool), -1
        if self.scheme in ("IOB1", "IOE1", "IOE2"):  # where a tag inside an entity can look like the start of another
            for index, (start, end) in enumerate(zip(first.tolist(), after.tolist(), strict=True)):
                taken[index] = start >= place
                place = end if taken[index] else place
        taken &= complete[before[after], tags[after]]
        return Found(self._kind[tags[first[taken]]], first[taken], after[taken] - 1)


def scheme_of(labels: Sequence[str], rows: Iterable[NDArray[np.int64]], tagging: Tagging | None = None) -> Scheme:
    """The scheme that tags are written in, by the letters of the labels, and of IOB1 and IOB2 by the true tags.

    Args:
        labels: of the label map.
        rows: true label ids of each row. They are IOB1 where an entity begins with `I-`, and each `B-` follows one of its type.
        tagging: how the labels are read; told by them when not given.

    Raises:
        TagError: when they do not tell it.
    """
    tagging = tagging or tagging_of(labels)
    letters = tagging.used_letters(labels)
    if not letters:
        return "plain"
    if letters & {"L", "U"}:
        return "BILOU"
    if letters & {"S", "W", "M"} or {"B", "E"} <= letters:
        return "BIOES"
    if "E" in letters:
        return "IOE2"
    if "B" not in letters:
        return "IOB1"
    reader = TagReader(labels, "IOB1", tagging)
    flat = reader.flat(rows)
    prefix = np.array([*(tagging.parse(label).prefix for label in labels), "O"])
    is_misplaced = (prefix == "B")[flat] & ~reader.is_same_type(flat)  # in IOB1 it only parts two entities of one type
    begins_inside = (prefix == "I")[flat[reader.read(flat, "default").first]].any()
    return "IOB1" if begins_inside and not is_misplaced.any() else "IOB2"


def _runs(kinds: NDArray[np.int64]) -> Found:
    """Runs of one type, of types of flat tags; -1 is none."""
    changes = np.flatnonzero(np.diff(kinds, prepend=-1, append=-1))
    first, last = changes[:-1], changes[1:] - 1
    is_entity = kinds[first] >= 0
    return Found(kinds[first[is_entity]], first[is_entity], last[is_entity])


def _table(rules: str, tags: Sequence[Tag]) -> NDArray[np.bool_]:
    """Whether a rule allows each pair of tags `[before, tag]`."""
    found = np.zeros((len(tags), len(tags)), bool)
    prefix, name = np.array([tag.prefix for tag in tags]), np.array([tag.type for tag in tags], object)
    same = name[:, None] == name[None, :]
    types = {"=": same, "!": ~same, "*": np.ones_like(same)}
    for rule in rules.split():
        before, now, kind = rule[0], rule[1], rule[2]
        left, right = (np.full(len(tags), True) if one == "?" else prefix == one for one in (before, now))
        found |= left[:, None] & right[None, :] & types[kind]
    return found


def _by_type(tags: Sequence[Tag]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pairs of tags of different types: a start where the tag, an end where the one before it, is part of an entity."""
    name = np.array([tag.type for tag in tags], object)
    differs = name[:, None] != name[None, :]
    is_part = np.array([tag.prefix != "O" for tag in tags])
    return differs & is_part[None, :], differs & is_part[:, None]
