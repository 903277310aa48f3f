"""The report of a run: the context of its template, from what the stages left in the store."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hubflow.data.columns import to_frame
from hubflow.data.encoding_monitor import with_encoding
from hubflow.data.report import data_view, finding_lines, part, read_data_report
from hubflow.evaluation.folder import read_details
from hubflow.reporting.charts import training_charts
from hubflow.reporting.splits import SplitView, split_view, with_explanations
from hubflow.schemas.evaluation import Interval, SplitDetails
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, ExportRef, RowKind
from hubflow.schemas.settings import ReportSettings
from hubflow.schemas.tasks import find_task_type, is_lower_better
from hubflow.store.manifest import SealedFolder
from hubflow.store.store import Store

SUMMARY = "run.json"
RUNS = "runs"
MAX_CHANGES = 40
MAX_VALUE_CHARS = 120
UNCOMPARED = ("store", "name", "reuse")  # they change no result


@dataclass(frozen=True)
class Change:
    """One setting that is not what it was."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class Since:
    """What has changed since the last run of the same name.

    Attributes:
        created: when that run was reported.
        metrics: by split and name, value before.
        same_rows: whether a split holds the same rows as before, by split: only then are its metrics comparable.
        changes: of settings, at most MAX_CHANGES.
        more_changes: how many further ones there are.
        data_is_same: whether the rows of every split are the same.
        note: why there is nothing to compare with; empty when there is.
    """

    created: str = ""
    metrics: Mapping[str, Mapping[str, float]] | None = None
    same_rows: Mapping[str, bool] | None = None
    changes: tuple[Change, ...] = ()
    more_changes: int = 0
    data_is_same: bool = False
    note: str = ""


def last_run(store: Store, name: str, but: str = "") -> str | None:
    """Path of `run.json` of the last run called `name` that is not at the path `but`; None when there is none."""
    folders = [folder for folder in store.names(RUNS) if folder.partition("-")[2] == name and f"{RUNS}/{folder}" != but]
    paths = (f"{RUNS}/{folder}/{SUMMARY}" for folder in reversed(folders))
    return next((path for path in paths if store.read_bytes(path) is not None), None)


