"""Tasks that were trained by hand: exported, loaded and predicted with; and what an export by hand refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_modules import some_images, some_texts, some_tokens
from small_sessions import own_scope

from hubflow import hub
from hubflow.errors import ExportError, ModuleError, PredictError, StoreError, TaskError
from hubflow.runtime.paddle_import import get_variable, paddle
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.predict import predict
from hubflow.store.manifest import verify_folder
from hubflow.tasks.task import Task, data_variables

pytestmark = pytest.mark.slow

CPU = paddle.CPUPlace()


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    with own_scope() as scope:
        yield scope


def started(task: Task, scope: Any) -> Task:
    """The task with a head that is random enough to say something of each row."""
    paddle.static.Executor(CPU).run(task.startup_program())
    for value in task.main_program().global_block().all_parameters():
        if "head." in value.name:
            shape = [int(size) for size in value.shape]
            scope.var(value.name).get_tensor().set(np.random.default_rng(5).standard_normal(shape).astype(np.float32), CPU)
    return task


def text_task(module: hub.Module, scope: Any, classes: int = 2) -> Task:
    return started(hub.create_text_cls_task(module.context(max_seq_len=16)[1]["pooled_output"], classes), scope)


def probabilities(task: Task, feed: dict[str, Any]) -> np.ndarray:
    program = task.inference_program()
    needed = {value.name: feed[value.name] for value in data_variables(program)}
    fetched = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    found: np.ndarray = paddle.static.Executor(CPU).run(program, feed=needed, fetch_list=fetched)[0]
    return found


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("kind", ["text", "text_pair"])
def test_texts_and_pairs_are_predicted_as_the_task_says(
    kind: Any, context: int, tiny_bert: Path, scope: Any, tmp_path: Path
) -> None:
    module = hub.Module(str(tiny_bert))
    task = [text_task(module, scope) for _ in range(context)][-1]
    texts = some_texts(9)[0]
    rows = texts if kind == "text" else list(zip(texts, texts[::-1], strict=True))
    expected = probabilities(task, module.encode(rows, kind, max_seq_len=16))
    predictor = hub.Predictor.load(hub.export(task, tmp_path / "export", ["no", "yes"], rows_kind=kind))
    np.testing.assert_allclose(predictor.scores(rows), expected, atol=1e-5)
    assert [one.label for one in predictor.predict(rows)] == [["no", "yes"][best] for best in expected.argmax(-1)]
    assert predictor.signature["text"]["max_seq_len"] == 16  # of the context, when nothing is said


def test_words_are_predicted_as_the_task_says(tiny_bert: Path, scope: Any, tmp_path: Path) -> None:
    module = hub.Module(str(tiny_bert))
    _, outputs, program = module.context(max_seq_len=16)
    with paddle.static.program_guard(program):
        seq_len = paddle.static.data("seq_len", [-1], "int64")
    task = started(hub.create_seq_label_task(outputs["sequence_output"], seq_len, 3), scope)
    words = some_tokens(5)[0]
    feed = module.encode(words, "tokens", 16, word_labels=[[1] * len(row) for row in words])
    expected = probabilities(task, feed)
    predictor = hub.Predictor.load(hub.export(task, tmp_path / "export", LabelMap(labels=("O", "B-X", "I-X"))))
    for row, one in enumerate(predictor.predict(words)):
        np.testing.assert_allclose(one.probabilities, expected[row][feed["label"][row] == 1], atol=1e-5)


def test_images_are_predicted_as_the_task_says(scope: Any, tmp_path: Path) -> None:
    module = hub.Module("digits")
    task = started(hub.create_img_cls_task(module.context()[1]["feature_map"], 3, [5]), scope)
    pixels = some_images(6)[0].transpose(0, 2, 3, 1)
    folder = hub.export(task, tmp_path / "export", ["a", "b", "c"])
    expected = probabilities(task, module.encode(pixels))
    np.testing.assert_allclose(hub.Predictor.load(folder).scores(pixels), expected, atol=1e-5)
    smaller = hub.Predictor.load(hub.export(task, tmp_path / "smaller", ["a", "b", "c"], image_size=16))
    assert smaller.signature["image"]["image_size"] == 16
    assert len(smaller.predict(pixels)) == 6


def test_the_export_stands_alone_and_the_task_stays_as_it_was(tiny_bert: Path, scope: Any, tmp_path: Path) -> None:
    module = hub.Module(str(tiny_bert))
    task = text_task(module, scope)
    feed = module.encode(some_texts(4)[0], max_seq_len=16)
    before = probabilities(task, feed)
    folder = hub.export(task, tmp_path / "export", ["no", "yes"])
    np.testing.assert_array_equal(probabilities(task, feed), before)
    facts = verify_folder(folder).facts
    assert (facts["task"], facts["num_classes"]) == ("text_classification", 2)
    (tmp_path / "rows.csv").write_text("id,text\n7,good film\n8,dull plot\n")
    settings = PredictSettings(export=str(folder), data=str(tmp_path / "rows.csv"), output=str(tmp_path / "found.parquet"))
    predict.fn(settings)
    found = pd.read_parquet(tmp_path / "found.parquet")
    labels = [one.label for one in hub.Predictor.load(folder).predict(["good film", "dull plot"])]
    assert found["predicted"].tolist() == labels


def test_a_later_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(
    tiny_bert: Path, scope: Any, tmp_path: Path
) -> None:
    task = text_task(hub.Module(str(tiny_bert)), scope)
    folder = hub.export(task, str(tmp_path / "export"), ["no", "yes"])
    assert hub.export(task, folder, ["yes", "no"]) == folder
    assert hub.Predictor.load(folder).label_map.labels == ("yes", "no")
    for name, content in (("notes.txt", "mine"), ("manifest.json", json.dumps({"kind": "datasets"}))):
        other = tmp_path / name.partition(".")[0]
        other.mkdir()
        (other / name).write_text(content)
        with pytest.raises(StoreError, match="is not empty and holds no export"):
            hub.export(task, other, ["no", "yes"])
        assert (other / name).read_text() == content
    (tmp_path / "empty").mkdir()
    hub.export(task, tmp_path / "empty", ["no", "yes"])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("no", {}, "labels are the one text 'no'; give a list with the name of each class"),
        (["no"], {}, "1 labels were given, but the task has 2 classes"),
        (["a", "b", "c"], {}, "3 labels were given, but the task has 2 classes"),
        (["no", "no"], {}, r"labels: .*distinct; repeated: no"),
        ([0, 1], {}, r"labels: .*valid string"),
        (["no", "yes"], {"rows_kind": "tokens"}, "rows_kind 'tokens' does not fit text_classification; use text or text_pair"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    labels: Any, options: dict[str, Any], message: str, tiny_bert: Path, scope: Any, tmp_path: Path
) -> None:
    task = text_task(hub.Module(str(tiny_bert)), scope)
    with pytest.raises(ExportError, match=message):
        hub.export(task, tmp_path / "export", labels, **options)
    assert not (tmp_path / "export").exists()


def test_weights_that_are_not_there_are_refused(tiny_bert: Path, scope: Any, tmp_path: Path) -> None:
    module = hub.Module(str(tiny_bert))
    not_started = hub.create_text_cls_task(module.context()[1]["pooled_output"], 2)
    with pytest.raises(ExportError, match=r"2 weight\(s\) have no value.*head\.output.*run the startup program"):
        hub.export(not_started, tmp_path / "export", ["no", "yes"])
    task = text_task(module, scope)
    with (
        own_scope(),
        pytest.raises(ExportError, match=r"context\(\) was called in another scope; export under the same scope_guard"),
    ):
        hub.export(task, tmp_path / "export", ["no", "yes"])
    with pytest.raises(ModuleError, match="max_seq_len is 1000"):
        hub.export(task, tmp_path / "export", ["no", "yes"], max_seq_len=1000)


def test_weights_of_the_same_names_in_another_scope_are_not_exported(tiny_bert: Path, scope: Any, tmp_path: Path) -> None:
    task = text_task(hub.Module(str(tiny_bert)), scope)
    with own_scope():
        text_task(hub.Module(str(tiny_bert)), paddle.static.global_scope())  # whose weights have the names of the task's
        with pytest.raises(ExportError, match=r"context\(\) was called in another scope; export under the same scope_guard"):
            hub.export(task, tmp_path / "export", ["no", "yes"])
    hub.export(task, tmp_path / "export", ["no", "yes"])


def test_a_task_of_another_making_has_no_module_to_export(tmp_path: Path) -> None:
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()):
        feature = paddle.static.data("x", [-1, 4], "float32")
    with pytest.raises(TaskError, match="num_classes is '2'; expected a whole number"):
        hub.create_img_cls_task(feature, "2")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="not made by Module"):
        hub.export(hub.create_img_cls_task(feature, 2), tmp_path / "export", ["a", "b"])


@pytest.mark.parametrize("shape", [[-1], [-1, 1]])
def test_a_text_head_takes_labels_of_the_users_own(shape: list[int], tiny_bert: Path, scope: Any) -> None:
    module = hub.Module(str(tiny_bert))
    _, outputs, program = module.context()
    with paddle.static.program_guard(program):
        own = paddle.static.data("own", shape, "int64")
    task = started(hub.create_text_cls_task(outputs["pooled_output"], 2, labels=own), scope)
    assert task.variable("label") is own
    feed = {**module.encode(["good film", "bad"]), "own": np.array([0, 1]).reshape([2] * bool(shape) + shape[1:])}
    (loss,) = paddle.static.Executor(CPU).run(task.test_program(), feed=feed, fetch_list=[task.test_variable("loss")])
    given = probabilities(task, feed)
    assert float(loss) == pytest.approx(-np.log(given[[0, 1], [0, 1]]).mean(), abs=1e-5)


@pytest.mark.parametrize("shape", [[-1, -1], [-1, -1, 1]])
def test_a_sequence_head_takes_labels_of_the_users_own(shape: list[int], tiny_bert: Path, scope: Any) -> None:
    module = hub.Module(str(tiny_bert))
    _, outputs, program = module.context()
    with paddle.static.program_guard(program):
        own = paddle.static.data("own", shape, "int64")
        seq_len = paddle.static.data("seq_len", [-1], "int64")
    task = started(hub.create_seq_label_task(outputs["sequence_output"], seq_len, 2, labels=own), scope)
    feed = module.encode([["good", "film"], ["bad"]], "tokens", word_labels=[[0, 1], [1]])
    counted = feed["label"] >= 0
    feed["own"] = feed.pop("label").reshape([2, -1, *shape[2:]])
    loss, count = paddle.static.Executor(CPU).run(
        task.test_program(), feed=feed, fetch_list=[task.test_variable(name) for name in ("loss", "num_examples")]
    )
    given = probabilities(task, feed)[counted]
    assert int(count) == 3
    assert float(loss) == pytest.approx(-np.log(given[np.arange(3), [0, 1, 1]]).mean(), abs=1e-5)


def test_labels_that_do_not_fit_are_refused(tiny_bert: Path) -> None:
    _, outputs, program = hub.Module(str(tiny_bert)).context()
    other = hub.Module(str(tiny_bert)).context()[2]
    with paddle.static.program_guard(program):
        floats = paddle.static.data("floats", [-1], "float32")
        flat = paddle.static.data("flat", [-1], "int64")
        seq_len = paddle.static.data("seq_len", [-1], "int64")
    with paddle.static.program_guard(other):
        strange = paddle.static.data("strange", [-1], "int64")
    with pytest.raises(TaskError, match=r"labels are float32 \[-1\]; expected int64 \[batch\] or \[batch, 1\]"):
        hub.create_text_cls_task(outputs["pooled_output"], 2, labels=floats)
    with pytest.raises(TaskError, match=r"labels are int64 \[-1\]; expected int64 \[batch, seq\]"):
        hub.create_seq_label_task(outputs["sequence_output"], seq_len, 2, labels=flat)
    with pytest.raises(TaskError, match="labels are not in the feature's program"):
        hub.create_text_cls_task(outputs["pooled_output"], 2, labels=strange)


def test_rows_that_do_not_fit_the_module_are_refused(tiny_bert: Path) -> None:
    text, image = hub.Module(str(tiny_bert)), hub.Module("digits")
    with pytest.raises(ModuleError, match="rows_kind 'image' does not fit a module of kind text"):
        text.encode(["a"], "image")
    with pytest.raises(ModuleError, match="rows_kind 'text' does not fit a module of kind image"):
        image.encode(["a"], "text")
    with pytest.raises(ModuleError, match="word_labels are for rows_kind 'tokens'"):
        text.encode(["a"], word_labels=[[1]])
    with pytest.raises(ModuleError, match="input 1: 2 words, but 1 labels"):
        text.encode([["a"], ["b", "c"]], "tokens", word_labels=[[0], [1]])
    with pytest.raises(PredictError, match="input 1: expected a text"):
        text.encode(["a", None])


def test_an_export_has_the_weights_of_its_own_context(tiny_bert: Path, scope: Any, tmp_path: Path) -> None:
    module = hub.Module(str(tiny_bert))
    first, second = text_task(module, scope), text_task(module, scope)
    bias = get_variable(scope, "context_2.head.output.bias")
    scope.find_var("context_2.head.output.bias").get_tensor().set(bias + np.array([9, 0], np.float32), CPU)
    scores = [
        hub.Predictor.load(hub.export(task, tmp_path / str(number), ["no", "yes"])).scores("good film")
        for number, task in enumerate((first, second))
    ]
    feed = module.encode("good film", max_seq_len=16)
    for found, task in zip(scores, (first, second), strict=True):
        np.testing.assert_allclose(found, probabilities(task, feed), atol=1e-5)
    assert not np.allclose(*scores)
