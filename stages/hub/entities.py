"""Entities in rows of tags, as seqeval reads them: leniently, or strictly by a scheme. Must not import Paddle."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Scheme = Literal["IOB1", "IOB2", "IOE1", "IOE2", "BIOES", "BILOU"]
Mode = Literal["default", "strict"]
RULES: dict[Scheme, tuple[str, str, str]] = {
    "IOB1": ("OI* II! BI* IB= BB=", "BI= II=", "II! IO* IB* BO* BI! BB="),
    "IOB2": ("?B*", "BI= II=", "IO* II! IB* BO* BI! BB*"),
    "IOE1": ("OI* II! EI* EE=", "II= IE=", "II! IO* IE! EI= EE="),
    "IOE2": ("OI* OE* EI* EE* II! IE!", "IE= II=", "E?*"),
    "BIOES": ("?B* ?S*", "BI= BE= II= IE=", "S?* E?*"),
    "BILOU": ("?B* ?U*", "BI= BL= II= IL=", "U?* L?*"),
}
"""By scheme what starts an entity, what goes on with it, and what comes after a complete one: the prefix before, the prefix,
and whether their types are the same (=), differ (!) or do not matter (*); `?` is any prefix. seqeval's, its quirks included."""
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


class TagReader:
    """Finds the entities of rows of tags, given as ids of `labels`.

    Attributes:
        kinds: types of entities that the labels name, in code-point order.
    """

    def __init__(self, labels: Sequence[str], scheme: Scheme) -> None:
        tags = [*labels, "O"]  # the last one stands between rows
        self.outside, self.scheme = len(labels), scheme
        names = [tag[1:].split("-", maxsplit=1)[-1] or "_" for tag in tags]
        strict_names = [tag[1:].strip("-") or "_" for tag in tags]
        self.kinds = tuple(sorted({name for tag, name in zip(tags, names, strict=True) if tag[0] != "O"}))
        known = {name: place for place, name in enumerate(self.kinds)}
        self._kind = np.array([known.get(name, 0) for name in names])
        self._is_outside = np.array([tag[0] == "O" for tag in tags])
        self._start, self._end = (_table(rules, tags, names) for rules in _LENIENT)
        starts_by_type, ends_by_type = _by_type(tags, names)
        self._start, self._end = self._start | starts_by_type, self._end | ends_by_type
        self._strict = tuple(_table(rules, tags, strict_names) for rules in RULES[scheme])

    def flat(self, rows: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Rows of label ids one after the other, each with an `O` after it."""
        parts: list[Any] = []
        for row in rows:
            parts += [row, [self.outside]]
        return np.concatenate(parts or [[]]).astype(np.int64)

    def read(self, flat: NDArray[np.int64], mode: Mode) -> Found:
        """Entities of flat rows."""
        before = np.concatenate([[self.outside], flat[:-1]]).astype(np.int64)
        return self._lenient(before, flat) if mode == "default" else self._strictly(before, flat)

    def is_same_type(self, flat: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each tag of flat rows follows a tag of its own type `[tags]`."""
        kinds = np.where(self._is_outside, -1, self._kind)[flat]
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


def scheme_of(labels: Sequence[str], rows: Iterable[NDArray[np.int64]]) -> Scheme:
    """The scheme that tags are written in, by the prefixes of the labels, and of IOB1 and IOB2 by the true tags.

    Args:
        labels: of the label map.
        rows: true label ids of each row. They are IOB1 where an entity begins with `I-`, and each `B-` follows one of its type.
    """
    prefixes = {label[0] for label in labels if label != "O"}
    if prefixes & {"L", "U"}:
        return "BILOU"
    if "S" in prefixes or {"B", "E"} <= prefixes:
        return "BIOES"
    if "E" in prefixes:
        return "IOE2"
    if "B" not in prefixes:
        return "IOB1"
    reader = TagReader(labels, "IOB1")
    flat = reader.flat(rows)
    prefix = np.array([*(label[0] for label in labels), "O"])
    is_misplaced = (prefix == "B")[flat] & ~reader.is_same_type(flat)  # in IOB1 it only parts two entities of one type
    begins_inside = (prefix == "I")[flat[reader.read(flat, "default").first]].any()
    return "IOB1" if begins_inside and not is_misplaced.any() else "IOB2"


def _table(rules: str, tags: Sequence[str], names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether a rule allows each pair of tags `[before, tag]`."""
    found = np.zeros((len(tags), len(tags)), bool)
    prefix, name = np.array([tag[0] for tag in tags]), np.array(names, object)
    same = name[:, None] == name[None, :]
    types = {"=": same, "!": ~same, "*": np.ones_like(same)}
    for rule in rules.split():
        before, now, kind = rule[0], rule[1], rule[2]
        left, right = (np.full(len(tags), True) if one == "?" else prefix == one for one in (before, now))
        found |= left[:, None] & right[None, :] & types[kind]
    return found


def _by_type(tags: Sequence[str], names: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pairs of tags of different types: a start where the tag, an end where the one before it, is part of an entity."""
    name = np.array(names, object)
    differs = name[:, None] != name[None, :]
    is_part = np.array([tag[0] not in "O." for tag in tags])
    return differs & is_part[None, :], differs & is_part[:, None]
