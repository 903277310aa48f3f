"""An Optuna study in the store: trials by number, gone on with after a kill."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import Timeout

from hubflow.errors import PrunedError, SweepError
from hubflow.files import read_file
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.sweep import Dimension, SweepSettings, Trial
from hubflow.store.manifest import locked, write_atomically
from hubflow.store.store import Store, content_key
from hubflow.training.callbacks import Callback, TrainState
from hubflow.training.checkpoints import MAX_DIFFERENCES, differences

if TYPE_CHECKING:
    import optuna

FOLDER, JOURNAL, BEST = "sweeps", "study.journal", "best.yaml"
ASKED, DATA, ERROR, STARTS = "asked", "data", "error", "starts"
MAX_STARTS = 3
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "running"}
log = logging.getLogger(__name__)


@contextmanager
def open_study(settings: SweepSettings, store: Store) -> Iterator["Study"]:
    """The study of this name in the store, for this process alone.

    Raises:
        SweepError: when another process has it, or it was begun with other settings; Optuna is missing.
    """
    folder = store.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / f".{settings.name}.lock", timeout=0):
            yield Study(settings, store)
    except Timeout as error:
        raise SweepError(f"another sweep named {settings.name!r} is running on this store; wait for it, or set name") from error


class Study:
    """Trials that are drawn, reported and stored; each is a function of the seed, its number and those before it."""

    def __init__(self, settings: SweepSettings, store: Store) -> None:
        self._optuna = _optuna()
        self.settings, self._store, self._path = settings, store, f"{FOLDER}/{settings.name}"
        self._fetch()
        backend = self._optuna.storages.journal.JournalFileBackend(str(self._journal))
        self._study = self._optuna.create_study(
            storage=self._optuna.storages.JournalStorage(backend),
            study_name=settings.name,
            direction=settings.better,
            pruner=_pruner(self._optuna, settings),
            load_if_exists=True,
        )
        self._require_same()

    def next(self) -> "optuna.Trial | None":
        """The trial that a killed process left, or a new one; None when there are as many as there should be."""
        for left in self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
            trial = self._optuna.Trial(self._study, left._trial_id)
            if left.user_attrs.get(STARTS, 0) < MAX_STARTS:
                return self._begun(trial)
            self.failed(trial, f"ended its process {MAX_STARTS} times")
        number = len(self._study.get_trials(deepcopy=False))
        if number >= self.settings.trials:
            return None
        seed = int(content_key(self.settings.seed, number), 16) % 2**32
        samplers = self._optuna.samplers
        is_random = self.settings.sampler == "random"
        self._study.sampler = samplers.RandomSampler(seed) if is_random else samplers.TPESampler(seed=seed)
        space = sorted(self.settings.space.items())  # what is drawn must not depend on their order in a file
        return self._begun(self._study.ask({name: self._distribution(one) for name, one in space}))

    def settings_of(self, trial: "optuna.Trial") -> FineTuneSettings:
        """Settings of a trial.

        Raises:
            SettingsError: when its values do not go together.
        """
        name = f"{self.settings.name}-{trial.number:04}"
        return parse_settings(FineTuneSettings, self.settings.candidate(self._values(trial.params), name), name)

    def complete(self, trial: "optuna.Trial", metrics: Mapping[str, float], data: str) -> None:
        """Tell a trial's metrics on dev, and the hash of its data set.

        Raises:
            SweepError: when the metric is not among them, or the data is not that of the trials before.
        """
        if self.settings.dev_metric not in metrics:
            raise SweepError(f"metric {self.settings.dev_metric!r} is not measured on dev; use one of {', '.join(metrics)}")
        known = self._study.user_attrs.get(DATA)
        if known is None:
            self._study.set_user_attr(DATA, data)
        elif known != data and not any(name.startswith("data.") for name in self.settings.space):
            raise SweepError(
                f"the data has changed since the sweep {self.settings.name!r} began; its trials cannot be compared: set name"
            )
        self._study.tell(trial, metrics[self.settings.dev_metric])

    def pruned(self, trial: "optuna.Trial") -> None:
        """Tell that a trial was ended early."""
        self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)

    def failed(self, trial: "optuna.Trial", error: str) -> None:
        """Tell why a trial failed."""
        trial.set_user_attr(ERROR, error)
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """All there are, by number."""
        return [
            Trial.model_validate(
                {
                    "number": one.number,
                    "state": STATES[one.state.name],
                    "value": one.value,
                    "values": self._values(one.params),
                    "evaluations": len(one.intermediate_values),
                    "error": one.user_attrs.get(ERROR, ""),
                }
            )
            for one in self._study.get_trials(deepcopy=False)
        ]

    def best(self) -> Trial | None:
        """The best of those that are complete, the first of equals; None when none is."""
        complete = [one for one in self.trials() if one.state == "complete" and one.value is not None]
        sign = 1 if self.settings.better == "minimize" else -1
        return min(complete, key=lambda one: sign * (one.value or 0.0), default=None)

    def keep(self) -> str:
        """Write the best settings, as a file that `hubflow fine-tune` takes, and send what is kept to where the store is."""
        best = self.best()
        if best is not None:
            text = yaml.safe_dump(self.settings.candidate(best.values), sort_keys=False, allow_unicode=True)
            head = (
                f"# {self.settings.dev_metric} {best.value:.6g} on dev: trial {best.number} of the sweep {self.settings.name}\n"
            )
            write_atomically(self._folder / BEST, (head + text).encode())
        self._store.sync(self._path)
        return self._store.display_path(f"{self._path}/{BEST}")

    @property
    def _folder(self) -> Path:
        return self._store.resolve(self._path)

    @property
    def _journal(self) -> Path:
        return self._folder / JOURNAL

    def _fetch(self) -> None:
        """Take the longer one of the journal here and that on the store, without the half line that a power cut may leave."""
        self._folder.mkdir(parents=True, exist_ok=True)
        here = read_file(self._journal) if self._journal.exists() else b""
        there = self._store.read_bytes(f"{self._path}/{JOURNAL}") or b""
        longer = max(here, there, key=len)
        whole = longer[: longer.rfind(b"\n") + 1]
        if whole != here:
            write_atomically(self._journal, whole)

    def _require_same(self) -> None:
        known, asked = self._study.user_attrs.get(ASKED), self.settings.identity()
        if known is None:
            self._study.set_user_attr(ASKED, asked)
        elif known != asked:
            lines = differences(known, asked, kept="the study")
            listed = "\n".join(f"  - {line}" for line in lines[:MAX_DIFFERENCES])
            raise SweepError(
                f"the sweep {self.settings.name!r} in this store was begun with other settings, so that its trials cannot be "
                f"compared with new ones; set another name, or undo {len(lines)} difference(s)\n{listed}"
            )

    def _begun(self, trial: "optuna.Trial") -> "optuna.Trial":
        trial.set_user_attr(STARTS, trial.user_attrs.get(STARTS, 0) + 1)
        return trial

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if dimension.choices is not None:
            return kinds.CategoricalDistribution([_label(choice) for choice in dimension.choices])
        kind = kinds.IntDistribution if dimension.is_whole else kinds.FloatDistribution
        step = dimension.step or (1 if dimension.is_whole else None)
        return kind(dimension.low, dimension.high, log=dimension.log, step=step)

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What was drawn, as settings have it: choices by their labels."""
        values = {}
        for name, value in params.items():
            choices = self.settings.space[name].choices
            values[name] = value if choices is None else next(one for one in choices if _label(one) == value)
        return values


