"""The label map: one order, one hash, and no way around either."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hubflow.errors import LabelMapError
from hubflow.schemas.frames import BLANK, has_text
from hubflow.schemas.labels import (
    WHITE_SPACE,
    LabelMap,
    clean_label,
    distinct_texts,
    label_text,
    similar_labels,
    sorted_labels,
)

any_labels = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=20, unique=True)


@given(any_labels)
def test_a_labels_class_id_is_its_place(labels: list[str]) -> None:
    label_map = LabelMap(labels=tuple(labels))
    assert [label_map.labels[position] for position in label_map.index().values()] == labels
    assert label_map.num_classes == len(labels)


def test_the_hash_depends_on_labels_and_order() -> None:
    first = LabelMap(labels=("a", "b"))
    assert first.sha256 == LabelMap(labels=("a", "b")).sha256
    others = [("b", "a"), ("a",), ("a", "b", "c"), ("ab",), ('a", "b',)]
    assert len({first.sha256, *(LabelMap(labels=labels).sha256 for labels in others)}) == 6


@pytest.mark.parametrize(("labels", "fault"), [(("a", "b", "a"), "repeated: a"), ((), "at least one"), (("a", ""), "empty")])
def test_repeated_empty_and_no_labels_are_refused(labels: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        LabelMap(labels=labels)


def test_a_label_map_does_not_change() -> None:
    with pytest.raises(ValidationError):
        LabelMap(labels=("a", "b")).labels = ("b", "a")  # type: ignore[misc]


def test_maps_that_differ_refuse_to_meet_naming_both_sides() -> None:
    label_map = LabelMap(labels=("a", "b"))
    label_map.require_same(LabelMap(labels=("a", "b")), "the rows", "the head")
    label_map.require_same(label_map.sha256, "the rows", "the head")
    with pytest.raises(
        LabelMapError, match=r"label map of the rows \(2 labels: a, b; hash .*is not that of the head.*same data"
    ):
        label_map.require_same(LabelMap(labels=("b", "a")), "the rows", "the head")


def test_a_message_about_many_labels_is_bounded() -> None:
    many = LabelMap(labels=tuple(f"label{number}" for number in range(1000)))
    with pytest.raises(LabelMapError, match=r"… \(990 more\)") as caught:
        many.require_same("0" * 64, "the rows", "the head")
    assert len(str(caught.value)) < 500


@given(any_labels)
def test_what_is_saved_is_loaded(labels: list[str]) -> None:
    import tempfile

    label_map = LabelMap(labels=tuple(labels))
    with tempfile.TemporaryDirectory() as folder:
        label_map.save(Path(folder) / "map.json")
        assert LabelMap.load(Path(folder) / "map.json") == label_map


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["--1", "1"], ("--1", "1")),
        (["1", "one"], ("1", "one")),
        (["I-PER", "O", "B-PER", "B-LOC"], ("O", "B-LOC", "B-PER", "I-PER")),
        (["é", "z", "A"], ("A", "z", "é")),
    ],
)
def test_values_are_ordered_as_a_person_would_number_them(values: list[str], expected: tuple[str, ...]) -> None:
    assert LabelMap.from_values(values).labels == expected


@given(any_labels, st.randoms())
def test_the_order_does_not_depend_on_the_order_of_the_values(labels: list[str], random: "object") -> None:
    shuffled = list(labels)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(sorted_labels(labels)) == sorted(labels)
    if len({int(label) for label in labels if label.isdecimal()}) == sum(label.isdecimal() for label in labels):
        assert sorted_labels(shuffled) == sorted_labels(labels)


def test_white_space_is_what_strip_takes_off() -> None:
    assert set(WHITE_SPACE) == {char for char in map(chr, range(sys.maxunicode + 1)) if char.isspace()}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" pos\t", "pos"),
        ("\u00a0pos\u3000", "pos"),
        ("pos\u200b", "pos\u200b"),
        ("1.0", "1"),
        ("-2.00 ", "-2"),
        ("-0.0", "0"),
        ("1.50", "1.50"),
        ("01.0", "01.0"),
        ("1.0.0", "1.0.0"),
        ("True", "True"),
    ],
)
def test_a_label_counts_without_outer_white_space_and_whole_numbers_without_decimals(text: str, label: str) -> None:
    assert clean_label(text) == label


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.float32(1), "1"),
        (np.float32(0.1), "0.1"),
        (0.5, "0.5"),
        (np.int8(3), "3"),
        (Decimal("2.0"), "2"),
        (Decimal("2.5"), "2.5"),
        (True, "true"),
        (np.False_, "false"),
        (2**70, str(2**70)),
        (None, None),
        (float("nan"), None),
        (pd.NA, None),
        (pd.NaT, None),
        ("x ", "x "),
    ],
)
def test_values_become_the_text_of_their_label(value: Any, label: str | None) -> None:
    assert label_text(value) == label


def test_what_is_no_label_stays_as_it_is() -> None:
    for value in (["x"], b"x", float("inf"), {"a": 1}, np.array([1, 2])):
        assert label_text(value) is value


@pytest.mark.parametrize(
    "alike",
    [
        ("neg", "Neg", "NEG"),
        ("pos", "pos\u200b", "\ufeffpos", "p\u00ados"),
        ("\u00e9t\u00e9", "e\u0301te\u0301"),
        ("ABC", "\uff21\uff22\uff23"),
        ("New York", "New\u00a0York", "New  York"),
        ("1", "01", "1.00", "true", "True"),
        ("stra\u00dfe", "STRASSE"),
        ("B-PER", "b-per"),
    ],
)
def test_labels_that_look_alike_are_one_group(alike: tuple[str, ...]) -> None:
    assert similar_labels([*alike, "other", "others", "2", "", "-"]) == [alike]
    assert len(set(distinct_texts(alike))) == len(alike)


def test_labels_that_only_resemble_each_other_are_no_group() -> None:
    assert (
        similar_labels(["B-PER", "I-PER", "caf\u00e9", "cafe", "1", "-1", "11", "1.5", "v1", "C", "C++", "C#", "+", "-", ""])
        == []
    )


def test_labels_that_print_alike_are_shown_with_escapes() -> None:
    assert distinct_texts(["\u00e9", "e\u0301", "E"]) == ["'\\xe9'", "'e\\u0301'", "'E'"]


def test_a_text_of_characters_that_show_nothing_is_none() -> None:
    texts = pd.Series(
        ["\u200b", "\u200b \ufeff\u00a0", "\u00ad", "", " ", "a", "\u200ba", "\u4f60", "\U0001f469\u200d\U0001f4bb"]
    )
    for values in (texts, texts.astype(object)):
        assert has_text(values).tolist() == [False] * 5 + [True] * 4
    assert "a" not in BLANK
