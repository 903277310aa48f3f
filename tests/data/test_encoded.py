"""Encoded rows: each row once an epoch, padded with what does not count, words and pieces kept apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_modules import ENTITY_LABELS, MAX_SEQ_LEN, VOCAB, image_split, some_images, some_texts, text_split, token_split

from hubflow.data.encoded import ROWS_PER_CHUNK, epoch_batches, sorted_batches
from hubflow.modules.inputs import normalised, pad_text
from hubflow.schemas.labels import IGNORED_LABEL

lengths_of_rows = st.lists(st.integers(1, 50), min_size=1, max_size=300).map(np.array)


@hypothesis_settings(deadline=None)
@given(lengths_of_rows, st.integers(1, 40), st.integers(0, 99), st.integers(0, 5), st.integers(1, 4))
def test_an_epoch_has_each_row_once_the_last_smaller_batch_included(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int, window: int
) -> None:
    """Defect 12: rows of the last, smaller batch were dropped."""
    batches = epoch_batches(lengths, batch_size, seed, epoch, window=window)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-len(lengths) // batch_size)
    again = epoch_batches(lengths, batch_size, seed, epoch, window=window)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]


@hypothesis_settings(deadline=None)
@given(lengths_of_rows, st.integers(1, 40), st.integers(1, 4))
def test_an_epoch_cut_by_tokens_has_each_row_once_in_as_many_batches(lengths: np.ndarray, batch_size: int, window: int) -> None:
    """Defect 12: rows of the last, smaller batch were dropped."""
    batches = epoch_batches(lengths, batch_size, 0, 0, by_tokens=True, window=window)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert all(len(batch) > 0 for batch in batches)


def test_rows_of_one_length_are_shuffled_by_seed_and_epoch() -> None:
    """Defect 5: image training never shuffled."""
    ones = np.ones(200, np.int64)
    orders = [np.concatenate(epoch_batches(ones, 16, seed, epoch)).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    orders.append(list(range(200)))
    assert all(left != right for place, left in enumerate(orders) for right in orders[place + 1 :])
    assert abs(np.corrcoef(orders[0], range(200))[0, 1]) < 0.3


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    padded = sum(lengths[batch].max() * len(batch) for batch in epoch_batches(lengths, 20, 0, 0))
    assert padded < 1.1 * lengths.sum()


@given(lengths_of_rows, st.integers(1, 40))
def test_evaluation_has_each_row_once(lengths: np.ndarray, batch_size: int) -> None:
    """Defect 12: rows of the last, smaller batch were dropped."""
    rows = np.concatenate(list(sorted_batches(lengths, batch_size)))
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[rows]) <= 0).all()


def test_padding_is_masked_and_positions_count_from_zero() -> None:
    feed = pad_text([np.array([5, 6, 7]), np.array([8])], [np.array([0, 1, 1]), np.array([1])], 9)
    assert feed["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert feed["segment_ids"].tolist() == [[0, 1, 1], [1, 0, 0]]
    assert feed["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert feed["input_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {name: value.dtype.name for name, value in feed.items()} == {
        "input_ids": "int64",
        "segment_ids": "int64",
        "position_ids": "int64",
        "input_mask": "float32",
    }


def test_rows_are_found_beyond_the_first_chunk(tiny_bert: Path, tmp_path: Path) -> None:
    rows = ROWS_PER_CHUNK + 7
    texts = [VOCAB[5 + row % 26] for row in range(rows)]
    split = text_split(tmp_path, tiny_bert, texts, ["positive" if row % 3 else "negative" for row in range(rows)])
    assert len(split) == len(split.lengths) == rows
    for row in (0, ROWS_PER_CHUNK - 1, ROWS_PER_CHUNK, rows - 1):
        feed = split.feed(np.array([row]))
        assert feed["input_ids"].tolist() == [[2, 5 + row % 26, 3]]
        assert feed["label"].tolist() == [int(row % 3 > 0)]
        assert split.rows[row] == row + 1


def test_a_word_of_several_pieces_has_its_label_on_the_first(tiny_bert: Path, tmp_path: Path) -> None:
    """Defect 11: a word that came in pieces shifted the labels after it."""
    split = token_split(tmp_path, tiny_bert, [["Ada", "xyz", "Paris"], ["Bonn"]], [["B-PER", "I-PER", "B-LOC"], ["B-LOC"]])
    feed = split.feed(np.array([0, 1]))
    pieces = [[VOCAB[piece] for piece in row] for row in feed["input_ids"]]
    assert pieces[0] == ["[CLS]", "ada", "x", "##y", "##z", "paris", "[SEP]"]
    labels = ENTITY_LABELS.index()
    none = IGNORED_LABEL
    assert feed["label"].tolist() == [
        [none, labels["B-PER"], labels["I-PER"], none, none, labels["B-LOC"], none],
        [none, labels["B-LOC"], none, none, none, none, none],
    ]
    assert feed["seq_len"].tolist() == [7, 3]


def test_words_that_are_cut_off_carry_no_label(tiny_bert: Path, tmp_path: Path) -> None:
    """Defect 11: labels outlived the words that truncation took away."""
    split = token_split(tmp_path, tiny_bert, [["Ada", "abcd", "Paris"]], [["B-PER", "O", "B-LOC"]], max_seq_len=5)
    feed = split.feed(np.array([0]))
    assert feed["label"].tolist() == [[IGNORED_LABEL, 3, 0, IGNORED_LABEL, IGNORED_LABEL]]
    assert split.first_piece is not None
    assert split.first_piece[0].tolist() == [1, 2, -1]


def test_no_row_is_longer_than_max_seq_len(tiny_bert: Path, tmp_path: Path) -> None:
    split = text_split(tmp_path, tiny_bert, ["abcdefghijklmnopqrstuvwxyz", ""], ["positive", "negative"])
    assert split.lengths.tolist() == [MAX_SEQ_LEN, 2]


def test_a_batch_pads_to_its_own_longest_row(tiny_bert: Path, tmp_path: Path) -> None:
    split = text_split(tmp_path, tiny_bert, *some_texts(30))
    for batch in sorted_batches(split.lengths, 4):
        assert split.feed(batch)["input_ids"].shape == (len(batch), split.lengths[batch].max())


def test_images_are_normalised_by_channel() -> None:
    pixels = np.array([0, 255, 51], np.uint8).reshape(1, 3, 1, 1)
    found = normalised(pixels, np.array([0.5, 0.5, 0.2], np.float32), np.array([0.5, 0.25, 0.1], np.float32))
    np.testing.assert_allclose(found.ravel(), [-1, 2, 0], atol=1e-6)
    assert pixels.ravel().tolist() == [0, 255, 51]


def test_images_come_with_their_labels_in_the_order_asked_for(tmp_path: Path) -> None:
    pixels, labels = some_images(9)
    split = image_split(tmp_path, 9)
    order = np.array([8, 0, 3])
    feed = split.feed(order)
    np.testing.assert_allclose(feed["image"], pixels[order] / 127.5 - 1, atol=1e-5)
    assert feed["label"].tolist() == labels[order].tolist()


def test_flips_are_drawn_by_the_generator_and_only_in_training(tmp_path: Path) -> None:
    split = image_split(tmp_path, 40, random_flip=True)
    rows = np.arange(40)
    plain = split.feed(rows)["image"]
    first, same = (split.feed(rows, np.random.default_rng(3))["image"] for _ in range(2))
    np.testing.assert_array_equal(first, same)
    mirrored = (first != plain).any(axis=(1, 2, 3))
    assert 8 < mirrored.sum() < 32
    np.testing.assert_array_equal(first[mirrored], plain[mirrored][..., ::-1])
    np.testing.assert_array_equal(split.feed(rows)["image"], plain)


@pytest.mark.parametrize("label", ["B-MISC", ""])
def test_a_label_outside_the_map_does_not_pass_the_encoder(label: str, tiny_bert: Path, tmp_path: Path) -> None:
    """Defect 11: load_dataset names the row; whatever comes past it still goes no further."""
    with pytest.raises(Exception, match=label or "''"):
        token_split(tmp_path, tiny_bert, [["Ada"]], [[label]])