def since(store: Store, summary: Mapping[str, Any], run_folder: str = "") -> Since:
    """What has changed since the last run of the same name.

    Args:
        store: the store.
        summary: of this run, as `run.json` has it: settings, metrics and the hash of each split's rows.
        run_folder: path of this run's folder, where an earlier try of it may have left its report.
    """
    path = last_run(store, summary["name"], run_folder)
    if path is None:
        return Since(note="This is the first run of this name in the store.")
    try:
        last = json.loads(store.read_bytes(path) or b"")
        metrics, hashes, settings = last["metrics"], last.get("split_sha256", {}), last["settings"]
        created = str(last.get("created") or path.split("/")[1].partition("-")[0])
        before, now = (dict(_flat(one)) for one in (settings, summary["settings"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Since(note=f"The last run's {store.display_path(path)} cannot be read ({type(error).__name__}: {error}).")
    changes = [
        Change(key, _brief(before, key), _brief(now, key))
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key) and key not in UNCOMPARED
    ]
    same = {split: hashes.get(split) == value for split, value in summary["split_sha256"].items()}
    is_same = all(same.values()) and hashes.keys() == same.keys()
    return Since(created, metrics, same, tuple(changes[:MAX_CHANGES]), max(0, len(changes) - MAX_CHANGES), is_same)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _brief(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "not there"
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


MAX_NOTICES = 12
MAX_NOTICE_CHARS = 160


@dataclass(frozen=True)
class Value:
    """A metric of one split.

    Attributes:
        value: of the metric.
        change: how much more it is than in the last run on the same rows; None when not comparable.
        is_better: whether it has changed for the better.
        interval: of confidence; None where evaluate found none.
    """

    value: float
    change: float | None
    is_better: bool
    interval: Interval | None


@dataclass(frozen=True)
class MetricLine:
    """One metric by split; a split that has no such metric has None."""

    name: str
    values: tuple[Value | None, ...]


@dataclass(frozen=True)
class Notice:
    """Something to look at: `anchor` is the section of the page that has more."""

    title: str
    text: str
    anchor: str
    is_grave: bool = False


def metric_lines(
    metrics: Mapping[str, Mapping[str, float]], first: str, before: Since, details: Mapping[str, SplitDetails], task: str
) -> list[MetricLine]:
    """Metrics as lines, `first` being the first of them.

    Args:
        metrics: by split and name.
        first: the metric that picked the weights.
        before: the last run.
        details: by split, what evaluate found beyond the metrics.
        task: name of the task type.
    """
    intervals = {split: details[split].intervals for split in metrics}
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    return [
        MetricLine(
            name,
            tuple(
                value(metrics, split, name, before, intervals[split].get(name), is_lower_better(task, name))
                for split in metrics
            ),
        )
        for name in sorted(names, key=lambda name: name != first)
    ]


def value(
    metrics: Mapping[str, Mapping[str, float]],
    split: str,
    name: str,
    before: Since,
    interval: Interval | None,
    lower_is_better: bool,
) -> Value | None:
    """A metric, with its interval, and what it was before where that was measured on the same rows."""
    now = metrics[split].get(name)
    if now is None:
        return None
    last = (before.metrics or {}).get(split, {}).get(name) if (before.same_rows or {}).get(split) else None
    change = None if last is None else now - last
    return Value(now, change, change is not None and change != 0 and (change > 0) != lower_is_better, interval)


def evaluated_split(metrics: Mapping[str, Mapping[str, float]]) -> str | None:
    """The split whose figures come first: test where there is one."""
    return next((split for split in ("test", "dev", *metrics) if split in metrics), None)


def notices(
    report: Mapping[str, Any], metrics: Mapping[str, Any], checkpoint: CheckpointRef, epochs: int
) -> tuple[list[Notice], int]:
    """What to look at, the gravest first, at most MAX_NOTICES, and how many more there are."""
    found = sorted([*_of_data(report), *_of_training(metrics, checkpoint, epochs)], key=lambda one: not one.is_grave)
    return found[:MAX_NOTICES], max(0, len(found) - MAX_NOTICES)


def _of_data(report: Mapping[str, Any]) -> Iterator[Notice]:
    for split, counts in part(report, "splits").items():
        if counts.get("rejected"):
            yield Notice("quarantined rows", f"{counts['rejected']} of {counts['read']} of {split}", "data", is_grave=True)
    by_check: dict[str, list[Mapping[str, Any]]] = {}
    for finding in finding_lines(report):
        if finding["policy"] != "ignore":
            by_check.setdefault(str(finding["check"]), []).append(finding)
    for check, findings in by_check.items():
        more = f"; and {len(findings) - 1} more" if len(findings) > 1 else ""
        text = f"{_cut(str(findings[0]['message']).partition('; ')[0])}{more}"
        yield Notice(check.replace("_", " "), text, "findings", any(one["policy"] == "fail" for one in findings))


def _of_training(metrics: Mapping[str, Any], checkpoint: CheckpointRef, epochs: int) -> Iterator[Notice]:
    if "test" not in metrics:
        yield Notice("no test split", "dev picked the weights, so its figures flatter them", "results")
    if checkpoint.best_value is None:
        yield Notice("no dev split", "the last weights were kept, not the best", "curves")
    elif epochs > 1 and checkpoint.best_epoch == epochs:
        yield Notice("still rising", f"the best epoch was the last of {epochs}: more may be better", "curves")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_NOTICE_CHARS else f"{text[:MAX_NOTICE_CHARS]}…"


VERIFICATION = "verification.json"
EXAMPLES: dict[RowKind, str] = {
    "text": '["a fine film", "a dull one"]',
    "text_pair": '[("a question", "an answer")]',
    "tokens": '[["John", "lives", "in", "Paris", "."]]',
    "image": '["one.png", "another.jpg"]',
}
"""What a predictor takes, by kind of rows."""


def run_view(
    store: Store,
    summary: Mapping[str, Any],
    settings: ReportSettings,
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    export: ExportRef,
    before: Since,
) -> dict[str, Any]:
    """What the template shows, but for time and timings.

    Args:
        store: the store.
        summary: of this run, as `run.json` has it.
        settings: what the report shows.
        evaluation: of the trained weights.
        encoded: the rows that they were trained and evaluated on.
        export: what was made of them.
        before: what has changed since the last run.

    Raises:
        ContractError: when the history breaks its contract.
        StoreError: when an artefact is missing or altered.
    """
    checkpoint, first = evaluation.checkpoint, evaluated_split(evaluation.metrics)
    metrics = {split: evaluation.metrics[split] for split in sorted(evaluation.metrics, key=lambda split: split != first)}
    report = _data_report(store, encoded)
    details = read_details(store, evaluation)
    trained, task = store.open(checkpoint), checkpoint.task
    found, more = notices(report, metrics, checkpoint, trained.facts["settings"]["epochs"])
    evaluated = store.open(evaluation).facts["settings"]
    exported = store.open(export).sealed
    return {
        "name": summary["name"],
        "task": task.task,
        "module": task.module.name,
        "confidence_of_slices": evaluated["bootstrap"]["confidence"],
        "splits": list(metrics),
        "metrics": metric_lines(metrics, checkpoint.best_metric, before, details, task.task),
        "confidence": next((one.confidence for one in details.values() if one.intervals), None),
        "since": before,
        "notices": found,
        "more_notices": more,
        "checkpoint": checkpoint,
        "dataset": encoded.dataset,
        "data": data_view(report),
        "charts": training_charts(trained.folder, checkpoint),
        "views": _views(store, settings, evaluation, encoded, exported.folder, {split: details[split] for split in metrics}),
        "label_count": encoded.dataset.num_classes,
        "example": EXAMPLES[encoded.dataset.rows_kind],
        "export_path": store.display_path(export.path),
        "verification": _verification(exported),
        "settings_json": json.dumps(summary["settings"], indent=1, ensure_ascii=False),
    }


def _views(
    store: Store,
    settings: ReportSettings,
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    exported: Path,
    details: Mapping[str, SplitDetails],
) -> list[SplitView]:
    evaluated, data = store.open(evaluation).folder, store.open(encoded.dataset).folder
    explained = settings.explained_mistakes
    best, task = evaluation.checkpoint.best_metric, find_task_type(evaluation.checkpoint.task.task)
    views = [
        split_view(
            to_frame(pq.read_table(evaluated / f"{split}.parquet")),
            one,
            evaluation.metrics[split],
            best,
            data / f"{split}.parquet",
            task,
        )
        for split, one in details.items()
    ]
    is_explained = task.explains_words and explained > 0 and any(view.mistakes for view in views[:1])
    return [
        with_explanations(view, exported if is_explained and not index else None, explained) for index, view in enumerate(views)
    ]


def _data_report(store: Store, encoded: EncodedRef) -> dict[str, Any]:
    """The reports that load_dataset and encode_dataset left, or what the references know."""
    dataset = store.open(encoded.dataset)
    report = read_data_report(store, dataset.folder.name) or dataset.facts["data_report"]
    return {"rows": encoded.dataset.rows, **with_encoding(report, store, store.open(encoded).folder.name)}


def _verification(export: SealedFolder) -> dict[str, str]:
    """What the export measured of itself, as names and values; nothing where it did not."""
    return dict(_lines(json.loads(export.read(VERIFICATION)))) if VERIFICATION in export.files else {}


def _lines(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, found in values.items():
        if isinstance(found, Mapping):
            lines += _lines(found, f"{prefix}{name} · ")
        else:
            lines.append((f"{prefix}{name}".replace("_", " "), f"{found:.6g}" if isinstance(found, float) else str(found)))
    return lines
