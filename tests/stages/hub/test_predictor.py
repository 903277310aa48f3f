"""Predictor: answers in order, one for each row, and names the row that it cannot answer."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_exports import Exported
from small_modules import ENTITY_LABELS, some_texts

from hubflow.schemas.folders import seal
from hubflow.stages.hub.images import ImageError
from hubflow.stages.hub.predictor import PredictError, Prediction, Predictor


@pytest.fixture(scope="module")
def texts(tiny_exports: dict[str, Exported]) -> Predictor:
    return Predictor.load(tiny_exports["text"].folder)


@pytest.fixture(scope="module")
def words(tiny_exports: dict[str, Exported]) -> Predictor:
    return Predictor.load(str(tiny_exports["token"].folder))


@pytest.fixture(scope="module")
def images(tiny_exports: dict[str, Exported]) -> Predictor:
    return Predictor.load(tiny_exports["image"].folder)


def close(left: list[Prediction], right: list[Prediction]) -> bool:
    return len(left) == len(right) and all(
        one.label == other.label and np.allclose(one.probabilities, other.probabilities, atol=1e-5, equal_nan=True)
        for one, other in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("batch_size", [2, 5, 13, 100])
def test_predictions_keep_the_order_of_their_rows_for_any_batch_size(batch_size: int, texts: Predictor) -> None:
    rows = some_texts(13, seed=3)[0]
    alone = [texts.predict([row])[0] for row in rows]
    assert len({one.probability for one in alone}) > 5
    assert close(texts.predict(rows, batch_size), alone)
    assert close(texts.predict(rows[::-1], batch_size), alone[::-1])


def test_a_prediction_is_the_most_probable_label(texts: Predictor) -> None:
    for one in texts.predict(some_texts(8)[0]):
        assert one.label == texts.label_map.labels[int(one.probabilities.argmax())]
        assert one.probability == pytest.approx(float(one.probabilities.max()))
        assert one.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_no_rows_give_no_predictions(texts: Predictor, words: Predictor, images: Predictor) -> None:
    assert texts.predict([]) == words.predict([]) == images.predict([]) == []


def test_every_word_gets_a_label_those_that_were_cut_off_too(words: Predictor) -> None:
    rows: list[list[str]] = [["Ada"], ["film"] * 40, []]
    short, long, empty = words.predict(rows)
    assert len(short.label) == len(short.probability) == 1
    assert len(long.label) == len(long.probabilities) == 40
    assert set(long.label[14:]) == {"O"}
    assert np.isnan(long.probabilities[14:]).all()
    assert np.isfinite(long.probabilities[:14]).all()
    assert empty.label == ()
    assert empty.probabilities.shape == (0, ENTITY_LABELS.num_classes)


@pytest.fixture(scope="module")
def pairs(tiny_exports: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The text export, as if its model had been trained on pairs."""
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path_factory.mktemp("pairs") / "export")
    signature = json.loads((folder / "signature.json").read_text())
    (folder / "signature.json").write_text(json.dumps({**signature, "rows_kind": "text_pair"}))
    seal(folder, "exports", {})
    return Predictor.load(folder)


def test_text_pairs_are_read_as_pairs(texts: Predictor, pairs: Predictor) -> None:
    first, second = pairs.predict([("good film", "bad film"), ("bad film", "good film")])
    (single,) = texts.predict(["good film"])
    assert not np.allclose(first.probabilities, second.probabilities, atol=1e-5)
    assert not np.allclose(first.probabilities, single.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "row"), [(["a", ("b", "c")], 1), ([("a", "b")], 0), (["a", "b", 7], 2), ([None], 0), ([["a", "b"]], 0)]
)
def test_a_row_that_is_no_text_is_named(rows: list[Any], row: int, texts: Predictor) -> None:
    with pytest.raises(PredictError, match=f"input {row}: expected a text, as the model was trained on"):
        texts.predict(rows)


@pytest.mark.parametrize(("rows", "row"), [([("a", "b"), "cd"], 1), (["a"], 0), ([("a", 1)], 0), ([("a", "b", "c")], 0)])
def test_a_row_that_is_no_pair_of_texts_is_named(rows: list[Any], row: int, pairs: Predictor) -> None:
    with pytest.raises(PredictError, match=f"input {row}: expected a pair of texts, as the model was trained on"):
        pairs.predict(rows)


@pytest.mark.parametrize(("rows", "row"), [([["a"], "words"], 1), ([["a", 1]], 0), ([None], 0), ([["a"], 7], 1)])
def test_a_row_that_is_no_list_of_words_is_named(rows: list[Any], row: int, words: Predictor) -> None:
    with pytest.raises(PredictError, match=f"input {row}: expected a list of words"):
        words.predict(rows)


def test_images_may_be_paths_bytes_or_opened(images: Predictor, tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    opened = tiny_exports["image"].inputs[:3]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for image, path in zip(opened, paths, strict=True):
        image.save(path)
    expected = images.predict(opened)
    assert close(images.predict(paths), expected)
    assert close(images.predict([str(path) for path in paths], batch_size=2), expected)
    assert close(images.predict([path.read_bytes() for path in paths]), expected)


def test_an_image_that_does_not_decode_is_named(images: Predictor, tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        images.predict([tmp_path / "broken.png"])
    with pytest.raises(PredictError, match="input 1: expected an image"):
        images.predict([tiny_exports["image"].inputs[0], 7])
