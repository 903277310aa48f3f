"""The rules of the gate, each with its threshold and the value that it is compared with."""

import json
from typing import Any

from hubflow.errors import StoreError, join_limited
from hubflow.evaluation.folder import read_details
from hubflow.schemas.deployment import GateSettings, Outcome, Rule
from hubflow.schemas.references import ExportEvaluationRef
from hubflow.store.manifest import SealedFolder
from hubflow.store.store import Store

VERIFICATION = "verification.json"
MEGABYTE = 10**6


def value_rule(settings: GateSettings, metric: str, value: float, lower_is_better: bool) -> list[Rule]:
    """The smallest value of the metric, or of one that is better when smaller the largest."""
    if settings.min_value is None:
        return []
    limit = settings.min_value
    kept = value <= limit if lower_is_better else value >= limit
    text = f"{metric} {value:.4f}, at {'most' if lower_is_better else 'least'} {limit:g} asked for"
    return [Rule(name="min_value", outcome=_outcome(kept), threshold=limit, value=value, text=text)]


def absolute_rules(settings: GateSettings, export: SealedFolder) -> list[Rule]:
    """Ceilings of latency and size, by what the export's verification measured.

    Raises:
        StoreError: when the verification cannot be read.
    """
    ceilings: list[tuple[str, float, str, tuple[str, ...], float]] = [
        (f"max_latency_ms.{rows}", limit, f"median latency of a batch of {rows} in ms", ("latency_ms", rows, "median"), 1.0)
        for rows, limit in settings.max_latency_ms.items()
    ]
    if settings.max_size_mb is not None:
        ceilings.append(("max_size_mb", settings.max_size_mb, "size in MB", ("size_bytes",), float(MEGABYTE)))
    verification = _verification(export) if ceilings else None
    return [_ceiling(name, limit, what, _within(verification, path), unit) for name, limit, what, path, unit in ceilings]


def gain_rule(
    settings: GateSettings,
    metric: str,
    difference: float | None,
    interval: tuple[float, float] | None,
    obstacle: str | None,
) -> list[Rule]:
    """By how much the candidate is better: the whole interval decides, or the outcome is inconclusive."""
    asked = settings.min_gain
    if difference is None or interval is None:
        text = (
            f"the deployed model cannot be evaluated on the same rows ({obstacle}); decide with `hubflow promote … --override`"
        )
        return [Rule(name="min_gain", outcome="inconclusive", threshold=asked, value=None, text=text)]
    low, high = interval
    outcome: Outcome = "passed" if low >= asked else "failed" if high < asked else "inconclusive"
    relation = {"passed": "at least", "failed": "below", "inconclusive": "not distinguishable from"}[outcome]
    text = (
        f"gain in {metric} {difference:+.4f} ({settings.confidence:.0%} interval {low:+.4f} to {high:+.4f}), "
        f"{relation} the {asked:+g} asked for"
    )
    return [Rule(name="min_gain", outcome=outcome, threshold=asked, value=difference, text=text)]


def class_rule(
    settings: GateSettings, store: Store, candidate: ExportEvaluationRef, deployed: ExportEvaluationRef | None
) -> list[Rule]:
    """What the labels, or types of entity, that both know lost of their F1 at most."""
    limit = settings.max_class_f1_drop
    if limit is None:
        return []
    if deployed is None:
        text = "what labels lost is not known: the deployed model cannot be evaluated on the same rows"
        return [Rule(name="max_class_f1_drop", outcome="inconclusive", threshold=limit, value=None, text=text)]
    ours, theirs = (read_details(store, one)[one.split].per_class for one in (candidate, deployed))
    lost = {name: theirs[name].f1 - ours[name].f1 for name in theirs if name in ours and theirs[name].support}
    worst = max(lost.values(), default=0.0)
    named = join_limited(
        f"{name} {-value:+.4f}" for name, value in sorted(lost.items(), key=lambda one: -one[1]) if value > limit
    )
    text = f"F1 of {named}, no label may lose more than {limit:g}" if named else f"no label lost more than {limit:g} of its F1"
    return [Rule(name="max_class_f1_drop", outcome=_outcome(worst <= limit), threshold=limit, value=worst, text=text)]


def _ceiling(name: str, limit: float, what: str, found: float | None, unit: float) -> Rule:
    if found is None:
        text = f"{what} is not known: the export has no {VERIFICATION} that says it; at most {limit:g} asked for"
        return Rule(name=name, outcome="inconclusive", threshold=limit, value=None, text=text)
    value = found / unit
    text = f"{what} {value:.4g}, at most {limit:g} asked for"
    return Rule(name=name, outcome=_outcome(value <= limit), threshold=limit, value=value, text=text)


def _verification(export: SealedFolder) -> Any:
    """What the verification holds; None of an export without one."""
    try:
        return json.loads(export.read(VERIFICATION)) if VERIFICATION in export.files else None
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{export.folder / VERIFICATION}: no readable verification ({error}); make the export again"
        ) from error


def _within(found: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _outcome(is_kept: bool) -> Outcome:
    return "passed" if is_kept else "failed"
