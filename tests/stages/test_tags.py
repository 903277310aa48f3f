"""Tags however they are written: the same entities from reading to the gate, in every stage that counts them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modules import make_tiny_bert
from runs import Run, run_stages

from hubflow.schemas.gate import GateSettings
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.stages.evaluate import read_details
from hubflow.stages.gate import gate, read_verdict
from hubflow.stages.predict import predict

VOCABULARY = ("plot", "good", "story", "bad", "cast", "music", "film", "scene")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("module") / "bert", VOCABULARY)


def run(folder: Path, module: Path, content: str, **data: Any) -> Run:
    folder.mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"{split}.conll").write_text(content, encoding="utf-8")
    files = {split: str(folder / f"{split}.conll") for split in ("train", "dev", "test")}
    settings = {
        "task": "sequence_labelling",
        "module": {"name": str(module), "max_seq_len": 6},
        "data": {"format": "conll", **files, **data},
        "train": {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3, "preflight": False},
        "store": str(folder / "store"),
        "device": "cpu",
    }
    return run_stages(FineTuneSettings.model_validate(settings))


def test_the_shared_cases_files_give_the_same_entities_and_scores(
    shared_case: Callable[[str], Path], tmp_path: Path, module: Path
) -> None:
    case = shared_case("tags-without-prefix")
    contents = {name: (case / f"{name}.conll").read_text(encoding="utf-8") for name in ("train", "train_bio")}
    contents["suffixed"] = contents["train_bio"].replace("B-PER", "PER-B").replace("B-ORG", "ORG-B")
    runs = {name: run(tmp_path / name, module, content) for name, content in contents.items()}
    expected = runs["train_bio"]
    scores = {name: read_details(one.store, one.evaluation)["test"] for name, one in runs.items()}
    assert set(scores["train"].per_class) == {"PER", "ORG"}
    assert scores["train"].per_class["ORG"].support == contents["train"].count("ORG")
    assert expected.checkpoint.best_metric == "f1"
    for name, one in runs.items():
        assert one.checkpoint.best_metric == "f1"
        assert one.evaluation.metrics == expected.evaluation.metrics
        assert scores[name].per_class == scores["train_bio"].per_class
        assert scores[name].strict == scores["train_bio"].strict
        slices = {(cut.by, cut.value): cut.metrics for cut in scores[name].slices}
        assert slices == {(cut.by, cut.value): cut.metrics for cut in scores["train_bio"].slices}
        lost = one.store.open(one.encoded).facts["entities_lost"]
        assert lost == expected.store.open(expected.encoded).facts["entities_lost"]
        assert lost["train"]["of"] == contents["train"].count("ORG") + contents["train"].count("PER")
        output = tmp_path / f"{name}.parquet"
        data = tmp_path / name / "test.conll"
        found = predict(PredictSettings(export=str(one.export_folder), data=str(data), output=str(output)))
        assert found.metrics["f1"] == pytest.approx(one.evaluation.metrics["test"]["f1"])
        verdict = gate(one.export, one.dataset, GateSettings(), one.settings.evaluate, "tags", one.settings.store)
        assert read_verdict(one.store, verdict).candidate_value == pytest.approx(one.evaluation.metrics["test"]["f1"])


def test_a_scheme_that_is_set_reaches_every_stage(tmp_path: Path, module: Path) -> None:
    content = "".join(f"{word} B-PER\nfilm I-PER\nplot E-MAIL\ncast E-MAIL\nscene O\n\n" for word in VOCABULARY)
    for scheme, kinds in (("IOB2", {"PER", "E-MAIL"}), ("BIOES", {"PER", "MAIL"})):
        found = run(tmp_path / scheme, module, content, tag_scheme=scheme)
        details = read_details(found.store, found.evaluation)["test"]
        assert (set(details.per_class), details.scheme) == (kinds, scheme)
        entities = found.store.open(found.encoded).facts["entities_lost"]["train"]["of"]
        assert entities == len(VOCABULARY) * (2 if scheme == "IOB2" else 3)
        assert '"tag_scheme"' in (found.export_folder / "label_map.json").read_text(encoding="utf-8")
        data = str(tmp_path / scheme / "test.conll")
        metrics = predict(
            PredictSettings(export=str(found.export_folder), data=data, output=str(tmp_path / "out.parquet"))
        ).metrics
        assert metrics["f1"] == pytest.approx(found.evaluation.metrics["test"]["f1"])
