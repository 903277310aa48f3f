"""Splits checked against each other, in bounded memory."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hubflow.data.columns import FILE
from hubflow.data.duplicates import (
    MAX_EXAMPLES,
    RECORD,
    SPLITS,
    HashIndex,
    Keys,
    Match,
    Records,
    Tallies,
    Tally,
    exact_texts,
    group_keys,
    hashed,
    label_lists,
    match_groups,
    match_texts,
    normalised_texts,
)
from hubflow.errors import join_limited
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.labels import OUTSIDE, distinct_texts, has_entities, similar_labels
from hubflow.schemas.references import Finding, Policy, RowKind, Split

TEXT_CHECKS = (
    "same_text_across_splits",
    "same_normalised_text_across_splits",
    "duplicates_within_split",
    "conflicting_labels",
)
NOUNS: dict[RowKind, str] = {"text": "text", "text_pair": "pair of texts", "tokens": "sentence", "image": "image file"}
POSITIONS = re.compile(r"\d+[-.]\d+")
"""Of CoNLL-U's multi-word tokens and empty nodes."""
ROW_BITS = 40  # of a row's number, below those of its file
Places = NDArray[np.int64]
LIKE_OUTSIDE = ("o", "0", "-", "_")
"""What is written for `O` at times; only `O` is outside."""


