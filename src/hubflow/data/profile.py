"""Profiles of data sets, and the comparison with the last accepted one from the same sources."""

import contextlib
import datetime
import functools
import itertools
import json
import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import compute

from hubflow.errors import StoreError
from hubflow.schemas.data_checks import DriftLimits, DriftSettings
from hubflow.schemas.references import Finding, RowKind, Split
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.store.store import Store, content_key

FORMAT_VERSION = 1
PIECE_BYTES = 4 << 20  # of text looked at in one go: what is made from it is a few times as large
CLASSES = ("letters", "digits", "punctuation", "white space", "CJK", "other")
SCALES: dict[str, NDArray[np.float64]] = {
    # Whole numbers up to 8, then four bins an octave, up to 64 M.
    "lengths": np.concatenate([np.arange(8.0), np.outer(2.0 ** np.arange(3, 26), [1, 1.25, 1.5, 1.75]).ravel()]),
    "unit": np.arange(32) / 32,
}
"""Lower edges of the bins of each scale; the last bin has no end."""
IMAGE_MEASURES = {"width": "lengths", "height": "lengths", "mean_r": "unit", "mean_g": "unit", "mean_b": "unit"}
"""Columns of an image frame that are profiled when they are there: pixels, and channel means in 0..1."""
_IMAGE_NAMES = {"width": "width", "height": "height", "mean_r": "mean red", "mean_g": "mean green", "mean_b": "mean blue"}
_CJK = ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3021, 0x302A), (0x3031, 0x3190), (0x31A0, 0x31C0), (0x31F0, 0x3200))
_CJK_BLOCKS = (*_CJK, (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0x20000, 0x32000))
_LAST_ASSIGNED = 0x32000  # beyond the ideographs of plane 3 there are tags and private characters only
_ASCII = bytes(range(128))


@dataclass
class Histogram:
    """Counts of values between the fixed lower edges of a scale; two of one scale are merged by adding."""

    scale: str
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.counts):
            self.counts = np.zeros(len(SCALES[self.scale]), np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count values."""
        places = np.searchsorted(SCALES[self.scale], values, side="right") - 1
        self.counts += np.bincount(np.maximum(places, 0), minlength=len(self.counts))

    def dump(self) -> dict[str, Any]:
        """The scale's name and the counts, without the empty ones at the end."""
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 0
        return {"scale": self.scale, "counts": self.counts[:used].tolist()}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> "Histogram":
        """What `dump` gave."""
        counts = np.zeros(len(SCALES[dumped["scale"]]), np.int64)
        counts[: len(dumped["counts"])] = dumped["counts"]
        return cls(dumped["scale"], counts)

    def quantile(self, share: float) -> float:
        """Lower edge of the bin below whose end `share` of the values lie; 0 without values."""
        total = self.counts.sum()
        position = int(np.searchsorted(np.cumsum(self.counts), share * total)) if total else 0
        return float(SCALES[self.scale][min(position, len(self.counts) - 1)])


@dataclass
class _SplitProfile:
    """What is counted of one split."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    characters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CLASSES), np.int64))

    def measure(self, name: str, scale: str, values: NDArray[Any]) -> None:
        self.histograms.setdefault(name, Histogram(scale)).add(values)

    def dump(self) -> dict[str, Any]:
        has_text = bool(self.characters.any())
        return {
            "rows": self.rows,
            "labels": dict(sorted(self.labels.items())),
            "histograms": {name: histogram.dump() for name, histogram in self.histograms.items()},
            "characters": dict(zip(CLASSES, self.characters.tolist(), strict=True)) if has_text else {},
        }


class Profiler:
    """An `Observer` that finds nothing, and counts what the next run is compared with.

    Args:
        kind: of the rows.
    """

    def __init__(self, kind: RowKind) -> None:
        self.kind = kind
        self._splits: dict[Split, _SplitProfile] = {}

    def add(self, split: Split, rows: pd.DataFrame) -> None:
        """Count a chunk of the rows of `split`; their order does not matter."""
        counted = self._splits.setdefault(split, _SplitProfile())
        counted.rows += len(rows)
        if self.kind == "tokens":
            self._add_tokens(counted, rows)
        else:
            for column in ("text", "text_pair") if self.kind == "text_pair" else ("text",) if self.kind == "text" else ():
                _add_texts(counted, rows[column], column)
            if "label" in rows:
                _count_labels(counted, _strings(rows["label"]))
        if self.kind == "image":
            _add_images(counted, rows)

    def findings(self) -> list[Finding]:
        """None: whether a profile is as it should be shows beside another one, in `hubflow.data.profile`."""
        return []

    def profile(self) -> dict[str, Any]:
        """What was counted, as JSON has it: by split `rows`, `labels`, `histograms` by name, and `characters` by kind."""
        splits = {split: counted.dump() for split, counted in self._splits.items()}
        return {"format_version": FORMAT_VERSION, "kind": self.kind, "splits": splits}

    def _add_tokens(self, counted: _SplitProfile, rows: pd.DataFrame) -> None:
        tokens = arrow.array(rows["tokens"], type=arrow.large_list(arrow.large_string()))
        counted.measure("tokens", "lengths", compute.list_value_length(tokens).to_numpy(zero_copy_only=False))
        for data, _ in _pieces(tokens.flatten()):
            counted.characters += _classes(data)
        if "labels" in rows:
            _count_labels(counted, arrow.array(rows["labels"], type=arrow.large_list(arrow.large_string())).flatten())


def image_profile(frames: Mapping[Split, pd.DataFrame]) -> dict[str, Any]:
    """Profile of images from a frame by split with `IMAGE_MEASURES`, a line for each image, and `label` where there is one."""
    profiler = Profiler("image")
    for split, frame in frames.items():
        profiler.add(split, frame)
    return profiler.profile()


def _add_images(counted: _SplitProfile, rows: pd.DataFrame) -> None:
    for name, scale in IMAGE_MEASURES.items():
        if name in rows:
            counted.measure(_IMAGE_NAMES[name], scale, rows[name].to_numpy(float))


def _add_texts(counted: _SplitProfile, values: "pd.Series[str]", name: str) -> None:
    texts = _strings(values)
    counted.measure(f"{name}, characters", "lengths", compute.utf8_length(texts).to_numpy(zero_copy_only=False))
    for data, offsets in _pieces(texts):
        counted.measure(f"{name}, words", "lengths", _words(data, offsets))
        counted.characters += _classes(data)


def _count_labels(counted: _SplitProfile, labels: arrow.Array) -> None:
    for pair in compute.value_counts(labels.drop_null()).to_pylist():
        counted.labels[pair["values"]] += pair["counts"]


def _strings(values: "pd.Series[Any]") -> arrow.Array:
    strings = arrow.array(values, type=arrow.large_string())
    whole = strings.combine_chunks() if isinstance(strings, arrow.ChunkedArray) else strings
    return compute.fill_null(whole, "")


def _pieces(texts: arrow.Array) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Texts as UTF-8 bytes, and where each begins and the last ends, at most about PIECE_BYTES at a time."""
    if not len(texts):
        return
    _, places, content = texts.buffers()
    offsets = np.frombuffer(places, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    start = 0
    while start < len(texts):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + PIECE_BYTES, side="right")) - 1)
        yield data[offsets[start] : offsets[end]], offsets[start : end + 1] - offsets[start]
        start = end


