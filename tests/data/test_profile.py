"""The profile of a data set: what it counts is what the rows hold, however they come."""

import json
import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hubflow.data import profile as profiles
from hubflow.data.profile import Histogram, Profiler, image_profile

TEXTS = [
    "a fine film",
    "",
    " ",
    "zwei  Wörter\tmehr\n",
    "電影很好 2024!",
    "x",
    "🎬 naïve — café ½",
    "한국어 テスト。",
    "\x00\x7f",
    "١٢٣ שלום",
]


def rows(texts: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"row": range(1, len(texts) + 1), "text": pd.Series(texts, dtype="str"), "label": "0"})


def profile_of(*chunks: pd.DataFrame, kind: Any = "text") -> dict[str, Any]:
    profiler = Profiler(kind)
    for chunk in chunks:
        profiler.add("train", chunk)
    found: dict[str, Any] = json.loads(json.dumps(profiler.profile()))["splits"]["train"]
    return found


def histogram_of(values: list[int]) -> dict[str, Any]:
    histogram = Histogram("lengths")
    histogram.add(np.array(values))
    return histogram.dump()


def test_lengths_and_kinds_of_characters_are_those_of_the_texts() -> None:
    found = profile_of(rows(TEXTS))
    assert found["rows"] == len(TEXTS)
    assert found["histograms"]["text, characters"] == histogram_of([len(text) for text in TEXTS])
    split_at_blanks = [len("".join(char if char > " " else " " for char in text).split()) for text in TEXTS]
    assert found["histograms"]["text, words"] == histogram_of(split_at_blanks)
    everything = "".join(TEXTS)
    assert sum(found["characters"].values()) == len(everything)
    assert found["characters"]["digits"] == sum(unicodedata.category(char)[0] == "N" for char in everything)
    assert found["characters"]["CJK"] == len("電影很好한국어テスト")
    assert found["characters"]["white space"] == sum(char in " \t\n" for char in everything)
    assert found["characters"]["other"] == len("🎬\x00\x7f")


@pytest.mark.parametrize("piece_bytes", [1, 7, 4 << 20])
def test_chunks_and_pieces_change_nothing(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profile_of(rows(TEXTS))
    monkeypatch.setattr(profiles, "PIECE_BYTES", piece_bytes)
    table = rows(TEXTS)
    assert profile_of(table) == whole
    assert profile_of(table.iloc[:3], table.iloc[3:4], table.iloc[4:], table.iloc[:0]) == whole
    assert profile_of(table.astype({"text": object})) == whole


def test_labels_and_tokens_of_sentences_are_counted() -> None:
    table = pd.DataFrame({"tokens": [["a", "b", "c"], ["d"]], "labels": [["O", "B-X", "O"], ["O"]]})
    found = profile_of(table, kind="tokens")
    assert found["labels"] == {"B-X": 1, "O": 3}
    assert found["histograms"]["tokens"] == histogram_of([3, 1])
    assert found["characters"]["letters"] == 4
    arrays = table.map(lambda items: np.array(items, dtype=object))  # as Parquet gives them
    assert profile_of(arrays, kind="tokens") == found


def test_both_texts_of_a_pair_are_profiled() -> None:
    table = rows(["a b", "c"]).assign(text_pair=["d", "e f g"])
    histograms = profile_of(table, kind="text_pair")["histograms"]
    assert histograms["text, words"] == histogram_of([2, 1])
    assert histograms["text_pair, words"] == histogram_of([1, 3])


def test_images_are_profiled_by_what_their_frame_has() -> None:
    frame = pd.DataFrame({"label": ["a", "b"], "width": [32, 640], "height": [32, 480], "mean_r": [0.0, 1.0]})
    found = image_profile({"train": frame})["splits"]["train"]
    assert found["labels"] == {"a": 1, "b": 1}
    assert set(found["histograms"]) == {"width", "height", "mean red"}
    assert found["histograms"]["width"] == histogram_of([32, 640])
    assert sum(found["histograms"]["mean red"]["counts"]) == 2
    assert found["characters"] == {}
    assert set(image_profile({"train": frame[["label"]]})["splits"]["train"]["histograms"]) == set()


def test_quantiles_are_within_a_bin_of_the_exact_ones() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 5000).astype(int)
    histogram = Histogram("lengths")
    histogram.add(values)
    for share in (0.05, 0.5, 0.95):
        exact = float(np.quantile(values, share))
        assert 0.75 * exact <= histogram.quantile(share) <= exact
    assert Histogram("lengths").quantile(0.5) == 0
    assert Histogram.load(histogram.dump()).dump() == histogram.dump()
