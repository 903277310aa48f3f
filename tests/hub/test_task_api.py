"""The Task API as its page documents it: every example runs, and what a task holds can be read and fetched on real modules."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer, serve_hub
from huggingface_hub import constants
from small_modules import write_image_module, write_text_module
from small_sessions import own_scope

from hubflow import hub as engine
from hubflow.errors import TaskError
from hubflow.runtime.paddle_import import paddle
from hubflow.tasks.task import data_variables

pytestmark = pytest.mark.slow

IMPORT = "import paddlehub as hub"
OUR_IMPORT = "from hubflow import hub"
CONSTRUCTOR = """
hub.Task(
    task_type,
    graph_var_dict,
    main_program,
    startup_program,
    inference_program=None)
"""
FIRST = """
import paddlehub as hub
# 根据模型名字创建Module
resnet = hub.Module(name = "resnet_v2_50_imagenet")
input_dict, output_dict, program = resnet.context(trainable=True)
feature_map = output_dict["feature_map"]
task = hub.create_img_cls_task(feature=feature_map, num_classes=2)
"""
VARIABLE = """
import paddlehub as hub
...
task = hub.create_img_cls_task(
    feature=feature_map, num_classes=2)
task.variable("loss")
"""
MAIN_PROGRAM = """
import paddlehub as hub
...
task = hub.create_img_cls_task(
    feature=feature_map, num_classes=2)
main_program = task.main_program()
"""
STARTUP_PROGRAM = """
import paddlehub as hub
...
task = hub.create_img_cls_task(
    feature=feature_map, num_classes=2)
startup_program = task.startup_program()
"""
INFERENCE_PROGRAM = """
import paddlehub as hub
...
task = hub.create_img_cls_task(
    feature=feature_map, num_classes=2)
inference_program = task.inference_program()
"""
METRIC_VARIABLE_NAMES = """
import paddlehub as hub
...
task = hub.create_img_cls_task(
    feature=feature_map, num_classes=2)
metric_variable_names = task.metric_variable_names()
"""
IMG_CLS = """
import paddlehub as hub

module = hub.Module(name="resnet_v2_50_imagenet")
inputs, outputs, program = module.context(trainable=True)
feature_map = outputs['feature_map']
cls_task = hub.create_img_cls_task(
        feature=feature_map, num_classes=2, hidden_units = [20, 10])
"""
SEQ_LABEL = """
import paddlehub as hub

max_seq_len = 20
module = hub.Module(name="ernie")
inputs, outputs, program = module.context(
    trainable=True, max_seq_len=max_seq_len)
sequence_output = outputs["sequence_output"]
seq_label_task = hub.create_seq_label_task(
    feature=sequence_output,
    seq_len=seq_len,
    num_classes=dataset.num_labels)
"""
TEXT_CLS = """
import paddlehub as hub

max_seq_len = 20
module = hub.Module(name="ernie")
inputs, outputs, program = module.context(
    trainable=True, max_seq_len=max_seq_len)
pooled_output = outputs["pooled_output"]
cls_task = hub.create_text_cls_task(
    feature=pooled_output, num_classes=2, hidden_units = [20, 10])
"""
ON_A_FEATURE_MAP = (VARIABLE, MAIN_PROGRAM, STARTUP_PROGRAM, INFERENCE_PROGRAM, METRIC_VARIABLE_NAMES)
EVERY_EXAMPLE = (FIRST, *ON_A_FEATURE_MAP, IMG_CLS, SEQ_LABEL, TEXT_CLS)
SEED_PAGE = Path(__file__).parents[3] / "shared" / "seed" / "task_api.md"


class Names(dict[str, Any]):
    """An example's names; the ones that the page leaves undefined are made when they are asked for."""

    def __missing__(self, name: str) -> Any:
        if name == "seq_len":
            with paddle.static.program_guard(self["program"]):
                return paddle.static.data("seq_len", [-1], "int64")
        if name == "dataset":
            return SimpleNamespace(num_labels=7)
        raise KeyError(name)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("upstream")
    return {
        "timm/resnet50.tv_in1k": write_image_module(root / "resnet50", "resnet50_timm"),
        "nghuyong/ernie-1.0-base-zh": write_text_module(root / "ernie", "ernie"),
    }