def _words(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of bytes between blanks, of each text; scripts without blanks have one word a text, or a sentence."""
    blank = data <= ord(" ")
    starts = ~blank
    starts[1:] &= blank[:-1]
    begins = offsets[:-1][offsets[:-1] < len(data)]
    starts[begins] = ~blank[begins]
    words: NDArray[np.int64] = np.diff(np.searchsorted(np.flatnonzero(starts), offsets))
    return words


def _classes(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many characters of UTF-8 `data` are of each of CLASSES."""
    table, content = _class_table(), data.tobytes()
    counts = _counts(np.frombuffer(content.translate(table[:256].tobytes()), np.uint8))
    further = content.translate(None, _ASCII)  # what is left of UTF-8 without its ASCII is UTF-8 again
    if further:
        # The table of bytes took each of these for the character of its number.
        counts -= _counts(np.frombuffer(further.translate(table[:256].tobytes()), np.uint8))
        counts += _counts(table[np.frombuffer(further.decode("utf-8").encode("utf-32-le"), np.uint32)])
    return counts


def _counts(classes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(classes == one) for one in range(len(CLASSES))], np.int64)


@functools.cache
def _class_table() -> NDArray[np.uint8]:
    """Index into CLASSES of every code point, by its Unicode category and the blocks of Chinese, Japanese and Korean."""
    kinds = {"L": 0, "M": 0, "N": 1, "P": 2, "Z": 3}
    table = np.full(0x110000, CLASSES.index("other"), np.uint8)
    categories = (unicodedata.category(chr(point))[0] for point in range(_LAST_ASSIGNED))
    table[:_LAST_ASSIGNED] = np.fromiter((kinds.get(category, 5) for category in categories), np.uint8, _LAST_ASSIGNED)
    table[[9, 10, 11, 12, 13]] = CLASSES.index("white space")
    for start, end in _CJK_BLOCKS:
        block = table[start:end]
        block[block != CLASSES.index("punctuation")] = CLASSES.index("CJK")
    return table


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
    from scipy.spatial.distance import jensenshannon

    with np.errstate(invalid="ignore"):
        distance = float(jensenshannon(previous, current, base=2))
    return 0.0 if math.isnan(distance) else distance  # rounding makes the square of nearly equal ones negative


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
    for position, share in enumerate(together / 2):
        held += share
        if held >= LEAST_SHARE:
            ends.append(position + 1)
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
    text = ", ".join(f"{bins[position][:30]} {shares[position]:.1%}" for position in chosen)
    return text if len(chosen) == len(bins) else f"{text}, …"


def as_report(measures: Iterable[Measure]) -> list[dict[str, Any]]:
    """Comparisons as JSON has them, for the data report."""
    return [asdict(measure) for measure in measures]