class SplitChecks:
    """An `Observer` that compares the splits of one data set.

    Of each row it keeps 25 bytes: two hashes of its text, its label, number and split. The last million rows are held in
    memory, those before them in temporary files, by hash.

    Args:
        checks: the policy of each check; what is ignored is not computed.
        kind: of the rows.
        group_column: column whose values must not be in two splits.
        scratch: folder for temporary files; the system's when not given.
        in_memory: rows held in memory.
        of_several: splits whose rows are of several files, which the column `file` names and findings too.
    """

    def __init__(
        self,
        checks: DataChecks,
        kind: RowKind,
        group_column: str | None = None,
        scratch: Path | None = None,
        in_memory: int = 1_000_000,
        of_several: Collection[Split] = (),
    ) -> None:
        self._of_several: Collection[Split] = of_several
        self._files: dict[str, int] = {}
        self._checks, self._kind = checks, kind
        wanted = [name for name in TEXT_CHECKS if self._policy(name) != "ignore"]
        self._normalises = kind != "image" and TEXT_CHECKS[1] in wanted
        has_texts = bool(wanted) and (kind != "image" or wanted != [TEXT_CHECKS[1]])
        self._texts = HashIndex(in_memory, scratch) if has_texts else None
        self._group_column = None if checks.same_group_across_splits == "ignore" else group_column
        self._groups = HashIndex(in_memory, scratch)
        self._codes: dict[str, int] = {}
        self._labels: dict[Split, Counter[str]] = {}
        self._numbered: dict[Split, tuple[int, int]] = {}

    def add(self, split: Split, rows: pd.DataFrame) -> None:
        """Take a chunk of the rows of `split`, in the order of the file."""
        if rows.empty:
            return
        codes = self._count_labels(split, rows)
        if self._kind == "tokens":
            numbered, sentences = self._numbered.get(split, (0, 0))
            more, of_several = count_numbered(rows["tokens"])
            self._numbered[split] = numbered + more, sentences + of_several
        if self._texts is not None:
            self._texts.add(self._text_records(split, rows, codes))
        if self._group_column is not None and self._group_column in rows:
            keys, known = group_keys(rows[self._group_column])
            _, first = np.unique(keys[known], return_index=True)
            kept = np.flatnonzero(known)[np.sort(first)]
            self._groups.add(_records(split, self._places(split, rows.iloc[kept]), keys[kept]))

    def findings(self) -> list[Finding]:
        """What was found, in the order of the settings; nothing for a check that is ignored."""
        tallies: Tallies = {}
        if self._texts is not None:
            for part in self._texts.parts():
                match_texts(part, tallies)
        for part in self._groups.parts():
            match_groups(part, tallies)
        found = [self._matched(check, splits, tally) for (check, splits), tally in tallies.items()]
        found += [*self._similar_labels(), *self._missing_labels(), *self._no_outside_tag(), *self._numbered_tokens()]
        found += self._imbalance()
        order = list(DataChecks.model_fields)
        kept = [finding for finding in found if finding.policy != "ignore"]
        return sorted(kept, key=lambda one: (order.index(one.check), [SPLITS.index(split) for split in one.splits]))

    def _policy(self, check: str) -> Policy:
        policy: Policy = getattr(self._checks, check)
        return policy

    def _count_labels(self, split: Split, rows: pd.DataFrame) -> Keys:
        """Add to the labels of `split`; give the label code of each row: a hash for a list of labels."""
        counts = self._labels.setdefault(split, Counter())
        if self._kind == "tokens":
            codes, words = label_lists(rows["labels"])
            counts.update(words)
            return codes
        values, names = pd.factorize(rows["label"].to_numpy(object))
        counts.update(dict(zip(map(str, names), np.bincount(values).tolist(), strict=True)))
        known = [self._codes.setdefault(str(name), len(self._codes)) for name in names]
        return np.array(known, np.uint64)[values]

    def _text_records(self, split: Split, rows: pd.DataFrame, codes: Keys) -> Records:
        exact = hashed(exact_texts(rows, self._kind))
        if not self._normalises:
            return _records(split, self._places(split, rows), exact, None, codes)
        return _records(split, self._places(split, rows), hashed(normalised_texts(rows, self._kind)), exact, codes)

    def _places(self, split: Split, rows: pd.DataFrame) -> Places:
        """Number of each row `[rows]`; of several files, with the number of its file in the bits above."""
        numbers: Places = rows["row"].to_numpy(np.int64)
        if split not in self._of_several:
            return numbers
        codes, files = pd.factorize(rows[FILE])
        known = np.array([self._files.setdefault(str(file), len(self._files)) for file in files], np.int64)
        places: Places = numbers + (known[codes] << ROW_BITS)
        return places

    def _named(self, split: Split, position: int) -> str:
        """A row as findings name it."""
        if split not in self._of_several:
            return f"{split} row {position}"
        return f"{split} row {position & (1 << ROW_BITS) - 1} of {Path(list(self._files)[position >> ROW_BITS]).name}"

    def _matched(self, check: str, splits: tuple[Split, ...], tally: Tally) -> Finding:
        noun, where = NOUNS[self._kind], " and ".join(splits)
        messages = {
            "same_text_across_splits": f"{tally.count} row(s) of {splits[-1]} have the same {noun} as a row of {splits[0]}; "
            f"scores on {splits[-1]} are too good by what was learnt by heart: remove them from one of the two",
            "same_normalised_text_across_splits": f"{tally.count} row(s) of {splits[-1]} differ from a {noun} of {splits[0]} "
            "only in case, width, white space or punctuation at the ends: remove them from one of the two",
            "duplicates_within_split": f"{tally.count} row(s) of {where} repeat the {noun} of an earlier row: remove them, or "
            "ignore this when they are meant to weigh more",
            "conflicting_labels": f"{tally.count} {noun}(s) of {where} have rows with different labels; expected one: decide "
            "on a label, or remove them",
            "same_group_across_splits": f"{tally.count} value(s) of {self._group_column!r} are in both {where}; expected "
            "each in one split: split by group, or leave dev and test out and let dev_fraction and test_fraction do so",
        }
        examples = tuple(self._example(check, splits, match) for match in tally.first)
        return self._finding(check, splits, tally.count, messages[check], examples)

    def _example(self, check: str, splits: tuple[Split, ...], match: Match) -> str:
        names = list(self._codes)
        labels = ("", "") if not names else (f" ({names[match.other_label]!r})", f" ({names[match.label]!r})")
        if check == "same_group_across_splits":
            labels = ("", "")
        sign = "≈" if check == "same_normalised_text_across_splits" else "="
        other, row = self._named(splits[0], match.other), self._named(splits[-1], match.row)
        return f"{other}{labels[0]} {sign} {row}{labels[1]}"

    def _similar_labels(self) -> Iterator[Finding]:
        groups = similar_labels(label for counts in self._labels.values() for label in counts)
        concerned = [label for group in groups for label in group]
        if groups:
            message = (
                f"{len(concerned)} labels look like another label and are classes of their own; expected one way to write "
                "each: correct them in the data, or ignore this when they are meant"
            )
            splits = tuple(split for split in SPLITS if self._labels.get(split, Counter()).keys() & set(concerned))
            examples = tuple(" and ".join(map(self._counted, group, distinct_texts(group))) for group in groups[:MAX_EXAMPLES])
            yield self._finding("similar_labels", splits, len(concerned), message, examples)

    def _counted(self, label: str, text: str) -> str:
        """A label with its count in each split that has it."""
        counts = [f"{self._labels[split][label]} in {split}" for split in SPLITS if self._labels.get(split, Counter())[label]]
        return f"{text} ({', '.join(counts)})"

    def _missing_labels(self) -> Iterator[Finding]:
        train = self._labels.get("train", Counter())
        for split, counts in self._labels.items():
            lacking = {label: count for label, count in counts.items() if label not in train}
            if split != "train" and lacking:
                message = f"{len(lacking)} label(s) of {split} are not in train, which cannot learn them: add rows to train"
                examples = _label_examples(lacking, split)
                yield self._finding("labels_missing_from_train", ("train", split), len(lacking), message, examples)
        unseen = {label: count for label, count in train.items() if label not in self._labels.get("dev", train)}
        if unseen:
            message = f"{len(unseen)} label(s) of train are not in dev, which evaluates without them: add rows to dev"
            examples = _label_examples(unseen, "train")
            yield self._finding("labels_missing_from_dev", ("train", "dev"), len(unseen), message, examples)

    def _no_outside_tag(self) -> Iterator[Finding]:
        counts = self._labels.get("train", Counter())
        if self._kind != "tokens" or OUTSIDE in counts:
            return
        doubtful = [label for label in counts if label in LIKE_OUTSIDE]
        if doubtful or has_entities([*counts]):
            named = f"; {join_limited(map(repr, doubtful))} is a type of entity like the others" if doubtful else ""
            message = (
                f"no tag of train is {OUTSIDE!r}, so that every word is part of an entity{named}: write {OUTSIDE!r} where a "
                "word is in none, or ignore this when there is no such word"
            )
            yield self._finding("no_outside_tag", ("train",), len(counts), message, _label_examples(counts, "train"))

    def _numbered_tokens(self) -> Iterator[Finding]:
        for split, (numbered, sentences) in self._numbered.items():
            if numbered > sentences / 2:
                message = (
                    f"the tokens of {numbered} of {sentences} sentence(s) of several words of {split} are the numbers "
                    "1, 2, 3 …: set data.tokens_column to the column of the words, by position or name"
                )
                yield self._finding("numbered_tokens", (split,), numbered, message, ())

    def _imbalance(self) -> Iterator[Finding]:
        counts = Counter(self._labels.get("train", Counter()))
        if self._kind == "tokens":
            counts.pop(OUTSIDE, None)
        if not counts:
            return
        most, least = counts.most_common(1)[0], counts.most_common()[-1]
        limit = self._checks.max_imbalance_ratio
        small = {label: count for label, count in counts.items() if count * limit < most[1]}
        if small:
            unit = "tokens" if self._kind == "tokens" else "rows"
            message = (
                f"{len(small)} label(s) of train have less than 1/{limit:g} of the {unit} of {most[0]!r} ({most[1]}); the "
                f"smallest, {least[0]!r}, has {least[1]}: add rows, set class weights, or raise max_imbalance_ratio"
            )
            yield self._finding("class_imbalance", ("train",), len(small), message, _label_examples(small, "train"))

    def _finding(self, check: str, splits: tuple[Split, ...], count: int, message: str, examples: tuple[str, ...]) -> Finding:
        return Finding(check=check, policy=self._policy(check), splits=splits, count=count, message=message, examples=examples)


