"""Metrics of sequence labelling: the entities in rows of tags, and sums by word and by entity in one pass over batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from hubflow.metrics.classification import ClassCounts, confusion_of
from hubflow.metrics.streaming import (
    Calibration,
    Floats,
    Ids,
    Mask,
    MetricOptions,
    precision_recall_f1,
    ratio,
    require_disjoint,
)
from hubflow.schemas.labels import OUTSIDE, LabelMap, Tag, Tagging, TagScheme, tagging_of

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
class EntitySpans:
    """Entities: type id, first and last position in the flat tags `[entities]`."""

    kind: Ids
    first: Ids
    last: Ids

    def among(self, others: "EntitySpans") -> Mask:
        """Whether each of these is one of `others` `[entities]`."""
        width = 1 + max(
            (int(values.max()) for one in (self, others) for values in (one.kind, one.last) if len(values)), default=0
        )
        mine, theirs = ((one.first * width + one.last) * width + one.kind for one in (self, others))
        return np.isin(mine, theirs, assume_unique=True)  # no two entities begin and end at the same words

    def joined(self, others: "EntitySpans") -> "EntitySpans":
        """These and `others`."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return EntitySpans(*(np.concatenate(pair) for pair in pairs))


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
        known = {name: position for position, name in enumerate(self.kinds)}
        self._kind = np.array([known.get(tag.type, -1) for tag in tags])
        is_plain = np.array([not tag.prefix for tag in tags])
        self._plain = np.where(is_plain, self._kind, -1) if is_plain.any() else None
        self._without_plain = np.where(is_plain, self.outside, np.arange(len(tags)))
        self._start, self._end = (_table(rules, tags) for rules in _LENIENT)
        starts_by_type, ends_by_type = _by_type(tags)
        self._start, self._end = self._start | starts_by_type, self._end | ends_by_type
        self._strict = tuple(_table(rules, tags) for rules in RULES[scheme])

    def flat(self, rows: Iterable[Ids]) -> Ids:
        """Rows of label ids one after the other, each with an `O` after it."""
        words = list(rows)
        ends = np.cumsum([len(row) for row in words], dtype=np.int64)
        return np.insert(np.concatenate([np.zeros(0, np.int64), *words]).astype(np.int64), ends, self.outside)

    def read(self, flat: Ids, mode: Mode) -> EntitySpans:
        """Entities of flat rows; those of tags without a prefix come last."""
        tags = flat if self._plain is None else self._without_plain[flat]
        before = np.concatenate([[self.outside], tags[:-1]]).astype(np.int64)
        found = self._lenient(before, tags) if mode == "default" else self._strictly(before, tags)
        return found if self._plain is None else found.joined(_runs(self._plain[flat]))

    def is_same_type(self, flat: Ids) -> Mask:
        """Whether each tag of flat rows follows a tag of its own type `[tags]`."""
        kinds = self._kind[flat]
        return np.concatenate([[False], (kinds[1:] == kinds[:-1]) & (kinds[1:] >= 0)])[: len(flat)]

    def _lenient(self, before: Ids, tags: Ids) -> EntitySpans:
        """As conlleval does."""
        places = np.arange(len(tags))
        started = np.maximum.accumulate(np.where(self._start[before, tags], places, 0)) if len(tags) else places
        ends = np.flatnonzero(self._end[before, tags])
        return EntitySpans(self._kind[before[ends]], started[ends - 1], ends - 1)

    def _strictly(self, before: Ids, tags: Ids) -> EntitySpans:
        starts, inside, complete = self._strict
        breaks = np.flatnonzero(~inside[before, tags])
        first = np.flatnonzero(starts[before, tags])
        after = breaks[np.minimum(np.searchsorted(breaks, first, side="right"), len(breaks) - 1)] if len(first) else first
        taken, position = np.ones(len(first), bool), -1
        if self.scheme in ("IOB1", "IOE1", "IOE2"):  # where a tag inside an entity can look like the start of another
            for index, (start, end) in enumerate(zip(first.tolist(), after.tolist(), strict=True)):
                taken[index] = start >= position
                position = end if taken[index] else position
        taken &= complete[before[after], tags[after]]
        return EntitySpans(self._kind[tags[first[taken]]], first[taken], after[taken] - 1)