FOLDER = "profiles"
KEPT = 30
STAMP = "%Y%m%dT%H%M%S.%f"
NOTHING = "There was nothing to compare with: it is the first data set of this series."
ONLY_THIS = "There was nothing to compare with: this series holds no other content than this."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A profile of the store: of which content, and when it was accepted."""

    path: str
    key: str
    content: str
    created: str
    profile: dict[str, Any]


def series_of(
    spec: DatasetSpec, task: TaskName, settings: DriftSettings, named: str | None = None, run: str | None = None
) -> str:
    """Name of the series of data sets that one belongs to: the same for tonight's rows as for last night's.

    It is made from the task, the name of the run, the sources' places and the columns; not from the rows. `named` takes the
    place of the places, for rows that come from no file. `settings.series` takes the place of all but the task, so that runs
    of several names can share a series.
    """
    if settings.series is not None:
        return content_key("profiles", task, settings.series)
    by_run = () if run is None else ("run", run)
    if named is not None:
        return content_key("profiles", task, "rows at hand", named, *by_run)
    places = [None if path is None else os.path.abspath(Path(path).expanduser()) for path in (spec.train, spec.dev, spec.test)]
    columns = (spec.text_column, spec.text_pair_column, spec.label_column, spec.tokens_column)
    return content_key("profiles", task, spec.format, places, columns, *by_run)


def against_last(
    store: Store, series: str, content: str, profile: Mapping[str, Any], settings: DriftSettings
) -> tuple[list[Finding], dict[str, Any]]:
    """Compare a profile with the latest one of other content in its series.

    Args:
        store: the store.
        series: as `series_of` gives it.
        content: hash of the rows' sources: a rerun on the same content is not compared with itself.
        profile: as `Profiler.profile` gives it.
        settings: limits.

    Returns:
        The findings, and the part "drift" of the data report: `note`, `compared_with` (created and key; None when there was
        nothing to compare with) and `measures`.
    """
    kept = _read(store, series)
    last = next((one for one in reversed(kept) if one.content != content), None)
    if last is None:
        return [], {"note": ONLY_THIS if kept else NOTHING, "compared_with": None, "measures": []}
    measures = measured(last.profile, profile, settings)
    findings = [finding(measure, settings) for measure in measures if measure.policy != "ok"]
    note = f"Compared with the data set {last.key} of {last.created}."
    report = {"note": note, "compared_with": {"key": last.key, "created": last.created}, "measures": as_report(measures)}
    return findings, report


def write_profile(
    store: Store, series: str, key: str, content: str, profile: Mapping[str, Any], holds: Iterable[Path] = ()
) -> str:
    """Keep the profile of an accepted data set; of one content the latest, and of a series the last KEPT.

    It has the names of labels and counts of values: those who may not read one of `holds`, the data, may not read it.

    Raises:
        StoreError: when it cannot be written; those that are there are unharmed.
    """
    now = datetime.datetime.now(datetime.UTC)
    known = {"created": f"{now:%Y-%m-%d %H:%M:%S} UTC", "key": key, "content": content, "profile": dict(profile)}
    path = f"{FOLDER}/{series}/{_after_all(store.names(f'{FOLDER}/{series}'), now):{STAMP}}-{key}.json"
    store.write_bytes(path, json.dumps(known, ensure_ascii=True).encode(), holds)
    others = [one for one in _read(store, series) if one.path != path]
    same = [one.path for one in others if one.content == content]
    rest = [one.path for one in others if one.content != content]
    for old in (*same, *rest[: max(0, len(rest) + 1 - KEPT)]):
        store.discard(old)
    return path


def forget_profile(store: Store, series: str, key: str) -> None:
    """Take back the profile of a data set that was refused later on: the next one is not to be compared with it."""
    for name in store.names(f"{FOLDER}/{series}"):
        if name.endswith(f"-{key}.json"):
            store.discard(f"{FOLDER}/{series}/{name}")


def _after_all(names: list[str], now: datetime.datetime) -> datetime.datetime:
    """Now; where the clock was set back, the first moment after all that the names of profiles begin with."""
    for name in reversed(names):
        with contextlib.suppress(ValueError):
            newest = datetime.datetime.strptime(name.partition("-")[0], STAMP).replace(tzinfo=datetime.UTC)
            return max(now, newest + datetime.timedelta(microseconds=1))
    return now


def _read(store: Store, series: str) -> list[Kept]:
    """Profiles of a series, the oldest first; those that are damaged, or of another format, are left out with a word."""
    kept = []
    for name in store.names(f"{FOLDER}/{series}"):
        path = f"{FOLDER}/{series}/{name}"
        if not name.endswith(".json"):
            continue
        try:
            content = store.read_bytes(path)
            if content is None:  # another run may be tidying up
                continue
            values = json.loads(content)
            one = Kept(path, str(values["key"]), str(values["content"]), str(values["created"]), dict(values["profile"]))
            version = one.profile["format_version"]
        except (StoreError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: no readable profile (%s); the data is not compared with it", store.display_path(path), error)
            continue
        if version == FORMAT_VERSION:
            kept.append(one)
    return kept
