"""A task type that lives here: labels in an order, from its name in the settings through the nightly flow, gate and report."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import run_stages
from small_modules import make_tiny_bert

from hubflow.errors import SettingsError
from hubflow.evaluation.folder import read_details
from hubflow.flows.nightly import nightly
from hubflow.hub import Predictor, Task, create_text_cls_task
from hubflow.metrics.classification import ClassificationMetrics
from hubflow.metrics.streaming import MetricOptions
from hubflow.runtime.paddle_import import functional as F
from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.deployment import NightlySettings, Verdict
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import EvaluationRef
from hubflow.schemas.tasks import MetricRange, ScoreSection, find_task_type
from hubflow.store.store import Store
from hubflow.tasks.text_classification import TextClassification

STARS = ("1 star", "2 stars", "3 stars", "4 stars")
WORDS = ("awful", "poor", "good", "superb", "a", "film", "of", "the", "year", "plot")
TASK = f"{Path(__file__).stem}:OrderedLabels"
DISTANCE = "mean_absolute_error"


class OrderedLabels(TextClassification):
    """Texts with labels in an order: a label that is further away is more wrong."""

    metrics: Mapping[str, MetricRange] = {
        **TextClassification.metrics,
        DISTANCE: MetricRange(0.0, float("inf"), lower_is_better=True),
    }
    gated_metrics = (*TextClassification.gated_metrics, DISTANCE)

    def default_best_metric(self, labels: Sequence[str] | None) -> str:
        return DISTANCE

    def build_head(self, graph: Any, spec: Any) -> Task:
        """Cross-entropy with soft labels, which fall off with the distance (Diaz and Marathe, CVPR 2019)."""
        feature = graph.output("pooled_output", spec.task)
        task = create_text_cls_task(feature, spec.num_classes, spec.hidden_units, dropout=spec.head_dropout)
        labels = np.arange(spec.num_classes)
        closeness = np.exp(-np.abs(labels[:, None] - labels[None, :]).astype(np.float32))
        variables = {name: task.variable(name) for name in ("accuracy", "label", "logits", "probs", "num_examples")}
        with paddle.static.program_guard(task.main_program(), task.startup_program()):
            label = variables["label"].reshape([-1])
            is_counted = label >= 0
            known = paddle.where(is_counted, label, paddle.zeros_like(label))
            targets = paddle.gather(paddle.to_tensor(closeness / closeness.sum(1, keepdims=True)), known)
            losses = -(targets * F.log_softmax(variables["logits"])).sum(-1) * is_counted.astype("float32")
            loss = losses.sum() / paddle.clip(variables["num_examples"], min=1.0)
        return Task(
            "text_classification", {"loss": loss, "losses": losses, **variables}, task.main_program(), task.startup_program()
        )

    def streaming_metrics(
        self, labels: Any, label_map: LabelMap, options: MetricOptions, others: Sequence[str] = ()
    ) -> "OrderedMetrics":
        return OrderedMetrics(labels, label_map.num_classes, options)

    def score_sections(self, details: SplitDetails) -> list[ScoreSection]:
        return [section._replace(title="By number of stars") for section in super().score_sections(details)]


class OrderedMetrics(ClassificationMetrics):
    """The metrics of a classification, and the mean distance between the true and the predicted label."""

    def compute(self) -> dict[str, float]:
        return {**super().compute(), DISTANCE: float(self.distances(self.rows).mean())}

    def statistics(self, resamples: int, rows: Any = None, metric: str | None = None) -> Any:
        others = super().statistics(resamples, rows, None if metric == DISTANCE else metric)
        return OrderedStatistics(others, self.distances(self.rows if rows is None else rows))

    def distances(self, rows: Any) -> Any:
        return np.abs(self.labels[rows] - self.predicted[rows])


class OrderedStatistics:
    """The statistics of a classification, and the mean distance for weights of rows."""

    def __init__(self, others: Any, distances: Any) -> None:
        self._others, self._distances = others, distances
        self.width, self.notes = others.width, others.notes

    def __call__(self, weights: Any) -> dict[str, Any]:
        return {**self._others(weights), DISTANCE: weights @ self._distances / weights.sum(1)}


def settings(folder: Path, **more: Any) -> NightlySettings:
    """Settings of a night on made-up reviews, whose number of stars a word tells."""
    train = {"epochs": 8, "batch_size": 8, "learning_rate": 5e-3, **more.pop("train", {})}
    given = {
        "name": "stars",
        "task": TASK,
        "module": {"name": str(folder / "module"), "max_seq_len": 12},
        "data": {"format": "csv", "train": str(folder / "reviews.csv"), "dev_fraction": 0.2, "test_fraction": 0.3},
        "train": train,
        "store": str(folder / "store"),
        "device": "cpu",
        "gate": {"min_value": 1.5},
        "evaluate": {"slices": {"length": False}},
        **more,
    }
    return NightlySettings.model_validate(given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stars")
    make_tiny_bert(folder / "module", WORDS)
    generator = np.random.default_rng(3)
    stars = generator.integers(0, len(STARS), 160)
    fill = [" ".join(generator.choice(WORDS[4:], 4)) for _ in stars]
    texts = [f"{words} {WORDS[star]} {number}" for number, (star, words) in enumerate(zip(stars, fill, strict=True))]
    pd.DataFrame({"text": texts, "label": [STARS[star] for star in stars]}).to_csv(folder / "reviews.csv", index=False)
    return folder


@pytest.mark.soak
def test_an_own_task_type_goes_through_two_nights_by_its_name_in_the_settings_alone(folder: Path) -> None:
    first = nightly(settings(folder))
    assert first.outcome == "promoted", first.reason
    better = nightly(settings(folder, train={"learning_rate": 6e-3}, gate={"min_gain": -4.0, "min_value": 3.0}))
    assert better.outcome == "promoted", better.reason
    store = Store(folder / "store")
    verdict = Verdict.model_validate_json((store.root / str(better.verdict) / "verdict.json").read_text())
    assert verdict.metric == DISTANCE
    assert verdict.deployed_value is not None
    assert verdict.difference == pytest.approx(verdict.deployed_value - verdict.candidate_value), "smaller is better"
    assert verdict.interval is not None
    assert verdict.interval[0] <= verdict.difference <= verdict.interval[1]
    assert f"{DISTANCE} {verdict.candidate_value:.4f}, at most 3 asked for" in {rule.text for rule in verdict.rules}

    page = Path(str(better.report)).read_text(encoding="utf-8")
    assert "By number of stars" in page
    assert DISTANCE.replace("_", " ") in page.replace("_", " ").replace("<wbr>", "")

    export = store.root / str(better.candidate)
    predictor = Predictor.load(export)
    assert predictor.task == "text_classification", "an export names no code of a user's own"
    predicted = predictor.predict([f"a film of the year {word} 7" for word in WORDS[:4]])
    reviews = pd.read_csv(folder / "reviews.csv")
    found = np.array([STARS.index(one.label) for one in predictor.predict(reviews["text"].tolist())])
    truth = reviews["label"].map(STARS.index).to_numpy()
    assert np.abs(found - truth).mean() < np.abs(np.median(truth) - truth).mean(), "it has learnt something"
    assert len(predicted) == len(STARS)


@pytest.mark.soak
def test_the_checkpoint_that_is_nearest_on_dev_is_the_best_and_its_details_are_kept(folder: Path) -> None:
    store = Store(folder / "store")
    (export, *_) = [folder for folder in (store.root / "exports").iterdir() if folder.is_dir()]
    facts = store.load("exports", export.name).facts
    assert (facts["task"], facts["prediction"], facts["training"]["best_metric"]) == (TASK, "text_classification", DISTANCE)
    for path in (store.root / "checkpoints").iterdir():
        evaluations = pd.read_parquet(path / "evaluations.parquet")
        assert store.load("checkpoints", path.name).facts["best_value"] == evaluations[DISTANCE].min()
    for path in (store.root / "evaluations").iterdir():
        artifact = store.load("evaluations", path.name)
        if "checkpoint" in artifact.facts:
            reference = EvaluationRef.model_construct(path=artifact.path, sha256=artifact.sha256)  # type: ignore[call-arg]
            for split, details in read_details(store, reference).items():
                interval = details.intervals[DISTANCE]
                assert interval.low <= artifact.facts["metrics"][split][DISTANCE] <= interval.high


def test_what_does_not_fit_an_own_task_type_is_said_before_anything_is_done(folder: Path) -> None:
    odd = settings(folder).model_copy(update={"name": "odd"})
    wrong = odd.model_copy(update={"train": odd.train.model_copy(update={"best_metric": "f1"})})
    with pytest.raises(SettingsError, match=r"train.best_metric 'f1' is not measured for .*; use one of loss, .*mean_absolute"):
        wrong.require_fitting_task()
    lines = odd.model_copy(update={"data": odd.data.model_copy(update={"format": "conll"})})
    with pytest.raises(SettingsError, match=r"data.format 'conll' holds no rows for .*OrderedLabels; use one of csv, "):
        nightly(lines)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_package:Task", "no_such_package cannot be imported"),
        (f"{Path(__file__).stem}:STARS", "is no class"),
        (f"{Path(__file__).stem}:OrderedStatistics", "cannot be made without arguments"),
        (f"{Path(__file__).stem}:Nothing", "lacks averages_over_tokens, build_head"),
        ("ordinal", "is not known; use one of image_classification"),
    ],
)
def test_what_is_no_task_type_is_named_with_what_it_lacks(name: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        find_task_type(name)


class Nothing:
    """A class that is no task type."""


class NotNamed(OrderedLabels):
    """Computes a metric that it does not name."""

    metrics: Mapping[str, MetricRange] = TextClassification.metrics
    gated_metrics = TextClassification.gated_metrics

    def default_best_metric(self, labels: Sequence[str] | None) -> str:
        return "accuracy"


class NotComputed(OrderedLabels):
    """Names a metric that it does not compute."""

    def streaming_metrics(self, labels: Any, label_map: Any, options: Any, others: Any = ()) -> Any:
        return TextClassification().streaming_metrics(labels, label_map, options, others)


class NotDrawn(OrderedLabels):
    """Has a metric for the gate that is not computed of rows drawn again."""

    def streaming_metrics(self, labels: Any, label_map: Any, options: Any, others: Any = ()) -> Any:
        made: Any = super().streaming_metrics(labels, label_map, options, others)
        made.statistics = functools.partial(ClassificationMetrics.statistics, made)
        return made


class NoBest(OrderedLabels):
    """Picks the best weights by a metric that is none."""

    def default_best_metric(self, labels: Sequence[str] | None) -> str:
        return "distance"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NotNamed", "'mean_absolute_error' is computed, but is not in `metrics`"),
        (
            "NotComputed",
            "'mean_absolute_error' is in `metrics`, but `compute` of what `streaming_metrics` returns does not give it",
        ),
        ("NotDrawn", "'mean_absolute_error' is in `gated_metrics`, but `statistics` does not compute it"),
        ("NoBest", "default_best_metric gives 'distance', which is not in its `metrics`"),
    ],
)
def test_what_a_task_type_forgets_is_said_before_training(name: str, expected: str, folder: Path) -> None:
    given = settings(folder, name=f"forgets-{name}", task=f"{Path(__file__).stem}:{name}")
    with pytest.raises(SettingsError, match=re.escape(expected)):
        nightly(given)


def test_the_task_type_of_the_docs_is_trained_evaluated_and_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "task-types.md").read_text(encoding="utf-8")
    (code,) = re.findall(r'^```python title="ordered_labels.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    (tmp_path / "ordered_labels.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = run_stages(settings(folder, task="ordered_labels:OrderedLabels", store=str(tmp_path / "store")))
    assert run.checkpoint.best_metric == DISTANCE
    assert run.evaluation.metrics["test"][DISTANCE] < 1.0
    details = read_details(run.store, run.evaluation)["test"]
    assert details.intervals[DISTANCE].low <= run.evaluation.metrics["test"][DISTANCE] <= details.intervals[DISTANCE].high
    assert Predictor.load(run.export_folder).task == "text_classification"
