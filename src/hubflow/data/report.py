"""The data report: counts, first rejected rows and findings, as a document, tables and a page."""

import datetime
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hubflow.data.profile import SCALES, Histogram
from hubflow.data.quarantine import MALFORMED, TYPED, Sorted, as_quarantined
from hubflow.data.readers.chunks import Chunk
from hubflow.errors import StoreError
from hubflow.modules.images import CHANGES
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.frames import split_summary
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import Finding, Policy, Split
from hubflow.schemas.rows import MAX_EXAMPLES, RowModel, RowsError, rows_message
from hubflow.store.manifest import atomic_folder
from hubflow.store.store import Store

MAX_MALFORMED = 1_000
MAX_CELL_CHARS = 200
PAGES, REPORT = "data-reports", "report.json"
PAGE_WRITTEN = "the data was refused; its report is %s"
log = logging.getLogger(__name__)
Publish = Callable[[Mapping[str, Any]], None]


@dataclass
class SplitReport:
    """Counts of one source as it is read, with the first few rows that were quarantined."""

    source: str
    quarantine: str
    read: int = 0
    accepted: int = 0
    malformed: int = 0
    at_fault: int = 0
    checks: Counter[tuple[str, str]] = field(default_factory=Counter)
    coerced: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_examples: list[str] = field(default_factory=list)
    open_quotes: list[tuple[int, int]] = field(default_factory=list)
    quoted_columns: frozenset[str] | None = None
    doubled_quotes: Counter[str] = field(default_factory=Counter)
    first_rejected: list[dict[str, Any]] = field(default_factory=list)
    first_failures: dict[tuple[str, str], list[pd.Series]] = field(default_factory=dict)
    first_malformed: list[pd.DataFrame] = field(default_factory=list)
    warned: Counter[tuple[str, str]] = field(default_factory=Counter)
    first_warned: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Rows that were quarantined."""
        return self.malformed + self.at_fault

    def add(self, chunk: Chunk, found: Sorted) -> None:
        """Count one chunk."""
        self.read += len(chunk.rows) + len(chunk.malformed)
        self.accepted += len(found.accepted)
        self.malformed += len(chunk.malformed)
        self.at_fault += len(found.rejected)
        self.coerced.update(chunk.coerced)
        self.add_skipped(chunk)
        self.open_quotes += chunk.open_quotes
        if chunk.quoted_columns is not None and len(chunk.rows):
            so_far = self.quoted_columns
            self.quoted_columns = chunk.quoted_columns if so_far is None else chunk.quoted_columns & so_far
        self.doubled_quotes.update(chunk.doubled_quotes)
        self.coerced.update(found.coerced)
        self.checks.update((MALFORMED, str(check)) for check in chunk.malformed["check"])
        if len(chunk.malformed) and sum(map(len, self.first_malformed)) < MAX_MALFORMED:
            self.first_malformed.append(chunk.malformed.head(MAX_MALFORMED))
        for (column, check), faults in found.failures.groupby(["column", "check"], sort=False):
            self.checks[str(column), str(check)] += len(faults)
            kept = self.first_failures.setdefault((str(column), str(check)), [])
            kept += [faults.iloc[position] for position in range(min(len(faults), MAX_EXAMPLES - len(kept)))]
        for (column, check), faults in found.warned.groupby(["column", "check"], sort=False):
            self.warned[str(column), str(check)] += len(faults)
            examples = self.first_warned.setdefault((str(column), str(check)), [])
            first = faults.head(MAX_EXAMPLES - len(examples))
            examples += [f"row {row} ({_short(value)})" for row, value in zip(first["row"], first["value"], strict=True)]
        if len(self.first_rejected) < MAX_EXAMPLES and (len(found.rejected) or len(chunk.malformed)):
            few = as_quarantined(found.rejected.head(MAX_EXAMPLES), chunk.malformed.head(MAX_EXAMPLES)).drop(columns=TYPED)
            self.first_rejected += map(_brief, few.head(MAX_EXAMPLES - len(self.first_rejected)).to_dict("records"))

    def add_skipped(self, chunk: Chunk) -> None:
        """Count what a chunk left out."""
        self.skipped.update(chunk.skipped)
        self.skipped_examples += chunk.skipped_examples[: MAX_EXAMPLES - len(self.skipped_examples)]

    def _warnings(self, split: Split) -> list[Finding]:
        """What checks of a user's own contract that only warn (`raise_warning=True`) found in accepted rows."""
        return [
            Finding(
                check=f"contract: {check}",
                policy="warn",
                splits=(split,),
                count=count,
                message=f"{count} row(s) of {split} fail the check {check!r} of {column}, which only warns; they are kept",
                examples=tuple(self.first_warned[column, check]),
            )
            for (column, check), count in self.warned.items()
        ]

    def failures(self) -> pd.DataFrame:
        """The first few faults of each check."""
        return pd.DataFrame([row for rows in self.first_failures.values() for row in rows]).reset_index(drop=True)

    def fault(
        self, model: RowModel, label_map: LabelMap | None, texts: list[str], share: float, path: str, quarantine: Path
    ) -> RowsError:
        """The error that more rows break the contract than `share` of them.

        Args:
            model: the contract.
            label_map: what labels were held to.
            texts: of malformed lines.
            share: of the rows that may be quarantined.
            path: where they are, as a person finds them.
            quarantine: the same on this machine.
        """
        lines, failures = [], self.failures()
        if self.at_fault:
            lines.append(rows_message(failures, self.at_fault, model, self.source, label_map, self.checks))
        if self.malformed:
            lines += [f"{self.source}: {self.malformed} line(s) cannot be read", *(f"  - {text}" for text in texts)]
        lines.append(
            f"  {self.rejected} of {self.read} row(s) ({self.rejected / self.read:.2%}) are quarantined, with every check that "
            f"they failed, in {path}; max_invalid_fraction is {share}: correct them, or raise it to go on without them"
        )
        error = RowsError("\n".join(lines), failures)
        error.quarantine = quarantine
        return error

    def findings(self, split: Split, checks: DataChecks) -> list[Finding]:
        """What reading the source found; nothing for a check that is ignored."""
        found = []
        if self.open_quotes:
            swallowed = sum(last - first for first, last in self.open_quotes)
            examples = tuple(f"lines {first} to {last}" for first, last in self.open_quotes[:MAX_EXAMPLES])
            lines = swallowed + len(self.open_quotes)
            message = (
                f"{self.source}: {len(self.open_quotes)} quoted field(s) hold {lines} lines that look like rows; expected a "
                "row a line: close or double the quote, or set `quoting: false` when quotes are plain text"
            )
            found.append(_finding("open_quotes", checks.open_quotes, split, swallowed, message, examples))
        columns = sorted(self.quoted_columns or ())
        others = {name: count for name, count in self.doubled_quotes.items() if name not in columns}
        if columns or others:
            examples = (
                *(f"every field of {name!r}" for name in columns),
                *(f"{count} field(s) of {name!r}" for name, count in others.items()),
            )
            message = (
                f"{self.source}: fields keep the quotes that they are written in; expected them without: set `quoting: true` "
                "(or `quote` for another character), and write no space before a quote"
            )
            count = len(columns) * self.read + sum(others.values())
            found.append(_finding("kept_quotes", checks.kept_quotes, split, count, message, examples[:MAX_EXAMPLES]))
        if self.skipped_examples:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items())
            message = f"{split}: files in {self.source} are skipped: {reasons}; move or remove them, or mend what is wrong"
            skipped = sum(self.skipped.values())
            found.append(_finding(SKIPPED, checks.skipped_files, split, skipped, message, tuple(self.skipped_examples)))
        return [*(finding for finding in found if finding.policy != "ignore"), *self._warnings(split)]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and for a person."""
        return {
            "source": self.source,
            "read": self.read,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "malformed": self.malformed,
            "checks": {f"{column}: {check}": count for (column, check), count in self.checks.items()},
            "first_rejected": self.first_rejected,
            "quarantine": self.quarantine if self.rejected else None,
            "coerced": dict(self.coerced),
            "skipped": dict(self.skipped),
        }


@dataclass
class DataReport:
    """The report of a data set: each source, and what the observers of its rows found."""

    max_invalid_fraction: float
    splits: dict[Split, SplitReport] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def of_content(self) -> dict[str, Any]:
        """The part that is a function of the rows and the settings alone, and not of the data sets before."""
        whole = self.as_dict()
        findings = [one for one in whole["findings"] if one["check"].partition(".")[0] != DRIFT]
        return {**whole, "findings": findings, "facts": {name: fact for name, fact in self.facts.items() if name != DRIFT}}

    def as_dict(self, error: str | None = None) -> dict[str, Any]:
        """JSON-serialisable; `error` says why the stage failed.

        Returns:
            max_invalid_fraction, splits (by source: read, accepted, rejected, malformed, checks, first_rejected, quarantine
            relative to the store, coerced, skipped), findings, facts and error.
        """
        return {
            "max_invalid_fraction": self.max_invalid_fraction,
            "splits": {split: report.as_dict() for split, report in self.splits.items()},
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
            "facts": self.facts,
            "error": error,
        }


DRIFT, SKIPPED = "drift", "skipped_files"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_CELL_CHARS else f"{text[:MAX_CELL_CHARS]}…"


def _finding(check: str, policy: Policy, split: Split, count: int, message: str, examples: tuple[str, ...]) -> Finding:
    return Finding(check=check, policy=policy, splits=(split,), count=count, message=message, examples=examples)


def _brief(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(name): f"{value[:MAX_CELL_CHARS]}…" if isinstance(value, str) and len(value) > MAX_CELL_CHARS else value
        for name, value in row.items()
        if isinstance(value, list) or not pd.isna(value)
    }


MAX_LABELS = 30
MAX_CHARS = 300
MEASURES = {"psi": "population stability index", "labels": "Jensen-Shannon distance", "rows": "times as many"}
NOT_PROFILED = "This data set has no profile to compare."
_HEIGHT = 120
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Bar:
    """One bar, as SVG has it; `before` marks one of the data set that this one is compared with."""

    x: float
    y: float
    width: float
    height: float
    title: str
    before: bool = False


@dataclass(frozen=True)
class Chart:
    """A bar chart in a box of 600 by `height`, with the names of its first and last bin."""

    title: str
    note: str
    bars: tuple[Bar, ...]
    first: str
    last: str
    height: int = _HEIGHT


def environment() -> Environment:
    """Templates of pages: everything that is put in is escaped, and a name that is not there is an error."""
    return Environment(
        loader=PackageLoader("hubflow", "templates"), autoescape=select_autoescape(["html", "svg"]), undefined=StrictUndefined
    )


def write_data_page(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write `data.html`, one self-contained page of a data report, for a run that ends at its data.

    Raises:
        StoreError: when it cannot be written.
    """
    created = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    page = environment().get_template("data_page.html").render(created=created, data=data_view(report))
    path = folder / "data.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StoreError(f"{path}: the data report cannot be written ({error}); free the store or choose another") from error
    return path


