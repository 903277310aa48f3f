"""Predictor: answers in order, one for each row, and names the row that it cannot answer."""

import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi.encoders import jsonable_encoder
from PIL import Image
from small_exports import Exported
from small_modules import ENTITY_LABELS, some_texts

from hubflow.errors import ImageError, StoreError, TokenizerError
from hubflow.inference.predictor import PredictError, Prediction, Predictor
from hubflow.store.manifest import seal


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


def test_windows_give_every_word_of_a_long_sentence_a_probability(words: Predictor) -> None:
    long = ["Ada", "visits", "Paris", "of", "Acme", "film"] * 9
    rows: list[list[str]] = [["Ada"], long, [], ["\u0001"]]
    cut = words.predict(rows)
    for stride in (0, 4, 13):
        found = words.predict(rows, stride=stride)
        assert close(found[:1] + found[2:3], cut[:1] + cut[2:3])
        assert np.isfinite(found[1].probabilities).all()
        assert len(found[1].label) == len(long)
        np.testing.assert_allclose(found[1].probabilities.sum(1), 1, atol=1e-5)
        assert np.isnan(found[3].probabilities).all()
    assert np.isnan(cut[1].probabilities[14:]).all()
    assert [one.num_cut for one in words.word_scores(rows)] == [0, len(long) - 14, 0, 0]
    # The first word's nearest cut end is that of the first window, and of its last words that of the second.
    np.testing.assert_allclose(words.predict(rows, stride=4)[1].probabilities[:10], cut[1].probabilities[:10], atol=1e-5)


def test_a_stride_that_leaves_no_room_is_refused(words: Predictor) -> None:
    with pytest.raises(TokenizerError, match="stride 14 must be below the 14 tokens"):
        words.predict([["Ada"]], stride=14)


def test_tokens_of_texts_beyond_the_limit_are_counted(texts: Predictor) -> None:
    scores, num_cut = texts.text_scores(["good film", "film " * 14, "film " * 20])
    assert num_cut.tolist() == [0, 0, 6]
    np.testing.assert_array_equal(scores, texts.scores(["good film", "film " * 14, "film " * 20]))


@pytest.fixture(scope="module")
def pairs(tiny_exports: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The text export, as if its model had been trained on pairs."""
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path_factory.mktemp("pairs") / "export")
    signature = json.loads((folder / "signature.json").read_text())
    (folder / "signature.json").write_text(json.dumps({**signature, "rows_kind": "text_pair"}))
    seal(folder, "exports", json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["facts"])
    return Predictor.load(folder)


def test_text_pairs_are_read_as_pairs(texts: Predictor, pairs: Predictor) -> None:
    first, second = pairs.predict([("good film", "bad film"), ("bad film", "good film")])
    (single,) = texts.predict(["good film"])
    assert not np.allclose(first.probabilities, second.probabilities, atol=1e-5)
    assert not np.allclose(first.probabilities, single.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "row"),
    [(["a", ("b", "c")], 1), ([("a", "b")], 0), (["a", "b", 7], 2), ([None], 0), ([["a", "b"]], 0), (["a", b"b"], 1)],
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


class Stream:
    """A column or a frame that is known by the Arrow PyCapsule interface alone, as those of Polars and DuckDB are."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._held.__arrow_c_stream__(requested_schema)


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "generator": lambda rows: (row for row in rows),
    "iterator": iter,
    "map": lambda rows: map(lambda row: row, rows),
    "dict's values": lambda rows: dict(enumerate(rows)).values(),
    "object array": lambda rows: np.fromiter(rows, object, len(rows)),
    "Series": pd.Series,
    "Series of another index": lambda rows: pd.Series(rows, index=range(len(rows), 0, -1)),
    "Series of Arrow": lambda rows: pd.Series(rows, dtype=pd.ArrowDtype(pa.array(rows).type)),
    "Arrow array": pa.array,
    "Arrow chunks": lambda rows: pa.chunked_array([rows[:1], rows[1:]]),
    "Arrow stream of a column": lambda rows: Stream(pa.chunked_array([rows])),
}
TEXT_FORMS: dict[str, Callable[[list[str]], Any]] = {
    "array": np.array,
    "Series of categories": lambda rows: pd.Series(rows, dtype="category"),
    "Index": pd.Index,
    "Arrow dictionary": lambda rows: pa.array(rows).dictionary_encode(),
    "Arrow views": lambda rows: pa.array(rows, pa.string_view()),
    "frame": lambda rows: pd.DataFrame({"id": range(len(rows)), "text": rows}),
    "Arrow table": lambda rows: pa.table({"id": range(len(rows)), "text": rows}),
    "Arrow batch": lambda rows: pa.record_batch({"text": rows}),
    "Arrow stream of a frame": lambda rows: Stream(pa.table({"id": range(len(rows)), "text": rows})),
}


