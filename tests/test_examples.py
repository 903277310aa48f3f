"""Every example runs: the two flows, and each settings file at small size on its real data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_programs import EXAMPLES, load_example
from runs import WORDS, Run, run_stages
from small_modules import make_tiny_bert

from hubflow.inference.predictor import Predictor
from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
from hubflow.schemas.settings import FineTuneSettings, ModuleSpec
from hubflow.schemas.training import TrainSettings

pytestmark = pytest.mark.slow

SMALL = ("data.max_rows=48", "train.epochs=1", "train.batch_size=16", "evaluate.batch_size=16", "device=cpu")


def small_run(name: str, shared: Path, store: Path, *overrides: str) -> Run:
    """Run an example's settings at small size, its data found in `shared`."""
    values: dict[str, Any] = with_overrides(read_settings(EXAMPLES / name), [*SMALL, f"store={store}", *overrides])
    for split in ("train", "dev", "test"):
        path = values["data"].get(split)
        if path is not None:
            assert path.startswith(f"../shared/data/{shared.name}")
            values["data"][split] = str(shared / Path(path).relative_to(f"../shared/data/{shared.name}"))
    return run_stages(parse_settings(FineTuneSettings, values, name))


def words_of(path: Path, column: int, lower: bool = True) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()[:500]
    words = " ".join(line.split("\t")[column] if "\t" in line else line.split(" ")[0] for line in lines)
    return (words.lower() if lower else words).split()


def test_a_stage_is_replaced_by_a_task_of_ones_own(prefect_server: str, tmp_path: Path) -> None:
    replaced = load_example("replace_a_stage")
    replaced.make_database(str(tmp_path / "reviews.sqlite"))
    module = ModuleSpec(name=str(make_tiny_bert(tmp_path / "bert", WORDS)), max_seq_len=16)
    train = TrainSettings(epochs=2, batch_size=16, learning_rate=1e-3)
    export = replaced.fine_tune_on_reviews(str(tmp_path / "reviews.sqlite"), module, str(tmp_path / "store"), train)
    assert set(export.metrics) == {"dev", "test"}
    assert Predictor.load(tmp_path / "store" / export.path).label_map.labels == ("bad", "good")


def test_one_stage_runs_between_the_tasks_of_another_flow(prefect_server: str, text_run: Run, tmp_path: Path) -> None:
    counts = load_example("stage_in_your_flow").sort_messages(str(text_run.export_folder), str(tmp_path))
    assert sum(counts.values()) == 4
    assert set(counts) <= {"0", "1"}


def test_sst2(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared_data("sst2")
    bert = make_tiny_bert(tmp_path / "bert", words_of(data / "train.tsv", 0))
    run = small_run("sst2.yaml", data, tmp_path / "store", f"module.name={bert}", "module.max_seq_len=32")
    assert run.dataset.rows == {"train": 48, "dev": 48, "test": 48}
    assert "accuracy" in run.export.metrics["test"]


def test_chnsenticorp(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared_data("chnsenticorp")
    characters = sorted({character for word in words_of(data / "train.tsv", 1) for character in word})
    bert = make_tiny_bert(tmp_path / "ernie", characters, model_type="ernie")
    run = small_run("chnsenticorp.yaml", data, tmp_path / "store", f"module.name={bert}", "module.max_seq_len=64")
    assert run.dataset.num_classes == 2
    assert "accuracy" in run.export.metrics["test"]
    assert Predictor.load(run.export_folder).predict(["房间很干净，服务也很好"])[0].label in ("0", "1")


def test_conll2003(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared_data("conll2003_en")
    bert = make_tiny_bert(tmp_path / "bert", words_of(data / "train.txt", 0))
    run = small_run("conll2003.yaml", data, tmp_path / "store", f"module.name={bert}", "module.max_seq_len=32")
    assert run.dataset.num_classes == 9
    assert "f1" in run.export.metrics["test"]


def test_flowers(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared_data("flowers")
    run = small_run("flowers.yaml", data, tmp_path / "store", "module.name=mobilenet_v3_small_imagenet", "module.image_size=32")
    assert run.dataset.num_classes == 5
    assert "accuracy" in run.export.metrics["test"]


def test_every_settings_file_has_its_test() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.yaml")) == [
        "chnsenticorp.yaml",
        "conll2003.yaml",
        "flowers.yaml",
        "nightly.yaml",  # tests/flows/test_nightly_document.py runs it
        "sst2.yaml",
    ]


def test_every_program_says_what_it_shows() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert load_example(path.stem).__doc__
