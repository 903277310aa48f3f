"""Prefect artifacts of a run: the data report, the key figures, a chart, and a link to the report."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubflow.data.report import check_lines, data_view, environment, finding_lines
from hubflow.orchestration.run_context import artifact_key, in_run
from hubflow.reporting.charts import LineChart
from hubflow.schemas.evaluation import Interval
from hubflow.text import markdown_code, markdown_text, printable

TABLE_KEY = "data-rows"
MARKDOWN_KEY = "data-report"
ENCODING_KEY = "encoding-report"
MAX_LINES = 50
COLUMNS = {
    "split": "split",
    "kept": "rows kept",
    "read": "read",
    "accepted": "accepted",
    "rejected": "quarantined",
    "coerced": "converted",
    "skipped": "skipped",
    "source": "source",
}
"""What the table and the page call what `data_view` gives of a split."""


def publish_data_report(report: Mapping[str, Any]) -> None:
    """Publish a data report as a table and a markdown artifact; outside a Prefect run there is nobody to publish it to.

    Args:
        report: see `hubflow.data.report.data_view`.
    """
    if not in_run():
        return
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    lines = [{shown: markdown_text(line[name]) for name, shown in COLUMNS.items()} for line in data_view(report)["splits"]]
    create_table_artifact(
        lines,
        key=artifact_key(TABLE_KEY),
        description="Rows read, accepted, quarantined and kept, by split",
    )
    create_markdown_artifact(markdown(report), key=artifact_key(MARKDOWN_KEY), description="Data report")


def publish_encoding(report: Mapping[str, Any]) -> None:
    """Publish what encoding found as a markdown artifact, in a Prefect run, when there is something to say."""
    facts = report["facts"]
    if not in_run() or not (
        report["findings"] or report["error"] or "drift" in facts or any(facts.get("image_changes", {}).values())
    ):
        return
    from prefect.artifacts import create_markdown_artifact

    view = data_view(report)
    lines = [*_error(view), *_image_changes(view), *_findings(report), *(_drift(view) if view["is_compared"] else [])]
    create_markdown_artifact(
        "\n".join(lines), key=artifact_key(ENCODING_KEY), description="Encoded rows: what was cut, left out or changed"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The data report as markdown; what comes from the data is shown as text, never as markup."""
    view = data_view(report)
    lines = [*_error(view), *_table(*COLUMNS.values())]
    lines += [_line(*(line[name] for name in COLUMNS)) for line in view["splits"]]
    if view["checks"]:
        lines += ["", "### Quarantined rows", "", *_table("split", "check", "failed by")]
        lines += [_line(one["split"], one["check"], one["count"]) for one in check_lines(report)[:MAX_LINES]]
        lines += ["", *_table("split", "row", "failed", "content")]
        lines += [_line(one["split"], one["row"], one["checks"], one["content"]) for one in view["rejected"][:MAX_LINES]]
        lines += ["", *(f"All of them: {markdown_text(path)}" for path in view["quarantine"])]
    return "\n".join([*lines, *_findings(report), *_drift(view)])


def _error(view: Mapping[str, Any]) -> list[str]:
    if not view["error"]:
        return []
    return ["**The data was refused.**", "", *(f"    {line}" for line in printable(view["error"]).splitlines()[:MAX_LINES]), ""]


def _findings(report: Mapping[str, Any]) -> list[str]:
    return ["", "### Findings", "", *([_finding(one) for one in finding_lines(report)[:MAX_LINES]] or ["None."])]


def _image_changes(view: Mapping[str, Any]) -> list[str]:
    if not view["image_changes"]:
        return []
    lines = [_line(one["split"], one["change"], one["count"]) for one in view["image_changes"]]
    return ["", "### Images as a person sees them", "", *_table("split", "what was done", "images"), *lines]


def _drift(view: Mapping[str, Any]) -> list[str]:
    lines = ["", "### Against the last data set", "", markdown_text(view["drift_note"])]
    if view["drift"]:
        lines += ["", *_table("split", "what", "measure", "value", "rows before", "rows now", "")]
        columns = ("split", "name", "measure", "value", "before", "now", "policy")
        lines += [_line(*(one[name] for name in columns)) for one in view["drift"][:MAX_LINES]]
    return lines


