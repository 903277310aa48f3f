"""The label map: one order, one hash, and no way around either."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hubflow.schemas.errors import LabelMapError
from hubflow.schemas.labels import LabelMap, sorted_labels

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
