"""Stage write_report: one self-contained HTML page that explains a run, and its summary as JSON beside it."""

import datetime
import json
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel

from hubflow.data.report import environment
from hubflow.deployment.pointer import read_verdict
from hubflow.orchestration.artifacts import publish_report
from hubflow.orchestration.tasks import stage
from hubflow.reporting.page import RUNS, SUMMARY, run_view, since
from hubflow.schemas.frames import require_metrics
from hubflow.schemas.references import EncodedRef, EvaluationRef, ExportRef, VerdictRef
from hubflow.schemas.settings import ReportSettings
from hubflow.store.manifest import atomic_folder
from hubflow.store.store import Store


def _describe(path: str) -> str:
    return f"report: {path}"


@stage(_describe, label="report")
def write_report(
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    export: ExportRef,
    store: str,
    name: str = "report",
    settings: ReportSettings = ReportSettings(),  # noqa: B008 - frozen
    verdict: VerdictRef | None = None,
    seconds: Mapping[str, float] = MappingProxyType({}),
    run_settings: BaseModel | None = None,
    began: datetime.datetime | None = None,
) -> str:
    """Write one self-contained HTML page that explains a run: key figures, what changed, mistakes, curves, data, how to load.

    What the gate decided comes first, when it was asked.

    Reads what keeps `TrainingSteps`, `Evaluations` and `Metrics`. In a Prefect run the key figures, a table of the metrics and
    a link to the page are published as artifacts.

    Args:
        evaluation: of the trained weights.
        encoded: the rows that they were trained and evaluated on.
        export: what was made of them.
        store: folder, or URL, of the store.
        name: of the run; runs of one name are compared with each other.
        settings: what the report shows.
        verdict: the gate's, when it was asked.
        seconds: duration of each stage in seconds, by its name.
        run_settings: that the page lists, and compares with those of the last run; those of the training by default.
        began: when the run began, where tries of one run share a report: the last one stays.

    Returns:
        Absolute path, or URL, of the page: `runs/<time>-<name>/report.html` in the store.

    Raises:
        ContractError: when history or metrics break their contract.
        StoreError: when an artefact is missing or altered, or the page cannot be written.
    """
    opened = Store(store)
    require_metrics(evaluation.metrics, "the evaluation", evaluation.checkpoint.task.task)
    now = datetime.datetime.now(datetime.UTC)
    folder = f"{RUNS}/{began or now:%Y%m%dT%H%M%S.%f}-{name}"
    created = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    trained_with = opened.open(evaluation.checkpoint).facts["settings"]
    summary = {
        "name": name,
        "settings": {"train": trained_with} if run_settings is None else run_settings.model_dump(mode="json"),
        "created": created,
        "metrics": evaluation.metrics,
        "seconds": dict(seconds),
        "split_sha256": _split_hashes(opened, encoded),
        "evaluation": evaluation.model_dump(),
        "export": export.model_dump(),
        "verdict": None if verdict is None else verdict.model_dump(),
    }
    view = run_view(opened, summary, settings, evaluation, encoded, export, since(opened, summary, folder))
    view["verdict"] = None if verdict is None else read_verdict(opened, verdict)
    page = environment().get_template("report.html").render(view, created=created, seconds=summary["seconds"])
    with atomic_folder(opened.root / folder, holds=[opened.open(encoded.dataset).folder]) as draft:
        (draft / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")
        (draft / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    opened.sync(folder)
    publish_report(view, f"{folder}/report.html", opened.display_path(f"{folder}/report.html"), settings.base_url)
    return opened.display_path(f"{folder}/report.html")


def _split_hashes(store: Store, encoded: EncodedRef) -> dict[str, str]:
    """By split, the hash of its rows: two runs that evaluated the same ones can be compared."""
    files = store.open(encoded.dataset).sealed.files
    return {split: files[f"{split}.parquet"].sha256 for split in encoded.dataset.rows}
