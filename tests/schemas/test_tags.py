"""Tags: which labels are a letter and a type, and which a type of their own."""

import pytest

from hubflow.errors import TagError
from hubflow.schemas.labels import LabelMap, Tagging, has_entities, require_names, tagging_of


@pytest.mark.parametrize(
    ("labels", "tags"),
    [
        (["O", "B-PER", "I-a-b"], {"B-PER": ("B", "PER"), "I-a-b": ("I", "a-b"), "O": ("O", "")}),
        (["O", "PER-B", "PER_I"], {"PER-B": ("B", "PER"), "PER_I": ("I", "PER")}),
        (["B-E-MAIL", "I-E-MAIL"], {"B-E-MAIL": ("B", "E-MAIL")}),
        (["O", "E-MAIL", "PHONE"], {"E-MAIL": ("", "E-MAIL"), "PHONE": ("", "PHONE")}),
        (["O", "HEPATITIS-A", "HEPATITIS-B"], {"HEPATITIS-B": ("", "HEPATITIS-B")}),
        (["O", "B-PER", "I-PER", "HEPATITIS-B"], {"HEPATITIS-B": ("", "HEPATITIS-B"), "I-PER": ("I", "PER")}),
        (["O", "PER-B", "PER-I", "S-BAHN"], {"S-BAHN": ("", "S-BAHN"), "PER-B": ("B", "PER")}),
        (["O", "B-PER", "L-PER", "U-LOC"], {"L-PER": ("E", "PER"), "U-LOC": ("S", "LOC")}),
        (["O", "S-PER", "S-LOC"], {"S-PER": ("S", "PER")}),
        (["B", "M", "E", "S"], {"M": ("I", "_"), "S": ("S", "_")}),
        (["N", "V", "S", "I", "O"], {"S": ("", "S"), "I": ("", "I")}),
        (["o", "0", "OC", "O-PER"], {"o": ("", "o"), "0": ("", "0"), "OC": ("", "OC"), "O-PER": ("", "O-PER")}),
        (["B:PER", "I:PER", "O"], {"I:PER": ("I", "PER")}),
    ],
)
def test_labels_tell_how_they_are_read(labels: list[str], tags: dict[str, tuple[str, str]]) -> None:
    tagging = tagging_of(labels)
    assert {label: tuple(tagging.parse(label)) for label in tags} == tags


@pytest.mark.parametrize(
    "labels",
    [
        ["O", "B-PER", "I-PER", "E-MAIL"],
        ["O", "B-PER", "ORG-B"],
        ["O", "B-PER", "I-PER", "ORG-B", "ORG-I"],
        ["O", "B-PER", "I-PER", "PER"],
        ["O", "U-BOAT"],
        ["O", "HEPATITIS-B"],
        ["o", "b-per", "i-per"],
        ["O", "b-per", "i-per"],
    ],
)
def test_labels_that_can_be_read_in_two_ways_are_refused_until_the_scheme_is_set(labels: list[str]) -> None:
    with pytest.raises(TagError, match=r"data\.tag_scheme"):
        tagging_of(labels)
    assert [tagging_of(labels, "plain").parse(label).prefix for label in labels if label != "O"] == [""] * (
        len(labels) - ("O" in labels)
    )


def test_a_scheme_that_is_set_decides_which_letters_count() -> None:
    labels = ["O", "B-PER", "I-PER", "E-MAIL", "S-LOC"]
    by = {scheme: tagging_of(labels, scheme) for scheme in ("IOB2", "BIOES")}  # type: ignore[arg-type]
    assert [by["IOB2"].parse(label).type for label in labels] == ["", "PER", "PER", "E-MAIL", "S-LOC"]
    assert [by["BIOES"].parse(label).type for label in labels] == ["", "PER", "PER", "MAIL", "LOC"]
    assert tagging_of(["O", "HEPATITIS-B"], "IOB2") == Tagging("suffix", "BI")
    assert tagging_of(["O", "PER"], "IOB2").parse("PER") == ("", "PER")


def test_numbers_are_no_names() -> None:
    for labels in (["0", "1"], ["-1", "12"]):
        with pytest.raises(TagError, match="label_list"):
            require_names(labels)
    require_names(["0", "PER"])


def test_which_labels_are_of_entities() -> None:
    assert has_entities(["O", "PER"])
    assert has_entities(["PER-B", "PER-I"])
    assert has_entities(["B-NP", "I-NP"])
    assert not has_entities(["DET", "NOUN", "VERB"])


def test_a_label_map_keeps_the_scheme_that_is_set(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "map.json"
    by_itself, told = LabelMap(labels=("O", "U-BOAT")), LabelMap(labels=("O", "U-BOAT"), tag_scheme="plain")
    for label_map in (by_itself, told):
        label_map.save(path)
        assert LabelMap.load(path) == label_map
    assert by_itself.sha256 != told.sha256
    assert told.tagging.parse("U-BOAT") == ("", "U-BOAT")
