"""Tags however they are written: the same entities from reading to the gate, in every stage that counts them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import Run, run_stages
from small_modules import make_tiny_bert

from hubflow.deployment.pointer import read_verdict
from hubflow.errors import SettingsError
from hubflow.evaluation.folder import read_details
from hubflow.schemas.deployment import GateSettings
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import EvaluateSettings, FineTuneSettings, PredictSettings
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.gate import gate
from hubflow.stages.predict import predict
from hubflow.store.manifest import seal

VOCABULARY = ("plot", "good", "story", "bad", "cast", "music", "film", "scene")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("module") / "bert", VOCABULARY)


def run(folder: Path, module: Path, content: str, evaluate: Any = None, **data: Any) -> Run:
    folder.mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"{split}.conll").write_text(content, encoding="utf-8")
    files = {split: str(folder / f"{split}.conll") for split in ("train", "dev", "test")}
    settings = {
        "task": "sequence_labelling",
        "module": {"name": str(module), "max_seq_len": 6},
        "data": {"format": "conll", **files, **data},
        "train": {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3, "preflight": False},
        "evaluate": evaluate or {},
        "store": str(folder / "store"),
        "device": "cpu",
    }
    return run_stages(FineTuneSettings.model_validate(settings))


@pytest.mark.slow
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
        found = predict.fn(PredictSettings(export=str(one.export_folder), data=str(data), output=str(output)))
        assert found.metrics["f1"] == pytest.approx(one.evaluation.metrics["test"]["f1"])
        verdict = gate.fn(one.export, one.dataset, GateSettings(), one.settings.evaluate, "tags", one.settings.store)
        assert read_verdict(one.store, verdict).candidate_value == pytest.approx(one.evaluation.metrics["test"]["f1"])


@pytest.mark.slow
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
        metrics = predict.fn(
            PredictSettings(export=str(found.export_folder), data=data, output=str(tmp_path / "out.parquet"))
        ).metrics
        assert metrics["f1"] == pytest.approx(found.evaluation.metrics["test"]["f1"])


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, module: Path) -> Run:
    """A run on sentences, some of them longer than the model reads at once."""
    words = [f"{word} {tag}" for word, tag in (("plot", "O"), ("good", "PER"), ("story", "O"), ("bad", "ORG"), ("cast", "O"))]
    sentences = [words * (1 + place % 4) for place in range(16)]
    content = "".join("\n".join(lines) + "\n\n" for lines in sentences)
    return run(tmp_path_factory.mktemp("long") / "run", module, content, evaluate={"stride": 2})


@pytest.mark.slow
def test_windows_score_every_word_in_evaluation_export_and_prediction(long_run: Run, tmp_path: Path) -> None:
    found, metrics = long_run, long_run.evaluation.metrics["test"]
    windowed = evaluate_export.fn(found.export, found.dataset, found.settings.evaluate, found.settings.store)
    assert windowed.metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    cut = evaluate_export.fn(found.export, found.dataset, EvaluateSettings(), found.settings.store)
    assert cut.metrics["loss"] != pytest.approx(metrics["loss"])
    evaluated = [pd.read_parquet(found.store.open(one).folder / "test.parquet") for one in (found.evaluation, windowed)]
    assert [list(row) for row in evaluated[0]["predicted"]] == [list(row) for row in evaluated[1]["predicted"]]
    data = found.settings.data.test
    given = {"export": str(found.export_folder), "data": data, "output": str(tmp_path / "out.parquet")}
    result = predict.fn(PredictSettings.model_validate({**given, "stride": 2}))
    assert result.metrics["f1"] == pytest.approx(metrics["f1"])
    out = pd.read_parquet(result.output)
    assert [list(row) for row in out["predicted"]] == [list(row) for row in evaluated[0]["predicted"]]
    assert np.isfinite(np.concatenate(out["probability"].to_list())).all()
    assert out["num_truncated_words"].sum() == 0
    assert result.notes == []


@pytest.mark.slow
def test_words_that_are_cut_off_are_counted_in_notes_and_output(long_run: Run, tmp_path: Path) -> None:
    given = {"export": str(long_run.export_folder), "data": long_run.settings.data.test, "output": str(tmp_path / "out.jsonl")}
    result = predict.fn(PredictSettings.model_validate({**given, "rows_per_shard": 3}))
    lengths = [5 * (1 + place % 4) for place in range(16)]
    expected = [max(length - 4, 0) for length in lengths]
    out = pd.read_json(result.output, lines=True)
    assert out["num_truncated_words"].tolist() == expected
    assert [note for note in result.notes if "longer than max_seq_len 6" in note] == result.notes
    assert (
        f"16 of 16 sentences are longer than max_seq_len 6: the model did not see {sum(expected)} of their" in result.notes[0]
    )
    assert "set stride" in result.notes[0]


@pytest.mark.slow
def test_tokens_of_texts_that_are_cut_off_are_counted(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("text\na fine film\n" + "film " * 20 + "\n", encoding="utf-8")
    given = {"export": str(text_run.export_folder), "data": str(data), "output": str(tmp_path / "out.parquet")}
    result = predict.fn(PredictSettings.model_validate(given))
    assert pd.read_parquet(result.output)["num_truncated_tokens"].tolist() == [0, 6]
    assert result.notes == [
        "1 of 2 texts are longer than max_seq_len 16: the model did not see 6 of their tokens (see num_truncated_tokens)"
    ]
    with pytest.raises(SettingsError, match="stride is for sequence_labelling"):
        predict.fn(PredictSettings.model_validate({**given, "stride": 2}))


def test_conll_files_are_predicted_as_they_are_read(long_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "new.conllu"
    columns = "\t_" * 8
    data.write_text(
        f"# sent_id = 1\n1-2\tgoodplot{columns}\n1\tgood{columns}\n2\tplot{columns}\n\n"
        f"# O\n1\t#{columns}\n2\tNew York{columns}\n",
        encoding="utf-8",
    )
    given = {"export": str(long_run.export_folder), "data": str(data), "output": str(tmp_path / "out.parquet")}
    result = predict.fn(PredictSettings.model_validate(given))
    out = pd.read_parquet(result.output)
    assert [list(tokens) for tokens in out["tokens"]] == [["good", "plot"], ["#", "New York"]]
    assert out["row"].tolist() == [3, 7]
    assert result.notes == ["skipped, as no rows: comment lines 2, multi-word tokens 1"]
    first = predict.fn(PredictSettings.model_validate({**given, "tokens_column": 0}))
    assert any("set tokens_column" in note for note in first.notes)


def test_tags_of_an_older_export_that_cannot_be_told_leave_the_predictions_without_metrics(
    long_run: Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(long_run.export_folder, tmp_path / "export")
    labels = LabelMap(labels=("O", "B-PER", "S-ORG"))
    labels.save(copy / "label_map.json")
    facts = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))["facts"]
    seal(copy, "exports", {**facts, "label_map_sha256": labels.sha256})
    data = tmp_path / "a.conll"
    data.write_text("good B-PER\nplot O\n", encoding="utf-8")
    result = predict.fn(PredictSettings(export=str(copy), data=str(data), output=str(tmp_path / "out.parquet")))
    assert (result.rows, result.metrics) == (1, {})
    assert "no metrics: the scheme of the tags is ambiguous: 'S-ORG'" in result.notes[0]


def test_a_label_list_names_the_tags_that_predictions_are_compared_with(long_run: Run, tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("O\nPER\nORG\n", encoding="utf-8")
    rows = pd.DataFrame({"tokens": [["good", "plot"], ["bad"]]})
    rows.assign(labels=[["PER", "O"], ["ORG"]]).to_parquet(tmp_path / "names.parquet")
    rows.assign(labels=[[1, 0], [2]]).to_parquet(tmp_path / "numbers.parquet")
    (tmp_path / "numbers.jsonl").write_text(
        '{"tokens": ["good", "plot"], "labels": [1.0, 0]}\n{"tokens": ["bad"], "labels": ["2 "]}\n', encoding="utf-8"
    )
    given = {"export": str(long_run.export_folder), "output": str(tmp_path / "out.parquet")}
    expected = predict.fn(PredictSettings.model_validate({**given, "data": str(tmp_path / "names.parquet")})).metrics
    assert expected
    for name in ("numbers.parquet", "numbers.jsonl"):
        data = {"data": str(tmp_path / name), "label_list": str(tmp_path / "tags.txt")}
        assert predict.fn(PredictSettings.model_validate({**given, **data})).metrics == expected
        assert pd.read_parquet(tmp_path / "out.parquet")["labels"].map(list).tolist() == [["PER", "O"], ["ORG"]]