@pytest.mark.parametrize("form", [*FORMS, *TEXT_FORMS])
def test_texts_may_come_in_any_form_that_has_an_order(form: str, texts: Predictor) -> None:
    rows = some_texts(5, seed=9)[0]
    assert texts.predict({**FORMS, **TEXT_FORMS}[form](rows), 2) == texts.predict(rows, 2)


@pytest.mark.parametrize("form", FORMS)
def test_words_may_come_in_any_form_that_has_an_order(form: str, words: Predictor) -> None:
    rows = [["Ada", "visits", "Paris"], ["good"], ["film", "dull"]]
    expected = words.predict(rows)
    assert words.predict(FORMS[form](rows)) == expected
    assert words.predict(pd.DataFrame({"tokens": rows})) == words.predict(pa.table({"tokens": rows})) == expected
    assert words.predict([tuple(row) for row in rows]) == words.predict([np.array(row) for row in rows]) == expected


def test_one_text_is_one_text(texts: Predictor) -> None:
    expected = texts.predict(["good film"])
    assert len(expected) == 1
    assert texts.predict("good film") == texts.predict(np.str_("good film")) == expected
    assert len(texts.predict("")) == 1
    assert texts.predict(("good film", "bad film")) == texts.predict(["good film", "bad film"])


def test_pairs_may_be_tuples_lists_arrays_or_two_columns(pairs: Predictor) -> None:
    rows = [("good film", "bad film"), ("bad film", "good film"), ("a", "b")]
    expected = pairs.predict(rows)
    assert pairs.predict(json.loads(json.dumps(rows))) == expected
    assert pairs.predict(np.array(rows)) == pairs.predict(zip(*zip(*rows, strict=True), strict=True)) == expected
    frame = pd.DataFrame(rows, columns=["text", "text_pair"])
    assert pairs.predict(frame[["text_pair", "text"]]) == pairs.predict(pa.Table.from_pandas(frame)) == expected
    assert pairs.predict(rows[0]) == expected[:1]
    with pytest.raises(
        PredictError, match="expected a frame with the columns 'text' and 'text_pair', found the columns 'text'"
    ):
        pairs.predict(frame[["text"]])
    with pytest.raises(PredictError, match="input 0: expected a pair of texts"):  # a list is a list of rows
        pairs.predict(list(rows[0]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": ["a"]}, "a dict, which has no order of rows; give a list of rows, or a frame with the column 'text'"),
        ({"a", "b"}, "a set, which has no order"),
        (frozenset("a"), "a frozenset, which has no order"),
        (b"good film", "the inputs are one bytes; expected a text"),
        (7, "the inputs are of type int; expected a text"),
        (None, "the inputs are of type NoneType; expected a text"),
        (np.array("a"), "an array of no dimensions"),
        (pd.DataFrame({"body": ["a"]}), "expected a frame with the column 'text', found the columns 'body'"),
        (pa.table({"body": ["a"]}), "expected a frame with the column 'text', found the columns 'body'"),
        (pd.Series(["a", None]), "input 1: .*a missing value; drop or fill the row"),
        (pd.DataFrame({"text": ["a", float("nan")]}, dtype=object), "input 1: .*found nan, a missing value"),
        (["a", pd.NA], "input 1: .*found <NA>, a missing value"),
        (pa.array(["a", None]), "input 1: .*found None, a missing value"),
        (pa.array([b"a"]), "input 0: .*found bytes; decode the bytes to text"),
        (np.array([["a", "b"]]), "input 0: expected a text, as the model was trained on, found list of 2 texts"),
        (["fine", "so \ud83d lone"], r"input 1: the text has the lone surrogate U\+D83D at position 3"),
    ],
)
def test_what_is_no_sequence_of_texts_is_refused(inputs: Any, message: str, texts: Predictor) -> None:
    with pytest.raises(PredictError, match=message):
        texts.predict(inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("Ada visits", "the inputs are one str; expected a list of words"),
        (["Ada visits"], "input 0: expected a list of words.*found str; split the text into words, and give one list for each"),
        ([["Ada"], ["\udc00"]], r"input 1: .*U\+DC00 at position 0"),
        ([["Ada", None]], r"input 0: .*found list with None \(NoneType\) in it"),
        ([["Ada", float("nan")]], "input 0: .*found list with nan"),
        ([{"tokens": ["Ada"]}], "input 0: .*found dict"),
    ],
)
def test_what_is_no_list_of_words_is_refused(inputs: Any, message: str, words: Predictor) -> None:
    with pytest.raises(PredictError, match=message):
        words.predict(inputs)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", None, True])
