"""Split checks: what two splits share is found, exactly counted and named by row, however the rows arrive."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hubflow.data.duplicates import normalised_texts
from hubflow.data.readers.reading import read_rows
from hubflow.data.split_checks import SplitChecks
from hubflow.errors import StoreError
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.references import Finding, Observer, RowKind, Split
from hubflow.schemas.settings import DatasetSpec

ALL = {
    name: "warn"
    for name, field in DataChecks.model_fields.items()
    if field.annotation == DataChecks.model_fields["lost_words"].annotation
}


def text_rows(*texts: str, labels: str = "", start: int = 1, **more: Any) -> pd.DataFrame:
    """Rows of `texts`, whose labels are the letters of `labels`, a where there are none."""
    rows = pd.DataFrame({"row": np.arange(start, start + len(texts)), "text": texts, "label": list(labels or "a" * len(texts))})
    return rows.astype({"text": "str", "label": "str"}).assign(**more)


def found(
    frames: dict[Split, pd.DataFrame], kind: RowKind = "text", group_column: str | None = None, **policies: Any
) -> dict[tuple[str, tuple[str, ...]], Finding]:
    checks = SplitChecks(DataChecks(**policies), kind, group_column)
    for split, rows in frames.items():
        checks.add(split, rows)
    return {(finding.check, finding.splits): finding for finding in checks.findings()}


def test_it_is_an_observer_and_says_nothing_of_sound_splits() -> None:
    observer: Observer = SplitChecks(DataChecks(), "text")
    assert observer.findings() == []
    sound: dict[Split, pd.DataFrame] = {
        "train": text_rows("one", "two", labels="ab"),
        "dev": text_rows("three", "four", labels="ab"),
    }
    assert found(sound) == {}


def test_the_same_text_in_two_splits_is_counted_and_named_by_row() -> None:
    frames: dict[Split, pd.DataFrame] = {
        "train": text_rows("a film", "x", "y", labels="aba"),
        "dev": text_rows("z", "a film", "a film", labels="aab", start=11),
        "test": text_rows("y", "q", labels="ba", start=21),
    }
    findings = found(frames)
    leak = findings["same_text_across_splits", ("train", "dev")]
    assert (leak.count, leak.policy) == (2, "warn")
    assert leak.examples == ("train row 1 ('a') = dev row 12 ('a')", "train row 1 ('a') = dev row 13 ('b')")
    assert findings["same_text_across_splits", ("train", "test")].examples == ("train row 3 ('a') = test row 21 ('b')",)
    assert ("same_text_across_splits", ("dev", "test")) not in findings
    assert not [key for key in findings if key[0] == "same_normalised_text_across_splits"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Fine Film", "a fine film"),
        ("a  fine\t\nfilm ", "a fine film"),
        ("a fine film!!!", "a fine film ."),
        ("“a fine film”", "(a fine film)"),
        ("ａ ｆｉｎｅ ﬁlm", "a fine film"),
        ("a\u3000fine\u2028film\x85", "a fine film"),
        ("这部电影很好。", "这部电影很好！"),
        ("ÉTÉ", "e\u0301te\u0301"),
    ],
)
def test_texts_that_differ_only_in_form_are_the_same(one: str, other: str) -> None:
    findings = found({"train": text_rows("x", one), "dev": text_rows(other)})
    assert set(findings) == {("same_normalised_text_across_splits", ("train", "dev"))}
    (finding,) = findings.values()
    assert finding.examples == ("train row 2 ('a') ≈ dev row 1 ('a')",)


@pytest.mark.parametrize(
    ("one", "other"), [("a fine film", "a fine films"), ("!!!", "???"), ("ab", "a b"), ("a.b", "ab"), ("3.5", "35")]
)
def test_texts_that_differ_in_more_are_not(one: str, other: str) -> None:
    assert found({"train": text_rows(one), "dev": text_rows(other)}) == {}


def test_normalising_is_the_same_alone_and_beside_others() -> None:
    odd = [
        "a  b",
        " x ",
        "plain",
        "",
        "e\u0301",
        "a\u2028b",
        "\x01c",
        "tail ",
        " head",
        "x\u00a0\u00a0y",
        "z" * 40,
        "ünï  cödé?",
    ]
    rows = text_rows(*odd)
    together = normalised_texts(rows, "text").to_pylist()
    assert together == [normalised_texts(text_rows(text), "text")[0].as_py() for text in odd]
    assert normalised_texts(rows.iloc[5:], "text").to_pylist() == together[5:]
    assert normalised_texts(rows.iloc[:0], "text").to_pylist() == []


def test_duplicates_and_conflicting_labels_within_a_split() -> None:
    findings = found({"train": text_rows("x", "y", "x", "x", "y", "Y", labels="abaabb")})
    again = findings["duplicates_within_split", ("train",)]
    assert (again.count, again.examples[0]) == (3, "train row 1 ('a') = train row 3 ('a')")
    assert ("conflicting_labels", ("train",)) not in findings
    findings = found({"train": text_rows("x", "y", "x", "x", labels="abbb")})
    conflict = findings["conflicting_labels", ("train",)]
    assert (conflict.count, conflict.examples) == (1, ("train row 1 ('a') = train row 3 ('b')",))


def test_one_text_with_two_labels_across_splits() -> None:
    findings = found({"train": text_rows("x", "y", labels="ab"), "test": text_rows("x", "y", labels="bb")})
    conflict = findings["conflicting_labels", ("train", "test")]
    assert (conflict.count, conflict.examples) == (1, ("train row 1 ('a') = test row 1 ('b')",))


def test_a_pair_is_the_same_only_with_both_texts() -> None:
    train = text_rows("a", "b").assign(text_pair=pd.Series(["c", "d"], dtype="str"))
    assert found({"train": train, "dev": text_rows("a").assign(text_pair="d")}, "text_pair") == {}
    findings = found({"train": train, "dev": text_rows("b", "A").assign(text_pair=["d", "C"])}, "text_pair")
    assert {key[0]: finding.count for key, finding in findings.items()} == {
        "same_text_across_splits": 1,
        "same_normalised_text_across_splits": 1,
    }


def test_sentences_are_compared_word_by_word_with_their_labels() -> None:
    def rows(*sentences: tuple[str, str]) -> pd.DataFrame:
        words, tags = zip(*((text.split(), labels.split()) for text, labels in sentences), strict=True)
        return pd.DataFrame({"row": range(1, len(sentences) + 1), "tokens": words, "labels": tags})

    train = rows(("He lives in Rome", "O O O B-LOC"), ("Ann left", "B-PER O"), ("a b", "O O"))
    dev = rows(("he lives in rome .", "O O O B-LOC O"), ("Ann left", "O O"), ("ab", "O"))
    findings = found({"train": train, "dev": dev}, "tokens")
    assert {key: finding.count for key, finding in findings.items()} == {
        ("same_text_across_splits", ("train", "dev")): 1,
        ("same_normalised_text_across_splits", ("train", "dev")): 1,
        ("conflicting_labels", ("train", "dev")): 1,
        ("labels_missing_from_dev", ("train", "dev")): 1,
    }
    assert findings["labels_missing_from_dev", ("train", "dev")].examples == ("'B-PER': 1 in train",)
    assert findings["conflicting_labels", ("train", "dev")].examples == ("train row 2 = dev row 2",)


def test_images_are_the_same_by_their_content() -> None:
    def rows(*digits: str) -> pd.DataFrame:
        return pd.DataFrame(
            {"row": range(1, len(digits) + 1), "path": "x.png", "label": "a", "sha256": [d * 64 for d in digits]}
        )

    findings = found({"train": rows("0", "1", "0"), "dev": rows("2", "1")}, "image")
    assert [(key[0], finding.count) for key, finding in findings.items()] == [
        ("same_text_across_splits", 1),
        ("duplicates_within_split", 1),
    ]
    assert "the same image file" in findings["same_text_across_splits", ("train", "dev")].message


@pytest.mark.parametrize(
    ("ours", "theirs"), [(["u1", "u2", None], ["u2", "u3", None]), ([1, 2, 7], [2.0, None, 9.0]), (["1", "2", "7"], [2, 3, 4])]
)
def test_a_group_in_two_splits_fails_by_default(ours: list[Any], theirs: list[Any]) -> None:
    frames: dict[Split, pd.DataFrame] = {
        "train": text_rows("a", "b", "c", user=pd.Series(ours)),
        "dev": text_rows("d", "e", "f", user=pd.Series(theirs)),
    }
    (finding,) = found(frames, group_column="user").values()
    assert (finding.check, finding.policy, finding.count) == ("same_group_across_splits", "fail", 1)
    assert finding.examples == ("train row 2 = dev row 1",)
    assert "1 value(s) of 'user' are in both train and dev" in finding.message
    assert found(frames, group_column="user", same_group_across_splits="ignore") == {}
    assert found(frames) == {}


def test_labels_that_a_split_lacks_and_classes_out_of_balance() -> None:
    train = text_rows(*map(str, range(100)), labels="a" * 95 + "b" * 4 + "c")
    findings = found({"train": train, "dev": text_rows("x", "y", labels="az"), "test": text_rows("z", labels="y")})
    assert {key: finding.count for key, finding in findings.items()} == {
        ("labels_missing_from_train", ("train", "dev")): 1,
        ("labels_missing_from_train", ("train", "test")): 1,
        ("labels_missing_from_dev", ("train", "dev")): 2,
        ("class_imbalance", ("train",)): 2,
    }
    assert findings["labels_missing_from_train", ("train", "dev")].examples == ("'z': 1 in dev",)
    assert findings["class_imbalance", ("train",)].examples == ("'c': 1 in train", "'b': 4 in train")
    assert "less than 1/20 of the rows of 'a' (95)" in findings["class_imbalance", ("train",)].message
    relaxed = found({"train": train}, max_imbalance_ratio=95)
    assert relaxed == {}


def test_an_ignored_check_says_nothing_and_a_failing_one_says_so() -> None:
    frames: dict[Split, pd.DataFrame] = {"train": text_rows("x", "x", labels="ab"), "dev": text_rows("x", "X", labels="ab")}
    everything = found(frames)
    for check in {key[0] for key in everything}:
        assert {key for key in everything if key[0] != check} == set(found(frames, **{check: "ignore"}))
        assert {finding.policy for key, finding in found(frames, **{check: "fail"}).items() if key[0] == check} == {"fail"}
    ignored = SplitChecks(DataChecks(**{name: "ignore" for name in ALL}), "text")
    ignored.add("train", frames["train"].drop(columns="text"))  # not even looked at
    assert ignored.findings() == []


def chunks(frames: dict[Split, pd.DataFrame], size: int) -> Iterator[tuple[Split, pd.DataFrame]]:
    """Chunks of all splits, taking turns."""
    for start in range(0, max(map(len, frames.values())), size):
        yield from ((split, rows.iloc[start : start + size]) for split, rows in frames.items())


@pytest.mark.parametrize("in_memory", [1_000_000, 50])
def test_any_chunks_in_memory_or_on_disk_give_what_a_plain_comparison_gives(in_memory: int, tmp_path: Path) -> None:
    random = np.random.default_rng(3)

    def rows(count: int) -> pd.DataFrame:
        texts = [f"{'Text' if n % 3 else 'text'} {n // 3}" for n in random.integers(0, 900, count)]
        return text_rows(*texts, labels="".join(random.choice(["a", "b"], count)))

    frames: dict[Split, pd.DataFrame] = {"train": rows(700), "dev": rows(150), "test": rows(200)}
    checks = SplitChecks(DataChecks(), "text", None, tmp_path, in_memory)
    for split, part in chunks(frames, 37):
        checks.add(split, part)
    counts = {(one.check, one.splits): one.count for one in checks.findings()}
    assert counts == plain_counts(frames)
    assert checks.findings() == checks.findings()
    whole = SplitChecks(DataChecks(), "text")
    for split, frame in frames.items():
        whole.add(split, frame)
    assert whole.findings() == checks.findings()
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    checks = SplitChecks(DataChecks(), "text", None, tmp_path / "none", in_memory=1)
    with pytest.raises(StoreError, match=f"{tmp_path / 'none'}: hashes of rows cannot be kept there"):
        checks.add("train", text_rows("a", "b"))


def plain_counts(frames: dict[Split, pd.DataFrame]) -> dict[tuple[str, tuple[str, ...]], int]:
    counts: dict[tuple[str, tuple[str, ...]], int] = {}
    names = list(frames)
    for place, split in enumerate(names):
        rows = frames[split]
        counts["duplicates_within_split", (split,)] = int(rows["text"].duplicated().sum())
        counts["conflicting_labels", (split,)] = int((rows.groupby("text")["label"].nunique() > 1).sum())
        for earlier in names[:place]:
            theirs = frames[earlier]
            same = rows["text"].isin(theirs["text"])
            alike = rows["text"].str.lower().isin(theirs["text"].str.lower()) & ~same
            first = [frame.groupby("text")["label"].first() for frame in (rows, theirs)]
            both = first[0].index.intersection(first[1].index)
            counts["same_text_across_splits", (earlier, split)] = int(same.sum())
            counts["same_normalised_text_across_splits", (earlier, split)] = int(alike.sum())
            counts["conflicting_labels", (earlier, split)] = int((first[0][both] != first[1][both]).sum())
    return {key: count for key, count in counts.items() if count}


def test_what_sst2_shares_between_splits_is_found(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("sst2")
    checks = SplitChecks(DataChecks(), "text")
    for split in ("train", "dev", "test"):
        spec = DatasetSpec(format="tsv", train=str(folder / f"{split}.tsv"), header=False, text_column=0, label_column=1)
        checks.add(split, read_rows(spec, folder / f"{split}.tsv", split, "text_classification"))
    assert {(one.check, one.splits): one.count for one in checks.findings()} == {
        ("same_text_across_splits", ("train", "test")): 2,
        ("same_normalised_text_across_splits", ("train", "dev")): 1,
        ("duplicates_within_split", ("train",)): 9,
    }