def scheme_of(labels: Sequence[str], rows: Iterable[Ids], tagging: Tagging | None = None) -> Scheme:
    """The scheme that tags are written in, by the letters of the labels, and of IOB1 and IOB2 by the true tags.

    Args:
        labels: of the label map.
        rows: true label ids of each row. They are IOB1 where an entity begins with `I-`, and each `B-` follows one of its type.
        tagging: how the labels are read; recognized from them when not given.

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


def _runs(kinds: Ids) -> EntitySpans:
    """Runs of one type, of types of flat tags; -1 is none."""
    changes = np.flatnonzero(np.diff(kinds, prepend=-1, append=-1))
    first, last = changes[:-1], changes[1:] - 1
    is_entity = kinds[first] >= 0
    return EntitySpans(kinds[first[is_entity]], first[is_entity], last[is_entity])


def _table(rules: str, tags: Sequence[Tag]) -> Mask:
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


def _by_type(tags: Sequence[Tag]) -> tuple[Mask, Mask]:
    """Pairs of tags of different types: a start where the tag, an end where the one before it, is part of an entity."""
    name = np.array([tag.type for tag in tags], object)
    differs = name[:, None] != name[None, :]
    is_part = np.array([tag.prefix != "O" for tag in tags])
    return differs & is_part[None, :], differs & is_part[:, None]


def reader_of(label_map: LabelMap, truth: Sequence[Ids], scheme: TagScheme = "auto", others: Sequence[str] = ()) -> TagReader:
    """Reader of the tags of a label map, by `scheme`, or that of the map, or what labels and true tags tell.

    Args:
        label_map: the labels.
        truth: true label ids of each row.
        scheme: that the tags are written in.
        others: further tags, which are predicted and not in the map; their ids follow those of the map.

    Raises:
        TagError: when labels and true tags do not tell the scheme.
    """
    known = label_map.tag_scheme if scheme == "auto" else scheme
    tagging = tagging_of(label_map.labels, known)
    used = scheme_of(label_map.labels, truth, tagging) if known == "auto" else known
    return TagReader([*label_map.labels, *others], used, tagging)


def outside_id(label_map: LabelMap) -> int:
    """Label id that a word without a prediction gets: `O`, or the first label when there is none."""
    return label_map.index().get(OUTSIDE, 0)


class EntityCounts:
    """How many entities of each type are true, are predicted, and are both, in rows of tags.

    Attributes:
        reader: of the tags.
        mode: how they are read.
        by_type: the counts, by type as `reader.kinds` has them.
    """

    def __init__(self, reader: TagReader, mode: Mode = "default") -> None:
        self.reader, self.mode, self.by_type = reader, mode, ClassCounts(len(reader.kinds))

    def update(self, truth: Sequence[Ids], predicted: Sequence[Ids]) -> Ids:
        """Count the entities of rows.

        Args:
            truth: true label ids of the words of each row.
            predicted: predicted label ids of the words of each row.

        Returns:
            How many entities of each row are right, predicted and true `[rows, 3]`.

        Raises:
            ValueError: when a row has more words than were predicted, or fewer.
        """
        lengths = [len(row) for row in truth]
        if lengths != [len(row) for row in predicted]:
            raise ValueError("a row has more words, or fewer, than were predicted of it")
        true, found = (self.reader.read(self.reader.flat(tags), self.mode) for tags in (truth, predicted))
        is_right = found.among(true)
        starts = np.cumsum([0, *lengths]) + np.arange(len(lengths) + 1)  # flat rows have an `O` after each
        by_row = np.zeros((len(lengths), 3), np.int64)
        for column, (counts, kind, first) in enumerate(
            (
                (self.by_type.right, found.kind[is_right], found.first[is_right]),
                (self.by_type.predicted, found.kind, found.first),
                (self.by_type.true, true.kind, true.first),
            )
        ):
            counts[:] += np.bincount(kind, minlength=len(counts))
            by_row[:, column] = np.bincount(np.searchsorted(starts, first, side="right") - 1, minlength=len(lengths))
        return by_row

    def merge(self, other: Self) -> None:
        """Add the counts of other rows, of the same types."""
        self.by_type.merge(other.by_type)

    def compute(self) -> dict[str, float]:
        """Precision, recall and F1 of all types together, as seqeval's micro average."""
        return self.by_type.micro()

    def state(self) -> dict[str, dict[str, int]]:
        """The counts that are not 0 by type, as JSON has them."""
        return self.by_type.state()

    def from_state(self, state: Mapping[str, Mapping[str, int]]) -> Self:
        """New counts of the same types, as `state` gave them; an empty state is that of no rows."""
        found = type(self)(self.reader, self.mode)
        found.by_type = self.by_type.from_state(state)
        return found


