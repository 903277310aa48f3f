"""The training loop: one function that can be read from top to bottom."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hubflow.data.encoded import EncodedSplit, IntArray, epoch_batches
from hubflow.errors import TrainingError, TrainingStopped
from hubflow.modules.inputs import Feed
from hubflow.programs.session import Session
from hubflow.runtime.memory import kept_between_steps
from hubflow.runtime.prefetch import Prefetcher
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.training import TrainSettings
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.training.checkpoints import Checkpoints
from hubflow.training.control import TrainerControl
from hubflow.training.distributed import World
from hubflow.training.evaluation import EVALUATION_BATCH, evaluate_split
from hubflow.training.interrupts import deferred_signals
from hubflow.training.objective import class_weights_of
from hubflow.training.program import Update
from hubflow.training.resuming import pack, restore, seed_everything
from hubflow.training.step import FIRST_LOSS_SCALE, TrainStep, require_finite

__all__ = ["TrainPlan", "TrainState", "TrainingError", "TrainingStopped", "train"]
log = logging.getLogger(__name__)


class _Asked(Exception):
    """Somebody asked to stop while dev was evaluated."""


@dataclass(frozen=True)
class TrainPlan:
    """What stays the same during a run.

    Attributes:
        settings: of training.
        seed: of weights, row order, dropout and augmentation.
        label_map: the labels.
        best_metric: of the dev split, picks the best weights.
        train: rows to learn from.
        dev: rows to judge on, or None.
        request: all that the result is a function of, kept in each checkpoint and compared before it is resumed.
        warm_start: folder with the weights of module and head to begin with, or None for the module's own and a fresh head.
    """

    settings: TrainSettings
    seed: int
    label_map: LabelMap
    best_metric: str
    train: EncodedSplit
    dev: EncodedSplit | None
    request: dict[str, Any] = field(default_factory=dict)
    warm_start: Path | None = None


def train(
    session: Session,
    plan: TrainPlan,
    checkpoints: Checkpoints,
    callbacks: Sequence[Callback] = (),
    world: World | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
    before: Callable[[Session, Update, TrainStep], None] = lambda *_: None,
) -> TrainState:
    """Fine-tune the session's task and leave the best weights in `checkpoints`.

    Interrupted, it goes on from the newest intact checkpoint, bit for bit as if it had not been. SIGTERM and SIGINT finish the
    step, write a checkpoint, and then reach the handler that was there before.

    Args:
        session: the task; what is frozen beside its specification's is by the settings.
        plan: what stays the same.
        checkpoints: of this run alone.
        callbacks: onlookers, called in turn; of several processes, give them to the one of rank 0.
        world: this process among those that train together; the only one by default.
        stop_asked: asked after each step, for those who cannot send a signal.
        before: called before the first step of a run that is not resumed, with weights in place; it must leave them so.

    Raises:
        TrainingError: at the first loss or gradient that is not finite, naming the step, the batch's rows and the norms.
        TrainingStopped: when asked to stop, if whoever sent the signal leaves the process alive.
        ResumeError: when the checkpoint is of a run with other data or settings, listing what differs.
    """
    # Convolutions wait for pages; encoders, whose products take longer, do not.
    with deferred_signals() as interrupt, kept_between_steps(large=session.spec.task == "image_classification"):
        run = _Run(session, plan, checkpoints, callbacks, world or World.alone())
        state, control = run.state, run.control
        if not run.is_resumed:
            before(run.session, run.update, run.train_step)
        for callback in callbacks:
            callback.on_train_begin(state, control.total_steps)
        run.world.barrier()

        def asked() -> bool:
            return interrupt.is_asked or stop_asked()

        def stop() -> TrainingStopped:
            run.save()
            text = f"stopped after step {state.step} of {control.total_steps}; run the same again to go on"
            log.warning(text)
            interrupt.hand_on()
            return TrainingStopped(text)

        while True:
            if control.should_evaluate(state):
                metrics = run.judge(asked)
                if metrics is None:
                    raise stop()
                for callback in callbacks:
                    callback.on_evaluate(state, metrics)
                run.save()
            if control.should_stop(state):
                break
            run.unfreeze()
            step, stops = run.take_step(asked())
            for callback in callbacks:
                callback.on_step_end(state, step)
            # Processes that train together must all stop after the same step: the one whose report says so.
            if stops if run.world.size > 1 else asked():
                raise stop()
            if control.should_save(state) and not control.should_evaluate(state):
                run.save()
        for callback in callbacks:
            callback.on_train_end(state)
        return state


class _Run:
    """A run under way: the state, and the programs that train what the present epoch does not freeze."""

    def __init__(
        self, session: Session, plan: TrainPlan, checkpoints: Checkpoints, callbacks: Sequence[Callback], world: World
    ) -> None:
        settings = plan.settings
        self.plan, self.world, self.session = plan, world, session
        self._checkpoints, self._callbacks = checkpoints, callbacks
        self.control = TrainerControl(settings, session.blocks, len(plan.train), plan.dev is not None, plan.best_metric)
        self._class_weights = class_weights_of(settings, plan.label_map, plan.train)
        weights = plan.train.example_weights(self._class_weights)
        self.train_step = TrainStep(plan.train, weights, plan.seed, settings.gradient_accumulation_steps, world)
        self.state = TrainState(loss_scale=FIRST_LOSS_SCALE if settings.precision == "float16" else None)
        self._batches: tuple[int, list[IntArray]] = (-1, [])
        self._ahead: Prefetcher[list[Feed]] = Prefetcher()
        seed_everything(plan.seed)
        session.initialise(plan.seed)
        if plan.warm_start is not None:
            session.load(plan.warm_start)
        saved = world.main_process_first(checkpoints.load)
        self.is_resumed = saved is not None
        if saved is not None:
            self.state = restore(saved[1], plan.request, callbacks, str(checkpoints.folder))
        self._frozen: frozenset[str] = frozenset()
        never = [block for block in session.blocks if block in self.control.never_trained]
        if never and settings.unfreeze_every_epochs is not None:
            log.warning("train.unfreeze_every_epochs: the run ends before %s are trained", ", ".join(never))
        if self.control.frozen(self.state.epoch):
            self._refreeze()
        self.update = self._update()
        if saved is not None:
            self.update.load_state(saved[0])

    def judge(self, asked: Callable[[], bool]) -> dict[str, float] | None:
        """Judge the weights on dev, and keep them when they are the best so far; None when asked to stop meanwhile.

        Of several processes the first one evaluates: running statistics of batch norms are those of each process's own rows.
        """
        metrics: dict[str, float] | None = self.world.broadcast(lambda: self._metrics(asked))
        if metrics is None:
            return None
        if self.control.judge(self.state, metrics) and self.world.is_main_process:
            self._checkpoints.save_best(self.state.step, self.session.weights())
        return metrics

    def unfreeze(self) -> None:
        """Build programs that train what this epoch does not freeze, on the weights and optimizer state that there are."""
        if self.control.frozen(self.state.epoch) != self._frozen:
            self._refreeze()
            self.update = self._update()

    def take_step(self, stop: bool) -> tuple[Step, bool]:
        """Update the weights with the next rows; the step, and whether a process was asked to stop."""
        plan, state = self.plan, self.state
        rows, rate = self._rows(), self.control.schedule.at(state.step)
        feeds = self._ahead.take(state.step, lambda: self.train_step.feeds(rows, state.step))
        self._begin_next(state.step + 1)
        report = self.train_step.take(self.update, state, rows, rate, stop, feeds)
        require_finite(report, state, plan.train.rows[rows])
        step = Step(state.step + 1, state.epoch + 1, report.loss, rate, report.grad_norm)
        self.control.advance(state)
        if self.control.is_logged(state):
            state.steps.append(asdict(step))
        return step, report.stops > 0

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        if self.world.is_main_process:
            self._checkpoints.save(self.update.state(), pack(self.state, self.plan.request, self._callbacks))
        self.world.barrier()  # NCCL does not wait long for a rank that writes

    def _metrics(self, asked: Callable[[], bool]) -> dict[str, float] | None:
        plan = self.plan
        if plan.dev is None:
            return {}

        def look(_rows: int) -> None:
            if asked():
                raise _Asked

        try:
            return evaluate_split(self.session, plan.dev, plan.label_map, EVALUATION_BATCH, look).metrics
        except _Asked:
            return None

    def _begin_next(self, step: int) -> None:
        """Let the next step's rows of this epoch be padded, or normalised, while the present step is computed."""
        batches, position = self._batches[1], self.state.position + 1
        if position < len(batches):
            self._ahead.begin(step, lambda: self.train_step.feeds(batches[position], step))

    def _rows(self) -> IntArray:
        plan, state = self.plan, self.state
        if self._batches[0] != state.epoch:
            by_tokens = self.session.spec.task == "sequence_labelling"  # its loss is a mean over tokens
            lengths, size = plan.train.lengths, plan.settings.batch_size
            self._batches = (state.epoch, epoch_batches(lengths, size, plan.seed, state.epoch, by_tokens))
        return self._batches[1][state.position]

    def _refreeze(self) -> None:
        self._frozen = self.control.frozen(self.state.epoch)
        self.session = self.session.refrozen(self._frozen)

    def _update(self) -> Update:
        update = Update(self.session, self.plan.settings, self._class_weights, self.world)
        update.initialise()
        return update