@pytest.fixture(scope="module")
def hub_on_loopback(modules: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub that serves the modules which the page names, and an empty cache before it."""
    with serve_hub(modules) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.endpoint)
        patch.setenv("HUBFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("home") / "no-token"))
        yield server


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    """Weights go into a scope of the test's own."""
    with own_scope() as scope:
        yield scope


def run_example(code: str, names: Names | None = None) -> Names:
    """Run an example of the page with its import line changed, and nothing else."""
    names = Names() if names is None else names
    assert code.count(IMPORT) <= 1
    exec(compile(code.replace(IMPORT, OUR_IMPORT), "task_api.md", "exec"), {"hub": engine}, names)  # noqa: S102
    return names


@pytest.fixture(scope="module")
def after_first(hub_on_loopback: HubServer) -> Names:
    """Names after the page's first example, which the examples with `...` go on from."""
    with own_scope():
        return run_example(FIRST)


def test_the_examples_are_those_of_the_page() -> None:
    if not SEED_PAGE.is_file():
        pytest.skip(f"no page at {SEED_PAGE}")
    blocks = SEED_PAGE.read_text(encoding="utf-8").split("```python")[1:]
    found = [textwrap.dedent(block.split("```")[0]).strip() for block in blocks]
    assert found == [code.strip() for code in (CONSTRUCTOR, *EVERY_EXAMPLE)]


def test_the_first_example_gives_an_image_task(after_first: Names) -> None:
    task = after_first["task"]
    assert isinstance(task, engine.Task)
    assert task.task_type == "image_classification"
    assert list(after_first["input_dict"]) == ["image"]
    assert list(after_first["feature_map"].shape) == [-1, 2048]
    assert list(task.variable("probs").shape) == [-1, 2]


@pytest.mark.parametrize("code", ON_A_FEATURE_MAP)
def test_the_examples_that_go_on_from_a_feature_map_run(code: str, after_first: Names) -> None:
    names = run_example(code, Names(after_first))
    assert names["task"].main_program() is after_first["program"]


def test_the_constructor_takes_what_the_page_lists(after_first: Names) -> None:
    task = after_first["task"]
    names = Names(
        task_type="image_classification",
        graph_var_dict={name: task.variable(name) for name in ("loss", "accuracy", "label", "probs")},
        main_program=task.main_program(),
        startup_program=task.startup_program(),
    )
    run_example(f"made = {CONSTRUCTOR.strip()}", names)
    assert names["made"].metric_variable_names() == ["loss", "accuracy"]
    assert names["made"].startup_program() is task.startup_program()


def test_the_image_classification_example_runs(hub_on_loopback: HubServer) -> None:
    names = run_example(IMG_CLS)
    shapes = {value.name: list(value.shape) for value in names["program"].global_block().all_parameters()}
    heads = {name: shape for name, shape in shapes.items() if name.startswith("head.") and name.endswith("weight")}
    assert sorted(heads.values()) == [[10, 2], [20, 10], [2048, 20]]


def test_the_sequence_labelling_example_runs(hub_on_loopback: HubServer) -> None:
    names = run_example(SEQ_LABEL)
    assert names["seq_label_task"].task_type == "sequence_labelling"
    assert list(names["seq_label_task"].variable("probs").shape) == [-1, -1, 7]


def test_the_text_classification_example_runs(hub_on_loopback: HubServer) -> None:
    names = run_example(TEXT_CLS)
    assert names["cls_task"].task_type == "text_classification"
    assert sorted(names["inputs"]) == ["input_ids", "input_mask", "position_ids", "segment_ids"]
    assert list(names["cls_task"].variable("probs").shape) == [-1, 2]


def test_modules_of_the_examples_are_fetched_once(hub_on_loopback: HubServer, after_first: Names) -> None:
    run_example(TEXT_CLS)
    fetched = [request.path for request in hub_on_loopback.gets("model.safetensors")]
    assert len(fetched) == len(set(fetched))


def text_feed(rows: int = 3, length: int = 6) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 99, (rows, length))
    positions = np.tile(np.arange(length), (rows, 1))
    mask = np.ones((rows, length), np.float32)
    return {"input_ids": ids, "position_ids": positions, "segment_ids": np.zeros_like(ids), "input_mask": mask}