class Pruning(Callback):
    """Tells a trial's metric after each evaluation, and ends the trial when the study's pruner says so."""

    def __init__(self, trial: "optuna.Trial", metric: str) -> None:
        self._trial, self._metric = trial, metric

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Compare the trial against the others at the same evaluation."""
        if self._metric not in metrics:
            return
        number = len(state.evaluations)
        if number not in self._trial.study.get_trials(deepcopy=False)[self._trial.number].intermediate_values:
            self._trial.report(metrics[self._metric], number)  # not reported before a kill
        if self._trial.should_prune():
            raise PrunedError(f"pruned after evaluation {number}: {self._metric} {metrics[self._metric]:.4f} on dev")


def _label(choice: Any) -> Any:
    """What Optuna keeps of a choice: a plain value, or a group of settings as JSON."""
    return choice if choice is None or isinstance(choice, bool | int | float | str) else json.dumps(choice, sort_keys=True)


def _pruner(optuna: Any, settings: SweepSettings) -> Any:
    asked = settings.pruner
    if asked.name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=asked.startup_trials, n_warmup_steps=asked.warmup_evaluations)
    return optuna.pruners.SuccessiveHalvingPruner() if asked.name == "successive_halving" else optuna.pruners.NopPruner()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SweepError(f"a sweep needs Optuna ({error}); install the extra `sweep` (uv sync --extra sweep)") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