MODES: tuple[Mode, ...] = ("default", "strict")
SUFFIXES: dict[Mode, str] = {"default": "", "strict": "_strict"}
"""Of the names of metrics, by mode."""
COLUMNS = {"accuracy": slice(0, 2), "loss": slice(2, 4)}
COLUMNS |= {
    f"{name}{SUFFIXES[mode]}": slice(4 + 3 * position, 7 + 3 * position)
    for position, mode in enumerate(MODES)
    for name in ("precision", "recall", "f1")
}
"""The columns of `row_sums` that a metric is computed from."""


class SequenceLabellingMetrics:
    """Metrics of sequence labelling (`StreamingMetrics`): sums over the words and entities of a split, and what is kept by row.

    Memory is a function of words (8 bytes each for what was predicted), rows (88 bytes) and labels; scores are not kept.

    Attributes:
        labels: true label id of each word, by row.
        predicted: label id of each word, by row; None where a row was not evaluated.
        losses: mean cross-entropy of a row's words that the model saw `[rows]`.
        row_sums: of each row how many of its words are right, its words, its summed loss, the words that the model saw, and
            for each mode how many entities are right, predicted and true `[rows, 10]`.
        words: counts of tags, by label.
        entities: counts of entities, for each mode of seqeval.
        calibration: of the words that the model saw.
    """

    def __init__(self, labels: Sequence[Ids], label_map: LabelMap, options: MetricOptions, others: Sequence[str] = ()) -> None:
        """Begin with no row evaluated.

        Args:
            labels: true label ids of the words of each row.
            label_map: of the model.
            options: what is measured.
            others: tags that predictions may have beside those of the map; their ids follow those of the map.

        Raises:
            TagError: when labels and true tags do not tell how to read entities.
        """
        rows = len(labels)
        self.reader = reader_of(label_map, labels, options.scheme, others)
        self.labels = labels
        self.predicted: list[Any] = [None] * rows
        self.losses, self.row_sums = np.zeros(rows, np.float64), np.zeros((rows, 10), np.float64)
        self.words = ClassCounts(label_map.num_classes)
        self.entities = {mode: EntityCounts(self.reader, mode) for mode in MODES}
        self.calibration = Calibration(options.bins)
        self._outside = outside_id(label_map)
        self._has_probabilities = True

    def update(self, rows: Ids, scores: Floats, seen: Sequence[Mask] | None = None) -> None:
        """Add a batch of rows.

        Args:
            rows: positions in the split `[batch]`.
            scores: log probabilities of the words that the model saw, row after row, `[seen words, classes]`.
            seen: of each row, whether truncation left the word to the model `[words]`; one that it cut off counts as predicted
                `O`, or as the first label where there is no `O`. All of them when not given.
        """
        labels = [self.labels[row] for row in rows.tolist()]
        lengths = [len(row) for row in labels]
        truth = np.concatenate(labels)
        was_seen = np.ones(len(truth), bool) if seen is None else np.concatenate(seen)
        best = scores.argmax(-1)
        guess = np.full(len(truth), self._outside, np.int64)
        guess[was_seen] = best
        self._add_predicted(rows, labels, np.split(guess, np.cumsum(lengths)[:-1]))
        owner, truth = np.repeat(np.arange(len(rows)), lengths)[was_seen], truth[was_seen]
        places = np.arange(len(truth))
        sums = np.bincount(owner, -scores[places, truth], len(rows))
        counts = np.bincount(owner, minlength=len(rows))
        self.losses[rows] = sums / np.maximum(counts, 1)
        self.row_sums[rows, 2], self.row_sums[rows, 3] = sums, counts
        self.calibration.update(np.exp(scores[places, best]).astype(np.float32), best == truth)

    def update_predicted(self, rows: Ids, predicted: Any, losses: Floats | None = None) -> None:
        """Add rows of which no probabilities are known: positions in the split, and ids of the words of each row.

        `losses`, means by row, are kept; the loss of all words cannot be computed from them.
        """
        self._has_probabilities = False
        self._add_predicted(rows, [self.labels[row] for row in rows.tolist()], predicted)
        if losses is not None:
            self.losses[rows] = losses

    def _add_predicted(self, rows: Ids, labels: Sequence[Ids], predicted: Sequence[Ids]) -> None:
        for position, mode in enumerate(MODES):
            self.row_sums[rows, 4 + 3 * position : 7 + 3 * position] = self.entities[mode].update(labels, predicted)
        for row, guess in zip(rows.tolist(), predicted, strict=True):
            self.predicted[row] = guess
        truth, guesses = (np.concatenate([np.zeros(0, np.int64), *words]) for words in (labels, predicted))
        self.words.update(truth, guesses)
        lengths = [len(row) for row in labels]
        owner = np.repeat(np.arange(len(rows)), lengths)
        self.row_sums[rows, 0] = np.bincount(owner, truth == guesses, len(rows))
        self.row_sums[rows, 1] = lengths

    def merge(self, other: Self) -> None:
        """Add the rows of another object of the same split; ValueError when a row is in both."""
        rows = other.rows
        require_disjoint(self.rows, rows)
        for row in rows.tolist():
            self.predicted[row] = other.predicted[row]
        self.losses[rows], self.row_sums[rows] = other.losses[rows], other.row_sums[rows]
        self.words.merge(other.words)
        for mode, counts in self.entities.items():
            counts.merge(other.entities[mode])
        self.calibration.merge(other.calibration)
        self._has_probabilities &= other._has_probabilities

    @property
    def rows(self) -> Ids:
        """Positions in the split that were evaluated `[evaluated]`."""
        return np.flatnonzero([guess is not None for guess in self.predicted])

    def compute(self) -> dict[str, float]:
        """Every flat metric; the loss is the mean over the words that the model saw."""
        found = {"accuracy": self.words.accuracy}
        for mode, counts in self.entities.items():
            found |= {f"{name}{SUFFIXES[mode]}": value for name, value in counts.compute().items()}
        if not self._has_probabilities:
            return found
        loss = float(self.row_sums[:, 2].sum() / max(self.row_sums[:, 3].sum(), 1.0))
        return {"loss": loss, **found, "ece": self.calibration.error}

    def statistics(self, resamples: int, rows: Ids | None = None, metric: str | None = None) -> "SequenceLabellingStatistics":
        """What computes every metric but the calibration error for weights of rows, all that were evaluated when not given."""
        sums = self.row_sums[self.rows if rows is None else rows]
        return SequenceLabellingStatistics(sums, self._has_probabilities)

    def row_kinds(self, metric: str) -> Ids:
        """A number for each row that was evaluated: rows of the same number count the same for a metric `[evaluated]`."""
        sums = self.row_sums[self.rows]
        if metric not in COLUMNS:
            return np.arange(len(sums))
        return np.unique(sums[:, COLUMNS[metric]], axis=0, return_inverse=True)[1].reshape(-1)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """`label` and `predicted` of the words of the evaluated rows."""
        rows, texts = self.rows.tolist(), np.array(names, object)
        return {
            "label": [texts[self.labels[row]].tolist() for row in rows],
            "predicted": [texts[self.predicted[row]].tolist() for row in rows],
        }

    def details(self, names: Sequence[str]) -> dict[str, Any]:
        """Scores by type of entity in both modes, scores by tag, and the confusion of tags, as `SplitDetails` has them."""
        rows = self.rows.tolist()
        by_mode = {mode: counts.by_type.scores(self.reader.kinds, occurring=True) for mode, counts in self.entities.items()}
        words = [np.concatenate([one[row] for row in rows]) for one in (self.labels, self.predicted)]
        return {
            **dict(by_mode["default"]),
            "strict": by_mode["strict"],
            "per_tag": self.words.scores(names).per_class,
            "scheme": self.reader.scheme,
            "confusion": confusion_of(words[0], words[1], names),
        }

    def is_wrong(self) -> Mask:
        """Which of the rows that were evaluated have a wrong word `[evaluated]`."""
        rows = self.rows
        result: Mask = self.row_sums[rows, 0] < self.row_sums[rows, 1]
        return result

    def row_probability(self, row: int) -> float | None:
        """None: a sentence has a probability for each word."""
        return None

    def label_slices(self, names: Sequence[str], most: int) -> Iterator[tuple[str, Mask]]:
        """The rows with each type of entity, the `most` most frequent ones, most frequent first, then those without any."""
        rows = self.rows
        has = np.zeros((len(self.reader.kinds), len(rows)), bool)
        for position, row in enumerate(rows.tolist()):
            has[self.reader.read(self.reader.flat([self.labels[row]]), "default").kind, position] = True
        for kind in np.argsort(-has.sum(1), kind="stable")[:most].tolist():
            yield self.reader.kinds[kind], has[kind]
        yield "(no entity)", np.asarray(~has.any(0))

    def slice_metrics(self, within: Mask, is_one_label: bool) -> dict[str, float]:
        """Metrics of some rows, but the calibration error."""
        return {name: float(values[0]) for name, values in self.statistics(1)(within[None, :].astype(np.int64)).items()}

    def accuracy_interval(self, within: Mask, confidence: float) -> tuple[float, float] | None:
        """None: the words of a sentence are not independent."""
        return None

    def notes(self) -> list[str]:
        """What was not computed: nothing."""
        return []


class SequenceLabellingStatistics:
    """Flat metrics of sequences for weights of their rows (`Statistics`).

    Args:
        sums: of each row, as `SequenceLabellingMetrics.row_sums` `[rows, 10]`.
        has_losses: whether those of the loss are known.
    """

    def __init__(self, sums: Floats, has_losses: bool = True) -> None:
        self.width = len(sums)
        self.notes = ["no interval of ece, which is over words: rows are drawn whole"]
        self._sums, self._has_losses = sums, has_losses

    def __call__(self, weights: Ids) -> dict[str, Floats]:
        """Every metric for each weighting."""
        sums = weights.astype(np.float64) @ self._sums
        found = {"loss": ratio(sums[:, 2], sums[:, 3])} if self._has_losses else {}
        found["accuracy"] = ratio(sums[:, 0], sums[:, 1])
        for mode, (right, predicted, true) in zip(MODES, (sums[:, 4:7].T, sums[:, 7:10].T), strict=True):
            scores = precision_recall_f1(right, predicted, true)
            found |= {f"{name}{SUFFIXES[mode]}": values for name, values in scores.items()}
        return found