def test_a_batch_has_at_least_one_row(
    batch_size: Any, texts: Predictor, words: Predictor, images: Predictor, tiny_exports: dict[str, Exported]
) -> None:
    for predictor, kind in ((texts, "text"), (words, "token"), (images, "image")):
        with pytest.raises(PredictError, match=r"batch_size is .*; expected a whole number of at least 1"):
            predictor.predict(tiny_exports[kind].inputs, batch_size)
    assert len(texts.predict(["a", "b"], np.int64(1))) == 2  # type: ignore[arg-type]
    assert len(images.predict(tiny_exports["image"].inputs, 1 << 70)) == len(tiny_exports["image"].inputs)


@pytest.mark.parametrize("stride", [-1, 1.5, True, "2"])
def test_a_stride_is_a_whole_number(stride: Any, words: Predictor) -> None:
    with pytest.raises(PredictError, match=r"stride is .*; expected a whole number of at least 0, or None"):
        words.predict([["a"] * 50], stride=stride)
    assert words.predict([["a"] * 50], stride=np.int64(2)) == words.predict([["a"] * 50], stride=2)  # type: ignore[arg-type]


def test_a_column_that_a_frame_has_twice_is_refused(texts: Predictor) -> None:
    for frame in (pd.DataFrame([["a", "b"]], columns=["text", "text"]), pa.table([["a"], ["b"]], ["text", "text"])):
        with pytest.raises(PredictError, match="the frame has the column 'text' 2 times; expected it once"):
            texts.predict(frame)


def test_stride_is_for_sequences_alone(texts: Predictor, images: Predictor) -> None:
    for predictor in (texts, images):
        with pytest.raises(PredictError, match="stride is for sequence_labelling, this export's task is"):
            predictor.predict([], stride=8)