def count_numbered(sentences: Iterable[Sequence[str]]) -> tuple[int, int]:
    """How many sentences of several words have their positions, from 0 or 1, for words; and how many such sentences there are.

    A sentence of one word tells nothing.
    """
    of_several = [words for words in sentences if len(words) > 1]
    return sum(words[0][:1] in ("0", "1") and _is_numbered(words) for words in of_several), len(of_several)


def _is_numbered(words: Sequence[str]) -> bool:
    numbers = [word for word in words if not POSITIONS.fullmatch(word)]
    return numbers[:1] in (["0"], ["1"]) and numbers == [str(int(numbers[0]) + position) for position in range(len(numbers))]


def _records(split: Split, places: Places, keys: Keys, exact: Keys | None = None, codes: Keys | None = None) -> Records:
    records = np.zeros(len(places), RECORD)
    records["key"], records["row"], records["split"] = keys, places, SPLITS.index(split)
    if exact is not None:
        records["exact"] = exact.astype(np.uint32)
    if codes is not None:
        records["label"] = codes.astype(np.uint32)
    return records


def _label_examples(counts: dict[str, int], split: Split) -> tuple[str, ...]:
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))[:MAX_EXAMPLES]
    return tuple(f"{join_limited([repr(label)])}: {count} in {split}" for label, count in rarest)
