"""The data report as Prefect artifacts: a table of the splits, and a page of markdown. Must not import Paddle."""

from collections.abc import Mapping
from typing import Any

from hubflow.data.page import check_lines, data_view, finding_lines
from hubflow.orchestration.run_context import artifact_key, in_run
from hubflow.text import markdown_text, printable

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


def publish(report: Mapping[str, Any]) -> None:
    """Publish a data report as a table and a markdown artifact; outside a Prefect run there is nobody to publish it to.

    Args:
        report: see `hubflow.data.page.data_view`.
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