def _finding(finding: Mapping[str, Any]) -> str:
    examples = "".join(f"\n  - {markdown_text(example)}" for example in finding["examples"])
    policy, check, message = (markdown_text(finding[name]) for name in ("policy", "check", "message"))
    return f"- **{policy}** {check}: {message}{examples}"


def _table(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]


def _line(*values: object) -> str:
    return f"| {' | '.join(map(markdown_text, values))} |"


FIGURES_KEY, METRICS_KEY, REPORT_KEY, CHART_KEY = "key-figures", "metrics", "report", "training-curve"


def publish_report(view: Mapping[str, Any], path: str, shown: str, base: str | None) -> None:
    """Publish what a person wants to know of a run; outside a Prefect run there is nobody to publish it to.

    Args:
        view: of `hubflow.reporting.page.run_view`, with the `verdict`, None when there is none.
        path: of the report in the store.
        shown: absolute path or URL of the report.
        base: where the store's folder is served; None where it is not.
    """
    if not in_run():
        return
    from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact, create_table_artifact

    for chart in view["charts"][:1]:
        create_image_artifact(image_of(chart), key=artifact_key(CHART_KEY), description=f"{chart.title}: {chart.note}")
    create_markdown_artifact(
        "\n".join(_figures(view, shown)), key=artifact_key(FIGURES_KEY), description="Key figures of the run"
    )
    create_table_artifact(
        list(_lines(view)), key=artifact_key(METRICS_KEY), description="Metrics by split, exact over all rows"
    )
    create_link_artifact(
        report_link(base, path, shown),
        link_text=markdown_text(shown),
        key=artifact_key(REPORT_KEY),
        description=_how_to_open(base),
    )


def image_of(chart: LineChart) -> str:
    """A chart as the address of an image that holds the image itself, so that Prefect's page needs nothing from elsewhere."""
    svg = environment().get_template("chart.svg").render(chart=chart)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8', 'backslashreplace')).decode('ascii')}"


def report_link(base: str | None, path: str, shown: str) -> str:
    """Where a report is opened: below `base`, where the store is served, or where it lies."""
    if base is not None:
        return f"{base.rstrip('/')}/{path}"
    return shown if "://" in shown else Path(shown).as_uri()


def _how_to_open(base: str | None) -> str:
    if base is not None:
        return "The report of the run"
    return (
        "The report of the run: browsers do not follow a link from a server's page to a file; copy the path, or serve the "
        "store's reports with `hubflow report` and set report.base_url to the address that it prints"
    )


def _lines(view: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for line in view["metrics"]:
        values = zip(view["splits"], line.values, strict=True)
        yield {
            "metric": markdown_text(line.name),
            **{split: "" if value is None else f"{value.value:.4f}" for split, value in values},
        }


def _figures(view: Mapping[str, Any], shown: str) -> Iterator[str]:
    checkpoint, verdict = view["checkpoint"], view["verdict"]
    if verdict is not None:
        yield from [f"**{verdict.verdict.replace('_', ' ')}**: {markdown_text(verdict.reason)}", ""]
    for line in view["metrics"]:
        if line.name in (checkpoint.best_metric, "loss"):
            values = [(split, value) for split, value in zip(view["splits"], line.values, strict=True) if value is not None]
            texts = [
                f"{split} **{value.value:.4f}**{_within(value.interval)}{_changed(value.change)}" for split, value in values
            ]
            yield f"- {markdown_text(line.name)}: {', '.join(texts)}"
    if view["confidence"] is not None:
        yield f"- each with its {100 * view['confidence']:g}% confidence interval"
    for split in view["views"]:
        yield f"- {split.name}: {split.wrong} of {split.rows} rows wrong"
    yield f"- weights of epoch {checkpoint.best_epoch}, {checkpoint.steps} steps"
    if view["notices"]:
        yield from ["", "### To look at", ""]
        yield from (f"- **{markdown_text(notice.title)}**: {markdown_text(notice.text)}" for notice in view["notices"])
    yield from [
        "",
        "### Where",
        "",
        f"- report: {markdown_code(shown)}",
        f"- exported model: {markdown_code(view['export_path'])}",
    ]


def _within(interval: Interval | None) -> str:
    return "" if interval is None else f", {interval.low:.4f} to {interval.high:.4f}"


def _changed(change: float | None) -> str:
    return "" if change is None else f" ({change:+.4f} since the last run)"
