"""Tonight's data set against the last other one that was accepted from the same sources. Must not import Paddle or Prefect."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from hubflow.data.profile import SCALES, Histogram
from hubflow.schemas.drift import DriftLimits, DriftSettings
from hubflow.schemas.findings import Finding
from hubflow.schemas.references import Split

SMOOTHING = 0.5  # added to every count, as in Jeffreys' prior: a bin that one side lacks would make the index infinite
LEAST_SHARE = 0.05  # of both sides together that a bin of the index holds; neighbours are merged until they do
CHANCE = NormalDist().inv_cdf(0.999)
MAX_SHOWN = 5
Fraction = NDArray[np.float64]
Kind = Literal["psi", "labels", "rows"]


@dataclass(frozen=True)
class Measure:
    """One comparison: of a split's rows, of its label shares, or of one of its histograms.

    Attributes:
        split: the split.
        name: what is compared, as a person reads it.
        kind: name of its limits in `DriftSettings`.
        value: how far apart both are; None when one side has no rows at all.
        policy: what follows from it.
        bins: what the shares are of.
        previous: share of each bin in the last data set.
        current: share of each bin in this one.
        counts: rows of the split then and now.
    """

    split: Split
    name: str
    kind: Kind
    value: float | None
    policy: Literal["ok", "warn", "fail"]
    bins: tuple[str, ...]
    previous: tuple[float, ...]
    current: tuple[float, ...]
    counts: tuple[int, int]


def compare(previous: Mapping[str, Any], current: Mapping[str, Any], settings: DriftSettings) -> list[Finding]:
    """What two profiles differ in by more than the limits allow; the same profile twice gives nothing."""
    return [finding(measure, settings) for measure in measured(previous, current, settings) if measure.policy != "ok"]


def measured(previous: Mapping[str, Any], current: Mapping[str, Any], settings: DriftSettings) -> list[Measure]:
    """Every comparison of two profiles, as `hubflow.data.profile.Profiler.profile` gives them, whatever it comes to."""
    measures: list[Measure] = []
    before, now = previous["splits"], current["splits"]
    for name in dict.fromkeys([*before, *now]):
        split = cast(Split, name)
        then, here = before.get(split, _EMPTY), now.get(split, _EMPTY)
        counts = (int(then["rows"]), int(here["rows"]))
        measures.append(_rows(split, counts, settings.rows))
        if all(counts):
            measures += _distributions(split, then, here, counts, settings)
    return measures


def finding(measure: Measure, settings: DriftSettings) -> Finding:
    """A comparison beyond its limit, in words, with both distributions."""
    limits: DriftLimits = getattr(settings, measure.kind)
    limit = limits.fail if measure.policy == "fail" else limits.warn
    was, is_now = (f"{shown} rows" for shown in measure.counts)
    if measure.kind != "rows":
        chosen = _most_changed(measure)
        was, is_now = (_shown(measure.bins, shares, chosen) for shares in (measure.previous, measure.current))
    name = {"psi": "population stability index", "labels": "Jensen-Shannon distance", "rows": "ratio"}[measure.kind]
    value = "one side has no rows" if measure.value is None else f"{name} {measure.value:.2f}"
    return Finding(
        check=f"drift.{measure.kind}",
        policy="fail" if measure.policy == "fail" else "warn",
        splits=(measure.split,),
        count=measure.counts[1],
        message=f"{measure.split}, {measure.name}: expected about what the last data set had ({was}), found {is_now}; {value}, "
        f"limit {limit:g}; look at what is new, or raise data.checks.drift.{measure.kind}",
    )


def stability_index(previous: Fraction, current: Fraction) -> float:
    """Population stability index of two distributions over the same bins, without a zero (Siddiqi 2006)."""
    return float(((current - previous) * np.log(current / previous)).sum())


def shannon_distance(previous: Fraction, current: Fraction) -> float:
    """Jensen-Shannon distance, base 2, of two distributions over the same bins: 0..1 (Endres and Schindelin 2003)."""
    middle = (previous + current) / 2
    halves = [_divergence(share, middle) for share in (previous, current)]
    return math.sqrt(max(0.0, sum(halves) / 2))


def _divergence(shares: Fraction, reference: Fraction) -> float:
    present = shares > 0
    return float((shares[present] * np.log2(shares[present] / reference[present])).sum())


def by_chance(bins: int, counts: tuple[int, int]) -> float:
    """Index that two samples of one population stay below in 999 of 1000 cases.

    The index is about a chi-square of `bins` - 1 times 1/n + 1/m (Yurdakul and Naranjo, Journal of Risk Model Validation,
    2020); the quantile is that of Wilson and Hilferty (1931). Rows count, not tokens or characters: those of one row are alike.
    """
    freedom = max(bins - 1, 1)
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + CHANCE * math.sqrt(spread)) ** 3 * (1 / counts[0] + 1 / counts[1])


_EMPTY: dict[str, Any] = {"rows": 0, "labels": {}, "histograms": {}, "characters": {}}


def _rows(split: Split, counts: tuple[int, int], limits: DriftLimits) -> Measure:
    value = max(counts) / min(counts) if min(counts) else (None if max(counts) else 1.0)
    policy = _policy(math.inf if value is None else value, limits)
    return Measure(split, "rows", "rows", None if value is None else round(value, 4), policy, (), (), (), counts)


def _distributions(
    split: Split, then: Mapping[str, Any], here: Mapping[str, Any], counts: tuple[int, int], settings: DriftSettings
) -> list[Measure]:
    measures = []
    if then["labels"] and here["labels"]:
        labels = sorted({*then["labels"], *here["labels"]})
        pair = _pair(labels, then["labels"], here["labels"])
        # The distance squared, in nats, is about an eighth of what the index is.
        floor = math.sqrt(by_chance(len(labels), counts) / (8 * math.log(2)))
        value = shannon_distance(*(side / max(side.sum(), 1) for side in pair))
        measures.append(_measure(split, "labels", "labels", value, floor, settings.labels, labels, pair, counts))
    names = [name for name in here["histograms"] if name in then["histograms"]]
    tables = [
        (name, *_merged(Histogram.load(then["histograms"][name]), Histogram.load(here["histograms"][name]))) for name in names
    ]
    if then["characters"] and here["characters"]:
        classes = [name for name in here["characters"] if then["characters"].get(name) or here["characters"][name]]
        tables.append(("kinds of characters", classes, _pair(classes, then["characters"], here["characters"])))
    for name, bins, pair in tables:
        smooth = [(side + SMOOTHING) / (side + SMOOTHING).sum() for side in pair]
        floor = by_chance(len(bins), counts)
        measures.append(_measure(split, name, "psi", stability_index(*smooth), floor, settings.psi, bins, pair, counts))
    return measures


def _measure(
    split: Split,
    name: str,
    kind: Kind,
    value: float,
    floor: float,
    limits: DriftLimits,
    bins: Sequence[str],
    pair: tuple[Fraction, Fraction],
    counts: tuple[int, int],
) -> Measure:
    previous, current = (tuple(np.round(side / max(side.sum(), 1), 6).tolist()) for side in pair)
    policy = _policy(value, limits) if value > floor else "ok"
    return Measure(split, name, kind, round(value, 4), policy, tuple(bins), previous, current, counts)


def _policy(value: float, limits: DriftLimits) -> Literal["ok", "warn", "fail"]:
    if limits.fail is not None and value >= limits.fail:
        return "fail"
    return "warn" if limits.warn is not None and value >= limits.warn else "ok"


def _pair(names: Iterable[str], *sides: Mapping[str, int]) -> tuple[Fraction, Fraction]:
    wanted = list(names)
    previous, current = (np.array([side.get(name, 0) for name in wanted], float) for side in sides)
    return previous, current


def _merged(previous: Histogram, current: Histogram) -> tuple[list[str], tuple[Fraction, Fraction]]:
    """Bins of both, neighbours merged until each holds LEAST_SHARE of both together: few rows in a bin make a noisy index."""
    together = previous.counts / max(previous.counts.sum(), 1) + current.counts / max(current.counts.sum(), 1)
    ends, held = [], 0.0
    for place, share in enumerate(together / 2):
        held += share
        if held >= LEAST_SHARE:
            ends.append(place + 1)
            held = 0.0
    used = int(np.flatnonzero(together)[-1]) + 1 if together.any() else 1
    cuts = [0, *ends[:-1], used] if ends else [0, used]  # what is left over joins the last bin
    sides = (np.add.reduceat(previous.counts[:used], cuts[:-1]), np.add.reduceat(current.counts[:used], cuts[:-1]))
    return _names(previous.scale, cuts), (sides[0].astype(float), sides[1].astype(float))


def _names(scale: str, cuts: list[int]) -> list[str]:
    edges = [*SCALES[scale].tolist(), math.inf]
    if scale == "unit":
        return [f"{edges[start]:.2f}–{min(edges[end], 1.0):.2f}" for start, end in itertools.pairwise(cuts)]
    spans = [(int(edges[start]), edges[end]) for start, end in itertools.pairwise(cuts)]
    ends = [None if math.isinf(end) else math.ceil(end) - 1 for _, end in spans]
    return [
        f"{low}+" if high is None else f"{low}–{high}" if high > low else f"{low}"
        for (low, _), high in zip(spans, ends, strict=True)
    ]


def _most_changed(measure: Measure) -> list[int]:
    changes = np.abs(np.array(measure.current) - np.array(measure.previous))
    return sorted(np.argsort(-changes, kind="stable")[:MAX_SHOWN].tolist())


def _shown(bins: Sequence[str], shares: Sequence[float], chosen: Sequence[int]) -> str:
    text = ", ".join(f"{bins[place][:30]} {shares[place]:.1%}" for place in chosen)
    return text if len(chosen) == len(bins) else f"{text}, …"


def as_report(measures: Iterable[Measure]) -> list[dict[str, Any]]:
    """Comparisons as JSON has them, for the data report."""
    return [asdict(measure) for measure in measures]