def test_one_image_may_come_in_any_form(images: Predictor, tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    image = tiny_exports["image"].inputs[0]
    image.save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    expected = images.predict([image])
    for form in (image, tmp_path / "one.png", str(tmp_path / "one.png"), data, bytearray(data), np.asarray(image)):
        assert images.predict(form) == expected
    pixels = np.stack([np.asarray(one) for one in tiny_exports["image"].inputs])
    assert images.predict(pixels) == images.predict(tiny_exports["image"].inputs)
    with (tmp_path / "one.png").open("rb") as stream:
        assert images.predict(stream) == images.predict([io.BytesIO(data)]) == images.predict(io.BytesIO(data)) == expected
    kept = [{"bytes": data, "path": "one.png"}, {"bytes": None, "path": str(tmp_path / "one.png")}]  # by the library datasets
    assert images.predict(pa.table({"image": kept})) == expected * 2
    frames = (pd.DataFrame({"image": [data]}), pd.DataFrame({"path": [str(tmp_path / "one.png")]}), pa.table({"image": [data]}))
    assert [images.predict(frame) for frame in frames] == [expected] * 3


def test_an_image_that_is_cut_off_names_its_row(images: Predictor, tiny_exports: dict[str, Exported]) -> None:
    buffer = io.BytesIO()
    tiny_exports["image"].inputs[0].resize((200, 200)).save(buffer, "PNG")
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    for broken in (half, Image.open(io.BytesIO(half))):
        with pytest.raises(ImageError, match="input 1: "):
            images.predict([tiny_exports["image"].inputs[0], broken])
    with pytest.raises(ImageError, match=r"input 0: gone\.png: No such file or directory; correct the path"):
        images.predict("gone.png")
    with pytest.raises(ImageError, match=r"input 0: a{300}…: .*File name too long"):
        images.predict("a" * 5000)
    with pytest.raises(ImageError, match=r"input 0: a\\x00b\.png: .*embedded null byte"):
        images.predict("a\0b.png")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 6, 3)), r"found array of float64 \[4, 6, 3\]; scale the values to 0 to 255"),
        (np.zeros((1, 4, 6, 3), np.float32), r"found array of float32 \[4, 6, 3\]; scale the values to 0 to 255"),
        (np.zeros((3, 4, 6), np.uint8), r"found array of uint8 \[3, 4, 6\]; of one image, move the channels last"),
        (np.zeros((2, 3, 4, 6), np.uint8), r"found array of uint8 \[3, 4, 6\]; of one image, move the channels last"),
        (np.zeros((9, 4, 6), np.uint8), r"found array of uint8 \[9, 4, 6\]; of several grey images, give a list"),
    ],
)
def test_pixels_of_another_layout_are_refused(pixels: Any, message: str, images: Predictor) -> None:
    with pytest.raises(PredictError, match=rf"input 0: expected an image.*{message}"):
        images.predict(pixels)
    if pixels.ndim == 3:
        with pytest.raises(PredictError, match=rf"input 0: expected an image.*{message}"):
            images.predict([pixels])


def test_grey_pixels_may_have_a_channel(images: Predictor) -> None:
    grey = np.arange(0, 240, 10, np.uint8).reshape(4, 6)
    expected = images.predict([Image.fromarray(grey)])
    for form in (grey, grey[..., None], [grey], grey[None, ..., None]):
        assert images.predict(form) == expected


def test_a_prediction_is_plain_json(texts: Predictor, words: Predictor) -> None:
    (one,) = texts.predict("good film")
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False)) == {
        "label": one.label,
        "probability": one.probability,
        "probabilities": [float(value) for value in one.probabilities],
    }
    (long,) = words.predict([["film"] * 20])
    plain = json.loads(json.dumps(jsonable_encoder(long.to_dict()), allow_nan=False))
    assert plain["label"] == list(long.label)
    assert plain["probability"][14:] == [None] * 6
    assert plain["probabilities"][14:] == [[None] * ENTITY_LABELS.num_classes] * 6
    assert plain["probabilities"][0] == long.probabilities[0].tolist()


def test_predictions_are_equal_by_what_they_say(texts: Predictor, words: Predictor) -> None:
    one, same, other = texts.predict(["good film", "good film", "dull plot by Ada"], 1)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != one.to_dict()
    assert len({one, same, other}) == 2
    cut = [["film"] * 20]
    assert words.predict(cut) == words.predict(cut)
    assert repr(one) == f"Prediction(label={one.label!r}, probability={one.probability!r})"
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301


