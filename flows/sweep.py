"""Flow sweep: fine-tune again and again with other settings, drawn by Optuna, and write down the best."""

import logging
from typing import TYPE_CHECKING

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from rich.markup import escape

from hubflow.console import say
from hubflow.errors import PrunedError, StoppedError, SweepError
from hubflow.flows.fine_tune import train_and_evaluate
from hubflow.orchestration.parameters import settings_flow
from hubflow.orchestration.progress import followed_by
from hubflow.orchestration.run_context import Run, artifact_key, open_store, require_lasting
from hubflow.schemas.references import EvaluationRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.sweep import SweepResult, SweepSettings
from hubflow.schemas.urls import paths_of
from hubflow.store.store import Store
from hubflow.text import markdown_text
from hubflow.tuning.study import Pruning, Study, open_study

if TYPE_CHECKING:
    import optuna

MAX_ERROR = 500
log = logging.getLogger(__name__)


@settings_flow("sweep")
def sweep(settings: SweepSettings) -> SweepResult:
    """Fine-tune with settings drawn from a space, prune trials that fall behind, and write the best settings as YAML.

    The study is kept in the store by its name: the same sweep resumes where it was stopped. A trial that fails is recorded.
    Trials are drawn and pruned by Optuna (Akiba et al. 2019, arXiv:1907.10902); it needs the extra `sweep`.

    Args:
        settings: the settings that every trial has, the space to draw from, and the number of trials.

    Returns:
        The best trial, the YAML file of its settings, and every trial.

    Raises:
        SweepError: when too many trials in a row fail, none is completed, or the extra is not installed.
        SettingsError: when settings of the base or the space are wrong.
        StoreError: when the store cannot be written.
    """
    require_lasting(paths_of(settings))
    store, failures = open_store(settings.base.store, settings.base.store_block), 0
    with open_study(settings, Store(store)) as study:
        while (trial := study.next()) is not None:
            failures = 0 if _tried(study, trial, store) else failures + 1
            path = study.keep()
            if failures >= settings.max_failures:
                last = study.trials()[-1]
                raise SweepError(f"{failures} trials in a row failed, the last one with: {last.error}")
        path, best = study.keep(), study.best()
        _publish(study)
        if best is None:
            raise SweepError(f"none of the {settings.trials} trials of the sweep {settings.name!r} was completed")
        return SweepResult(
            name=settings.name,
            metric=settings.dev_metric,
            direction=settings.better,
            best=best,
            best_settings=path,
            trials=study.trials(),
        )


@flow(name="sweep-trial", flow_run_name="{settings.name}", persist_result=False)
def sweep_trial(settings: FineTuneSettings, store: str) -> tuple[EvaluationRef, str] | None:
    """Train and evaluate with the settings of one trial: the evaluation, and the hash of the data; None when it was pruned."""
    try:
        encoded, _, evaluation = train_and_evaluate(settings, Run(settings.name, store, settings.reuse, settings.device))
    except PrunedError as pruned:
        say(f"[bold]{escape(settings.name)}[/bold] {escape(str(pruned))}")
        return None
    return evaluation, encoded.dataset.sha256


def _tried(study: Study, trial: "optuna.Trial", store: str) -> bool:
    """Run one trial and tell the study how it ended; False when it failed."""
    try:
        with followed_by(Pruning(trial, study.settings.dev_metric)):
            evaluated = sweep_trial(study.settings_of(trial), store)
    except StoppedError:
        raise
    except Exception as error:
        log.warning("trial %d failed: %s", trial.number, error)
        study.failed(trial, f"{type(error).__name__}: {error}"[:MAX_ERROR])
        return False
    if evaluated is None:
        study.pruned(trial)
    else:
        study.complete(trial, evaluated[0].metrics.get("dev", {}), evaluated[1])
    return True


def _publish(study: Study) -> None:
    """The trials as a table, and the best one's values, as artifacts of the run."""
    trials, best = study.trials(), study.best()
    # Prefect shows texts in tables, and descriptions, as Markdown.
    rows = [
        {"trial": one.number, "state": one.state, study.settings.dev_metric: one.value, **one.values, "error": one.error}
        for one in trials
    ]
    rows = [{name: markdown_text(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]
    name = markdown_text(study.settings.name)
    create_table_artifact(rows, key=artifact_key("sweep-trials"), description=f"Trials of the sweep {name}")
    if best is not None:
        values = "\n".join(f"| {markdown_text(setting)} | {markdown_text(value)} |" for setting, value in best.values.items())
        text = f"Trial {best.number}: {study.settings.dev_metric} {best.value:.4f} on dev\n\n| setting | value |\n|---|---|\n"
        create_markdown_artifact(text + values, key=artifact_key("sweep-best"), description=f"Best trial of the sweep {name}")