def fetch_everything(task: Any, inputs: dict[str, np.ndarray], label: np.ndarray) -> None:
    """Read all that a task names, and fetch it."""
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(task.startup_program())
    names = task.metric_variable_names()
    assert {"loss", "accuracy"} <= set(names)
    assert not {"label", "probs", "logits"} & set(names)
    for program, variable in ((task.main_program(), task.variable), (task.test_program(), task.test_variable)):
        values = executor.run(program, feed={**inputs, "label": label}, fetch_list=[variable(name) for name in names])
        assert all(np.isfinite(value).all() and value.size == 1 for value in values)
        assert all(0 <= float(value) for value in values)
    (probs,) = executor.run(task.test_program(), feed={**inputs, "label": label}, fetch_list=[task.test_variable("probs")])
    inference = task.inference_program()
    needed = {value.name: inputs[value.name] for value in data_variables(inference)}
    (again,) = executor.run(inference, feed=needed, fetch_list=fetched_by(inference))
    np.testing.assert_allclose(again, probs, atol=1e-6)
    np.testing.assert_allclose(again.sum(-1), 1, atol=1e-5)
    with pytest.raises(TaskError, match="no variable 'losses'; known: loss, accuracy, label"):
        task.variable("losses")


def fetched_by(inference: Any) -> list[Any]:
    return [op.operand_source(0) for op in inference.global_block().ops if op.name() == "pd_op.fetch"]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HUBFLOW_CACHE", str(tmp_path))


def test_a_task_on_the_real_minilm_can_be_read_and_fetched(no_hub: None) -> None:
    _inputs, outputs, _program = engine.Module(name="all-MiniLM-L6-v2").context(max_seq_len=32)
    assert list(outputs["pooled_output"].shape) == [-1, 384]
    task = engine.create_text_cls_task(outputs["pooled_output"], num_classes=2)
    fetch_everything(task, text_feed(), np.array([0, 1, 1]))


def test_a_sequence_task_on_the_real_minilm_can_be_read_and_fetched(no_hub: None) -> None:
    _inputs, outputs, program = engine.Module(name="all-MiniLM-L6-v2").context(max_seq_len=32)
    with paddle.static.program_guard(program):
        seq_len = paddle.static.data("seq_len", [-1, 1], "int64")
    task = engine.create_seq_label_task(outputs["sequence_output"], seq_len, num_classes=5)
    label = np.random.default_rng(0).integers(0, 5, (3, 6))
    fetch_everything(task, {**text_feed(), "seq_len": np.array([[6], [4], [1]])}, label)


def test_a_task_on_a_resnet18_can_be_read_and_fetched(no_hub: None, tmp_path: Path) -> None:
    folder = write_image_module(tmp_path / "resnet18", "resnet18_torchvision")
    _inputs, outputs, _program = engine.Module(name=str(folder)).context()
    task = engine.create_img_cls_task(outputs["feature_map"], num_classes=3, hidden_units=[8])
    images = np.random.default_rng(0).standard_normal((4, 3, 64, 64)).astype(np.float32)
    fetch_everything(task, {"image": images}, np.array([0, 1, 2, 1]))
