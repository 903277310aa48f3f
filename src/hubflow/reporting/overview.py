"""What a person reads first: how good the model is, since when it has changed, and what to look at. Must not import Paddle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubflow.data.page import finding_lines, part
from hubflow.reporting.previous import Since
from hubflow.schemas.evaluation import Interval, SplitDetails
from hubflow.schemas.metrics import LOWER_IS_BETTER
from hubflow.schemas.references import CheckpointRef

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
    metrics: Mapping[str, Mapping[str, float]], first: str, before: Since, details: Mapping[str, SplitDetails]
) -> list[MetricLine]:
    """Metrics as lines, `first` being the first of them.

    Args:
        metrics: by split and name.
        first: the metric that picked the weights.
        before: the last run.
        details: by split, what evaluate found beyond the metrics.
    """
    intervals = {split: details[split].intervals for split in metrics}
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    return [
        MetricLine(name, tuple(value(metrics, split, name, before, intervals[split].get(name)) for split in metrics))
        for name in sorted(names, key=lambda name: name != first)
    ]


def value(
    metrics: Mapping[str, Mapping[str, float]], split: str, name: str, before: Since, interval: Interval | None
) -> Value | None:
    """A metric, with its interval, and what it was before where that was measured on the same rows."""
    now = metrics[split].get(name)
    if now is None:
        return None
    last = (before.metrics or {}).get(split, {}).get(name) if (before.same_rows or {}).get(split) else None
    change = None if last is None else now - last
    return Value(now, change, change is not None and change != 0 and (change > 0) != (name in LOWER_IS_BETTER), interval)


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
