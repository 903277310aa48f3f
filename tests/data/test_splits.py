"""Splits and samples: complete, stratified, repeatable."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubflow.data.splits import BLOCK_ROWS, sample_mask, split_masks
from hubflow.schemas.references import Split


def classes_of(rows: pd.DataFrame, stratify: str | None) -> np.ndarray:
    if stratify is None:
        return np.zeros(len(rows), dtype=np.uint32)
    return pd.factorize(rows[stratify], sort=True)[0].astype(np.uint32)


def split_rows(
    rows: pd.DataFrame, shares: dict[Split, float], seed: int, stratify: str | None = None
) -> dict[Split, pd.DataFrame]:
    masks = split_masks(classes_of(rows, stratify), shares, seed)
    return {name: rows[mask].reset_index(drop=True) for name, mask in masks.items()}


def sample_rows(rows: pd.DataFrame, max_rows: int | None, seed: int, stratify: str | None = None) -> pd.DataFrame:
    everything = np.ones(len(rows), dtype=bool)
    return rows[sample_mask(classes_of(rows, stratify), everything, max_rows, seed)].reset_index(drop=True)


def rows_of(labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"row": np.arange(1, len(labels) + 1), "label": pd.Series(labels, dtype="str")})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=80),
    st.floats(0.01, 0.5),
    st.floats(0.01, 0.4),
    st.integers(0, 5),
    st.booleans(),
)
def test_no_row_is_lost_or_doubled_and_every_class_stays_in_train(
    labels: list[str], dev: float, test: float, seed: int, stratified: bool
) -> None:
    rows = rows_of(labels)
    parts = split_rows(rows, {"dev": dev, "test": test}, seed, "label" if stratified else None)
    together = pd.concat(parts.values())["row"].tolist()
    assert sorted(together) == rows["row"].tolist()
    assert all(part["row"].is_monotonic_increasing for part in parts.values())
    if stratified:
        assert set(parts["train"]["label"]) == set(labels)


def test_shares_are_exact_and_spread_over_the_labels() -> None:
    rows = rows_of(["a"] * 700 + ["b"] * 200 + ["c"] * 100)
    parts = split_rows(rows, {"dev": 0.1, "test": 0.2}, seed=3, stratify="label")
    assert {name: len(part) for name, part in parts.items()} == {"train": 700, "dev": 100, "test": 200}
    assert parts["dev"]["label"].value_counts().to_dict() == {"a": 70, "b": 20, "c": 10}
    assert parts["test"]["label"].value_counts().to_dict() == {"a": 140, "b": 40, "c": 20}


def test_a_label_with_one_row_stays_in_train() -> None:
    parts = split_rows(rows_of(["a"] * 9 + ["rare"]), {"dev": 0.5}, seed=0, stratify="label")
    assert "rare" in set(parts["train"]["label"])
    assert len(parts["dev"]) == 5


def test_the_seed_decides_and_a_test_split_leaves_dev_as_it_was() -> None:
    rows = rows_of(["a", "b"] * 50)
    first = split_rows(rows, {"dev": 0.2}, seed=1, stratify="label")["dev"]
    assert first.equals(split_rows(rows, {"dev": 0.2, "test": 0.2}, seed=1, stratify="label")["dev"])
    assert not first.equals(split_rows(rows, {"dev": 0.2}, seed=2, stratify="label")["dev"])


def test_a_sample_keeps_order_proportions_and_every_label() -> None:
    rows = rows_of(["a"] * 900 + ["b"] * 98 + ["c"] * 2)
    sample = sample_rows(rows, 100, seed=0, stratify="label")
    assert len(sample) == 100
    assert sample["row"].is_monotonic_increasing
    counts = sample["label"].value_counts()
    assert counts["a"] == pytest.approx(90, abs=2)
    assert counts["c"] >= 1
    assert sample.equals(sample_rows(rows, 100, seed=0, stratify="label"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60), st.integers(1, 70), st.booleans())
def test_a_sample_has_exactly_the_rows_asked_for(labels: list[str], max_rows: int, stratified: bool) -> None:
    sample = sample_rows(rows_of(labels), max_rows, seed=0, stratify="label" if stratified else None)
    assert len(sample) == min(max_rows, len(labels))
    assert sample["row"].is_unique


def test_rows_within_the_limit_are_not_touched() -> None:
    rows = rows_of(["a", "b"])
    assert sample_rows(rows, None, seed=0).equals(rows)
    assert sample_rows(rows, 2, seed=0).equals(rows)


def test_a_sample_is_drawn_among_the_rows_it_may_take_and_keeps_their_labels() -> None:
    classes, among = np.array([0] * 50 + [1] * 49 + [2], dtype=np.uint8), np.ones(100, dtype=bool)
    among[[0, 99]] = False
    sample = sample_mask(classes, among, 10, seed=0)
    assert sample.sum() == 10
    assert not sample[[0, 99]].any()
    assert set(classes[sample]) == {0, 1}


def test_every_row_is_as_likely_to_be_drawn_wherever_it_stands() -> None:
    """Of rows in three blocks, a tenth is drawn: of each third of them about a tenth."""
    classes = (np.arange(BLOCK_ROWS * 5 // 2) % 3).astype(np.uint8)
    dev = split_masks(classes, {"dev": 0.1}, seed=0)["dev"]
    assert dev.sum() == round(len(classes) * 0.1)
    shares = [part.mean() for part in np.array_split(dev, 3)]
    assert shares == pytest.approx([0.1] * 3, abs=0.003)  # 4 standard deviations
