"""What a person sees of a data report: tables and bars for the page and its template. Must not import Paddle or Prefect."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hubflow.data.profile import SCALES, Histogram
from hubflow.errors import StoreError
from hubflow.modules.images import CHANGES
from hubflow.schemas.frames import split_summary

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
        loader=PackageLoader("hubflow", "templates"), autoescape=select_autoescape(["html"]), undefined=StrictUndefined
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
            `hubflow.data.profile_history`), and `image_changes` (by split, images by change).
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
        used = [place for place, count in enumerate(counts) if count]
        if not used:
            continue
        places = range(used[0], used[-1] + 1)
        edges = SCALES[histogram.scale]
        names = [f"{edges[place]:.4g}" for place in places]
        note = f"median about {histogram.quantile(0.5):.4g}, 95% up to about {histogram.quantile(0.95):.4g}"
        charts.append(bar_chart(f"{split}: {name}", note, names, [[counts[place] for place in places]]))
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
            x=round(place * wide + 0.05 * wide + number * each, 2),
            y=round(_HEIGHT * (1 - side[place] / highest), 2),
            width=round(each, 2),
            height=round(_HEIGHT * side[place] / highest, 2),
            title=f"{name}: {side[place]:.1%}",
            before=len(sides) > 1 and number == 0,
        )
        for number, side in enumerate(shares)
        for place, name in enumerate(names)
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
