"""The key figures of a run as Prefect artifacts: markdown, a table of metrics, a link to the report. Must not import Paddle."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubflow.orchestration.run_context import artifact_key, in_run
from hubflow.schemas.evaluation import Interval
from hubflow.text import markdown_code, markdown_text

FIGURES_KEY, METRICS_KEY, REPORT_KEY = "key-figures", "metrics", "report"


def publish(view: Mapping[str, Any], path: str, shown: str) -> None:
    """Publish what a person wants to know of a run; outside a Prefect run there is nobody to publish it to.

    Args:
        view: of `hubflow.reporting.page.run_view`, with the `verdict`, None when there is none.
        path: of the report in the store.
        shown: absolute path or URL of the report.
    """
    if not in_run():
        return
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    base = view["settings"].report.base_url
    create_markdown_artifact(
        "\n".join(_figures(view, shown)), key=artifact_key(FIGURES_KEY), description="Key figures of the run"
    )
    create_table_artifact(
        list(_lines(view)), key=artifact_key(METRICS_KEY), description="Metrics by split, exact over all rows"
    )
    create_link_artifact(
        _link(base, path, shown), link_text=markdown_text(shown), key=artifact_key(REPORT_KEY), description=_how_to_open(base)
    )


def _link(base: str | None, path: str, shown: str) -> str:
    if base is not None:
        return f"{base.rstrip('/')}/{path}"
    return shown if "://" in shown else Path(shown).as_uri()


def _how_to_open(base: str | None) -> str:
    if base is not None:
        return "The report of the run"
    return (
        "The report of the run: browsers do not follow a link from a server's page to a file; copy the path, or set "
        "report.base_url to where the store is served"
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