@pytest.mark.slow
def test_a_predictor_loads_again_in_another_process(
    texts: Predictor, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    assert pickle.loads(pickle.dumps(texts)).predict("good film") == texts.predict("good film")  # noqa: S301
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    (tmp_path / "predictor.pickle").write_bytes(pickle.dumps(Predictor.load(folder, threads=1)))
    code = (
        "import pickle, sys; predictor = pickle.load(open(sys.argv[1], 'rb')); "
        "open(sys.argv[2], 'wb').write(pickle.dumps((predictor.threads, predictor.predict('good film'))))"
    )
    files = [str(tmp_path / name) for name in ("predictor.pickle", "found.pickle")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=tmp_path)
    assert pickle.loads(Path(files[1]).read_bytes()) == (1, texts.predict("good film"))  # noqa: S301
    params = folder / "program.pdiparams"
    params.write_bytes(params.read_bytes()[::-1])
    with pytest.raises(StoreError, match=r"program\.pdiparams"):
        pickle.loads(Path(files[0]).read_bytes())  # noqa: S301
    params.write_bytes(params.read_bytes()[::-1])
    facts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["facts"]
    seal(folder, "exports", {**facts, "trained": "again"})
    with pytest.raises(StoreError, match="another export"):
        pickle.loads(Path(files[0]).read_bytes())  # noqa: S301


@pytest.mark.slow
def test_predictors_in_threads_predict_as_each_does_alone(tiny_exports: dict[str, Exported]) -> None:
    """Others load and run meanwhile, with other numbers of math threads."""
    kinds = [(kind, threads) for kind in tiny_exports for threads in (1, 2)] * 2

    def predicted(kind: str, threads: int) -> bytes:
        predictor = Predictor.load(tiny_exports[kind].folder, threads)
        rounds = {b"".join(one.probabilities.tobytes() for one in predictor.predict(tiny_exports[kind].inputs)) for _ in "123"}
        (found,) = rounds
        return found

    alone = [predicted(*one) for one in kinds]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: predicted(*one), kinds)) == alone


ROUNDS = """
import sys
from pathlib import Path
from hubflow.hub import Predictor

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

for number in range(100):
    Predictor.load(sys.argv[1]).predict(["good film", "dull"])
    if number == 19:
        before = resident()
print(before, resident())
"""


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the resident memory")
def test_memory_stays_flat_over_many_loads(tiny_exports: dict[str, Exported]) -> None:
    command = [sys.executable, "-c", ROUNDS, str(tiny_exports["text"].folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split()[-2:])
    assert after < 1.03 * before


@pytest.mark.slow
def test_a_lack_of_memory_names_the_batch_size(tiny_exports: dict[str, Exported]) -> None:
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from hubflow.errors import OutOfMemoryError
from hubflow.inference.predictor import Predictor
predictor = Predictor.load(sys.argv[1])
side = predictor.signature["image"]["image_size"]
predictor.pixel_scores(np.zeros((1, 3, side, side), np.uint8))
pixels = np.zeros((100_000, 3, side, side), np.uint8)
feed = {"image": pixels.astype(np.float32)}
size = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, ((size + 20_000) * 1024, -1))
try:
    predictor.run(feed)
except OutOfMemoryError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tiny_exports["image"].folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    text = done.stdout.splitlines()[-1]
    assert text.startswith("prediction ran out of memory. It asked for ")
    assert "a process is limited to " in text
    assert text.endswith("Give a smaller batch_size, or use a machine with more memory")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("megabytes", [2, 30, 60, 100])
def test_where_no_threads_can_be_started_loading_ends_with_an_error(tiny_exports: dict[str, Exported], megabytes: int) -> None:
    """Paddle itself waits for ever where some of the threads of a pool are there and one more cannot be started."""
    script = """
import resource, sys
from pathlib import Path
from hubflow.errors import OutOfMemoryError
from hubflow.inference.predictor import Predictor
from hubflow.runtime.paddle_import import paddle
paddle.inference.Config
size = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, ((size + 1024 * int(sys.argv[2])) * 1024, -1))
try:
    Predictor.load(sys.argv[1])
except OutOfMemoryError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tiny_exports["text"].folder), str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("loading an export ran out of memory"), done.stdout
    assert done.stdout.endswith("Free memory, or use a machine with more memory\n")