def data_view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template `data_section.html` shows; its label shares keep `SplitSummary`.

    Args:
        report: of `load_dataset`, every part of which may be missing: `splits` (by split `source`, `read`, `accepted`,
            `rejected`, `checks`, `first_rejected`, `quarantine`, `coerced`, `skipped`), `max_invalid_fraction`, `findings`,
            `error`, `rows` (by split, what was kept), `profile` (see `hubflow.data.profile`) and `drift` (see
            `hubflow.data.profile`), and `image_changes` (by split, images by change).
    """
    profile = part(report, "profile")
    profiled = profile.get("splits", {})
    rows = part(report, "rows") or {split: counted["rows"] for split, counted in profiled.items()}
    return {
        "error": str(report.get("error") or ""),
        "splits": split_lines(report, rows),
        "allowed": _allowed(report),
        "checks": check_lines(report),
        "rejected": rejected_lines(report),
        "quarantine": [str(one["quarantine"]) for one in part(report, "splits").values() if one.get("quarantine")],
        "findings": finding_lines(report),
        **_labels(profiled),
        "image_changes": image_change_lines(report),
        "charts": [chart for split in _ordered(profiled) for chart in _charts(split, profiled[split])] + _token_charts(report),
        **_drift(part(report, "drift")),
    }


def part(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a report, or of its `facts`; empty when it is not there."""
    found = report.get(name) or (report.get("facts") or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def split_lines(report: Mapping[str, Any], rows: Mapping[str, int]) -> list[dict[str, str]]:
    """Rows read, accepted, quarantined, converted, skipped and kept, by split; a split made from train was not read."""
    sources, lines = part(report, "splits"), []
    for split in _ordered({**rows, **sources}):
        counts = sources.get(split, {})
        line = {name: _number(counts.get(name)) for name in ("read", "accepted", "rejected")}
        coerced, skipped = (
            ", ".join(f"{what} {count}" for what, count in (counts.get(name) or {}).items()) for name in ("coerced", "skipped")
        )
        source = str(counts.get("source", "made from train" if sources else ""))
        counted = {"coerced": coerced, "skipped": skipped, "source": source}
        lines.append({"split": split, "kept": _number(rows.get(split)), **line, **counted})
    return lines


def check_lines(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """How many rows failed each check, by split."""
    splits = part(report, "splits")
    return [
        {"split": split, "check": str(check), "count": _number(count)}
        for split in _ordered(splits)
        for check, count in (splits[split].get("checks") or {}).items()
    ]


def rejected_lines(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The first rows that were quarantined: number, checks that failed, content."""
    splits = part(report, "splits")
    return [_rejected(split, row) for split in _ordered(splits) for row in splits[split].get("first_rejected") or ()]


def finding_lines(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings, those that fail the stage first."""
    return sorted(report.get("findings") or (), key=lambda finding: str(finding["policy"]) != "fail")


def image_change_lines(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """How many images of each split were changed when they were decoded, and how."""
    splits = part(report, "image_changes")
    return [
        {"split": split, "change": CHANGES.get(change, change), "count": _number(count)}
        for split in _ordered(splits)
        for change, count in splits[split].items()
    ]


def _rejected(split: str, row: Mapping[str, Any]) -> dict[str, str]:
    failed = row.get("checks")
    checks = ", ".join(map(str, failed)) if isinstance(failed, list | tuple) else str(failed or "")
    others = {name: value for name, value in row.items() if name not in ("row", "checks") and value is not None}
    content = " ⏐ ".join(f"{name}: {_text(value)}" for name, value in others.items())
    return {"split": split, "row": str(row.get("row", "")), "checks": checks, "content": _cut(content)}


def _allowed(report: Mapping[str, Any]) -> str:
    share = report.get("max_invalid_fraction")
    return "" if share is None else f"At most {share:.2%} of a source's rows may be quarantined (max_invalid_fraction)."


def _labels(profiled: Mapping[str, Any]) -> dict[str, Any]:
    splits = [split for split in _ordered(profiled) if any(profiled[split]["labels"].values())]
    counts: dict[Any, dict[str, int]] = {split: profiled[split]["labels"] for split in splits}
    summary = split_summary({split: profiled[split]["rows"] for split in counts}, counts)
    found = {(line["split"], line["label"]): line for line in summary.to_dict("records")}
    totals = summary.groupby("label", sort=False)["count"].sum().sort_values(ascending=False, kind="stable")
    lines = [
        {"label": _cut(str(label)), "cells": [_cell(found.get((split, label))) for split in splits]}
        for label in totals.index[:MAX_LABELS]
    ]
    more = f"… and {len(totals) - MAX_LABELS} more labels." if len(totals) > MAX_LABELS else ""
    return {"labels": lines, "label_splits": splits, "more_labels": more}


def _cell(line: Mapping[Any, Any] | None) -> dict[str, str]:
    if line is None:
        return {"count": "0", "share": "0.0%", "width": ""}
    return {"count": _number(line["count"]), "share": f"{line['share']:.1%}", "width": f"{100 * line['share']:.1f}"}


def _charts(split: str, counted: Mapping[str, Any]) -> list[Chart]:
    charts = []
    for name, dumped in counted["histograms"].items():
        histogram = Histogram.load(dumped)
        counts = histogram.counts.tolist()
        used = [position for position, count in enumerate(counts) if count]
        if not used:
            continue
        places = range(used[0], used[-1] + 1)
        edges = SCALES[histogram.scale]
        names = [f"{edges[position]:.4g}" for position in places]
        note = f"median about {histogram.quantile(0.5):.4g}, 95% up to about {histogram.quantile(0.95):.4g}"
        charts.append(bar_chart(f"{split}: {name}", note, names, [[counts[position] for position in places]]))
    kinds = {name: count for name, count in counted["characters"].items() if count}
    if kinds:
        total = sum(kinds.values())
        note = ", ".join(f"{name} {count / total:.1%}" for name, count in kinds.items())
        charts.append(bar_chart(f"{split}: kinds of characters", note, list(kinds), [list(kinds.values())]))
    return charts


def _token_charts(report: Mapping[str, Any]) -> list[Chart]:
    """Rows by their length in tokens, before max_seq_len cuts them."""
    lengths, facts = part(report, "length_histogram"), report.get("facts") or {}
    note = f"special ones included, before they are cut to max_seq_len {facts.get('max_seq_len')}"
    return [
        bar_chart(f"{split}: tokens", note, [f"up to {end}" for end in lengths[split]["up_to"]], [lengths[split]["rows"]])
        for split in _ordered(lengths)
    ]


def bar_chart(title: str, note: str, names: Sequence[str], sides: Sequence[Sequence[float]]) -> Chart:
    """Bars of one distribution, or of two beside each other, the first being the one before; each as shares of its sum."""
    shares = [[value / (sum(side) or 1) for value in side] for side in sides]
    highest = max((share for side in shares for share in side), default=0) or 1
    wide = 600 / max(len(names), 1)
    each = 0.9 * wide / len(sides)
    bars = [
        Bar(
            x=round(position * wide + 0.05 * wide + number * each, 2),
            y=round(_HEIGHT * (1 - side[position] / highest), 2),
            width=round(each, 2),
            height=round(_HEIGHT * side[position] / highest, 2),
            title=f"{name}: {side[position]:.1%}",
            before=len(sides) > 1 and number == 0,
        )
        for number, side in enumerate(shares)
        for position, name in enumerate(names)
    ]
    return Chart(title, note, tuple(bars), _cut(names[0], 40) if names else "", _cut(names[-1], 40) if names else "")


def _drift(drift: Mapping[str, Any]) -> dict[str, Any]:
    measures = drift.get("measures") or []
    lines = [
        {
            "split": one["split"],
            "name": one["name"],
            "measure": MEASURES.get(one["kind"], one["kind"]),
            "value": "" if one["value"] is None else f"{one['value']:.3f}",
            "before": _number(one["counts"][0]),
            "now": _number(one["counts"][1]),
            "policy": one["policy"],
        }
        for one in measures
    ]
    charts = [
        bar_chart(f"{one['split']}: {one['name']}", f"{one['value']:.3f}", one["bins"], [one["previous"], one["current"]])
        for one in measures
        if len(one["bins"]) and one["value"] is not None
    ]
    return {
        "drift": lines,
        "drift_charts": charts,
        "drift_note": str(drift.get("note") or NOT_PROFILED),
        "is_compared": bool(drift),
    }


def _ordered(splits: Mapping[str, Any]) -> list[str]:
    return sorted(splits, key=lambda split: (_SPLITS.index(split) if split in _SPLITS else len(_SPLITS), split))


def _number(value: Any) -> str:
    return "" if value is None else str(int(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, limit: int = MAX_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def write_data_report(store: Store, key: str, report: Mapping[str, Any], holds: Sequence[Path]) -> None:
    """Keep a report in the store, with a page where the data was refused, for those who may read each of `holds`."""
    path = f"{PAGES}/{key}"
    try:
        with atomic_folder(store.root / path, holds) as draft:
            (draft / REPORT).write_text(json.dumps(report, ensure_ascii=True), encoding="utf-8")
            if report.get("error"):
                write_data_page(draft, report)
        store.sync(path)
    except StoreError as error:  # a full disk must not hide why the data was refused
        log.error("the report on the data cannot be written: %s", error)
        return
    if report.get("error"):
        log.error(PAGE_WRITTEN, store.display_path(f"{path}/data.html"))


def read_data_report(store: Store, key: str) -> dict[str, Any] | None:
    """The report of a data set as it was published, if it is still there."""
    try:
        kept = store.read_bytes(f"{PAGES}/{key}/{REPORT}")
        return None if kept is None else dict(json.loads(kept))
    except (StoreError, ValueError):
        return None
