"""Details: scores by label, calibration and mistakes are those of the rows, and many labels keep them small."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seqeval.metrics
import sklearn.metrics
from evaluated_splits import classes, sentences, tags_of
from seqeval.scheme import IOB2

from hubflow.errors import StoreError
from hubflow.evaluation.details import split_details
from hubflow.evaluation.folder import keep_split, load_details, write_details
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.settings import EvaluateSettings


def test_scores_of_each_label_are_scikit_learns(tmp_path: Path) -> None:
    evaluated = classes(tmp_path, 200, 5)
    streamed: Any = evaluated.metrics
    found = split_details(evaluated, EvaluateSettings())
    report: Any = sklearn.metrics.classification_report(streamed.labels, streamed.predicted, output_dict=True, zero_division=0)
    for place, (name, score) in enumerate(found.per_class.items()):
        assert name == f"label {place}"
        theirs = report[str(place)]
        assert [score.precision, score.recall, score.f1, score.support] == pytest.approx(
            [theirs["precision"], theirs["recall"], theirs["f1-score"], theirs["support"]]
        )
        area = sklearn.metrics.roc_auc_score(streamed.labels == place, streamed.scores[:, place])
        assert score.roc_auc == pytest.approx(area)
    assert found.averages["weighted"]["f1"] == pytest.approx(report["weighted avg"]["f1-score"])
    assert found.averages["micro"]["f1"] == pytest.approx(report["accuracy"])
    assert found.confusion.counts == sklearn.metrics.confusion_matrix(streamed.labels, streamed.predicted).tolist()
    assert found.top_k == {3: streamed.compute()["top_3_accuracy"]}
    assert found.calibration is not None
    assert found.calibration.ece == streamed.compute()["ece"]
    assert sum(one.count for one in found.calibration.bins) == 200


def test_scores_of_entities_are_seqevals_in_both_modes(tmp_path: Path) -> None:
    evaluated = sentences(tmp_path, 60)
    truth, predicted = tags_of(evaluated)
    found = split_details(evaluated, EvaluateSettings())
    assert found.scheme == "IOB2"
    for scores, mode in ((found, {}), (found.strict, {"mode": "strict", "scheme": IOB2})):
        assert scores is not None
        report = seqeval.metrics.classification_report(truth, predicted, output_dict=True, **mode)
        assert set(scores.per_class) == {"LOC", "PER"}
        for kind, score in scores.per_class.items():
            ours = [score.precision, score.recall, score.f1, score.support]
            assert ours == pytest.approx([report[kind][name] for name in ("precision", "recall", "f1-score", "support")])
        for mean in ("micro", "macro", "weighted"):
            theirs = {name.removesuffix("-score"): value for name, value in report[f"{mean} avg"].items() if name != "support"}
            assert scores.averages[mean] == pytest.approx(theirs)
    flat = [[tag for tags in rows for tag in tags] for rows in (truth, predicted)]
    assert found.per_tag is not None
    assert found.confusion.counts == sklearn.metrics.confusion_matrix(*flat, labels=list(found.per_tag)).tolist()


def test_the_worst_mistakes_are_the_wrong_rows_of_the_largest_loss(tmp_path: Path) -> None:
    evaluated = classes(tmp_path, 200)
    streamed: Any = evaluated.metrics
    worst = split_details(evaluated, EvaluateSettings(worst_mistakes=7)).worst
    wrong = np.flatnonzero(streamed.labels != streamed.predicted)
    expected = wrong[np.argsort(-streamed.losses[wrong])][:7]
    assert [one.position for one in worst] == expected.tolist()
    data = pd.read_parquet(evaluated.data)
    for one in worst:
        assert one.row == data["row"][one.position]
        assert one.content == {"text": data["text"][one.position]}
        assert one.label == data["label"][one.position] != one.predicted
    assert split_details(evaluated, EvaluateSettings(worst_mistakes=0)).worst == []


def test_sentences_among_the_mistakes_have_their_words_and_tags(tmp_path: Path) -> None:
    evaluated = sentences(tmp_path, 30)
    truth, predicted = tags_of(evaluated)
    for one in split_details(evaluated, EvaluateSettings()).worst:
        assert (one.label, one.predicted) == (truth[one.position], predicted[one.position])
        assert one.label != one.predicted
        assert len(one.content["tokens"]) == len(one.label)


@pytest.mark.slow
def test_ten_thousand_labels_are_told_in_a_small_file(tmp_path: Path) -> None:
    started = time.perf_counter()
    evaluated = classes(tmp_path, 3000, 10_000)
    assert evaluated.metrics.scores is None  # type: ignore[attr-defined]
    (tmp_path / "kept").mkdir()
    found, _ = keep_split(tmp_path / "kept", evaluated, EvaluateSettings(), {})
    write_details(tmp_path / "kept", {"test": found})
    assert (tmp_path / "kept" / "details.json").stat().st_size < 3_000_000
    assert found.confusion.counts is None
    wrong = pd.read_parquet(tmp_path / "kept" / "test.parquet").query("label != predicted")
    assert len(found.confusion.pairs) + found.confusion.left_out == len(wrong.groupby(["label", "predicted"]))
    assert len(found.per_class) == 10_000
    assert "10000 labels" in found.notes[0]
    assert "roc_auc" not in found.intervals
    assert time.perf_counter() - started < 60


def test_details_are_read_as_they_were_written_whatever_the_labels_hold(tmp_path: Path) -> None:
    one = split_details(classes(tmp_path, 20), EvaluateSettings())
    hostile = one.model_copy(update={"notes": ["\udc80 </script> \u202e"]})
    write_details(tmp_path, {"test": hostile})
    assert load_details(tmp_path) == {"test": hostile}
    json.loads((tmp_path / "details.json").read_text(encoding="utf-8"))
    (tmp_path / "details.json").unlink()
    with pytest.raises(StoreError, match="earlier version"):
        load_details(tmp_path)


def test_what_is_not_defined_is_left_out_and_told(tmp_path: Path) -> None:
    evaluated = classes(tmp_path, 3, 40)
    found: SplitDetails = split_details(evaluated, EvaluateSettings())
    assert found.notes[0].startswith("roc_auc is not defined of 3")
