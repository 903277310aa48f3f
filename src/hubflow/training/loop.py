"""The training loop: one function that can be read from top to bottom, its control and its step."""

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.encoded import EncodedSplit, IntArray, epoch_batches
from hubflow.errors import SettingsError, TrainingError, TrainingStopped, join_limited
from hubflow.modules.inputs import Feed
from hubflow.programs.session import Session
from hubflow.runtime.memory import kept_between_steps
from hubflow.runtime.paddle_import import paddle
from hubflow.runtime.threads import Prefetcher
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.tasks import find_task_type, is_lower_better
from hubflow.schemas.training import TrainSettings
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.training.checkpoints import Checkpoints, pack, restore, seed_everything
from hubflow.training.distributed import World
from hubflow.training.evaluation import EVALUATION_BATCH, evaluate_split
from hubflow.training.optimizers import schedule_of
from hubflow.training.program import StepResult, TrainProgram, class_weights_of

__all__ = ["TrainPlan", "TrainState", "TrainingError", "TrainingStopped", "train"]


class Interrupt:
    """Whether somebody asked to stop, and what to do about it when the work is safe."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether a signal is held back."""
        return self.signal is not None

    def hold(self) -> None:
        """Take SIGTERM and SIGINT from now on; only Python's main thread can. A second SIGINT ends at once."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def let_go(self) -> None:
        """Give the signals back to the handlers that were there before."""
        for number, handler in self._before.items():
            if handler is not None:  # None: set by other than Python, and cannot be put back
                signal.signal(number, handler)
        self._before.clear()

    def hand_on(self) -> None:
        """Deliver the signal that was held back to the handler that was there before: the engine's, or Python's own."""
        number, self.signal = self.signal, None
        self.let_go()
        if number is not None:
            signal.raise_signal(number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            self.hand_on()
        self.signal = number


@contextlib.contextmanager
def deferred_signals() -> Iterator[Interrupt]:
    """Hold SIGTERM and SIGINT back inside the block, and hand on at its end what came and has not been handed on."""
    interrupt = Interrupt()
    interrupt.hold()
    try:
        yield interrupt
    finally:
        interrupt.hand_on()


class TrainerControl:
    """What the settings make of a run over `rows` rows.

    Args:
        settings: of training.
        blocks: of the module, from bottom to top.
        rows: of the train split.
        has_dev: whether there is a dev split to evaluate on.
        best_metric: picks the best weights.
        lower_is_better: whether the smallest value of it is the best.

    Raises:
        SettingsError: when more blocks are to be frozen than there are, early stopping has nothing to evaluate on, or
            the warm-up is as long as the run.
    """

    def __init__(
        self,
        settings: TrainSettings,
        blocks: Sequence[str],
        rows: int,
        has_dev: bool,
        best_metric: str,
        lower_is_better: bool = False,
    ) -> None:
        if settings.freeze_blocks > len(blocks):
            raise SettingsError(
                f"train.freeze_blocks is {settings.freeze_blocks}, but the module has {len(blocks)} blocks: {', '.join(blocks)}"
            )
        if settings.early_stopping is not None and not has_dev:
            raise SettingsError("train.early_stopping needs a dev split to evaluate on: set data.dev or a dev_fraction")
        self._settings, self._blocks, self._has_dev = settings, tuple(blocks), has_dev
        self._metric, self._lower_is_better = best_metric, lower_is_better
        self.steps_per_epoch = -(-rows // settings.batch_size)
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch
        if settings.warmup_steps and settings.warmup_steps >= self.total_steps:
            raise SettingsError(
                f"train.warmup_steps is {settings.warmup_steps}, but the run has {self.total_steps} steps ({rows} rows in "
                f"batches of {settings.batch_size}): the learning rate would rise to the end; "
                "give fewer, or train.warmup_proportion"
            )
        self.schedule = schedule_of(settings, self.total_steps)

    def frozen(self, epoch: int) -> frozenset[str]:
        """Blocks that stay as they are in the epoch number `epoch`, counted from 0.

        Gradual unfreezing (ULMFiT, arXiv:1801.06146, section 3.3) begins with the head alone and adds a block from the top.
        """
        every, blocks = self._settings.unfreeze_every_epochs, self._blocks
        count = 0 if every is None else max(0, len(blocks) - epoch // every)
        return frozenset(blocks[: max(self._settings.freeze_blocks, count)])

    @property
    def never_trained(self) -> frozenset[str]:
        """Blocks that are still frozen when the run ends, beside those that are to stay as they are."""
        last_epoch = (self.total_steps - 1) // self.steps_per_epoch
        return self.frozen(last_epoch) - frozenset(self._blocks[: self._settings.freeze_blocks])

    def advance(self, state: TrainState) -> None:
        """Count one update."""
        state.step += 1
        state.position += 1
        if state.position == self.steps_per_epoch:
            state.epoch, state.position = state.epoch + 1, 0

    def should_evaluate(self, state: TrainState) -> bool:
        """Whether the weights of this step are to be evaluated, and have not been."""
        if state.step == state.last_evaluated_step:
            return False
        every, is_last = self._settings.evaluate_every_steps, state.step == self.total_steps
        if not self._has_dev:
            return is_last
        return is_last or (state.position == 0 if every is None else state.step % every == 0)

    def record_evaluation(self, state: TrainState, metrics: Mapping[str, float]) -> bool:
        """Take the metrics of this step into the state, and say whether its weights are the best so far.

        Without a dev split the last weights are the best. Patience counts evaluations whose value is not better, by more than
        `min_delta`, than the one that last was (as Keras does it).

        Raises:
            SettingsError: when the metric that picks the best weights is not measured.
        """
        state.last_evaluated_step = state.step
        epoch = state.epoch if state.position == 0 else state.epoch + 1
        if not metrics:
            state.best_step, state.best_epoch = state.step, epoch
            return True
        if self._metric not in metrics:
            raise SettingsError(f"train.best_metric {self._metric!r} is not measured; measured: {', '.join(metrics)}")
        state.evaluations.append({"epoch": epoch, "step": state.step, **metrics})
        value = metrics[self._metric]
        stopping = self._settings.early_stopping
        if self._is_better(value, state.patience_value, 0.0 if stopping is None else stopping.min_delta):
            state.patience_value, state.stale = value, 0
        else:
            state.stale += 1
        if not self._is_better(value, state.best_value):
            return False
        state.best_value, state.best_step, state.best_epoch = value, state.step, epoch
        return True

    def should_save(self, state: TrainState) -> bool:
        """Whether a checkpoint is to be written after this step even if it is not evaluated."""
        every = self._settings.checkpoints.every_steps
        return state.position == 0 or (every is not None and state.step % every == 0)

    def is_logged(self, state: TrainState) -> bool:
        """Whether this step goes into the history."""
        return state.step == 1 or state.step % self._settings.log_every_steps == 0

    def should_stop(self, state: TrainState) -> bool:
        """Whether there is nothing left to do but to evaluate."""
        stopping = self._settings.early_stopping
        return state.step >= self.total_steps or (stopping is not None and state.stale >= stopping.patience)

    def _is_better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        if than is None or math.isnan(than):  # whatever the first is; then any number is better than none
            return than is None or not math.isnan(value)
        return value < than - by if self._lower_is_better else value > than + by


FIRST_LOSS_SCALE = 2.0**16
SCALE_GROWS_AFTER = 2000
SMALLEST_LOSS_SCALE = 1.0


@dataclass(frozen=True)
class TrainStep:
    """What every step of a run needs.

    Attributes:
        train: the rows.
        example_weights: by how much each row counts `[rows]`.
        seed: of the run.
        parts: how many parts the rows of an update are computed in.
        world: this process among those that train together.
    """

    train: EncodedSplit
    example_weights: NDArray[np.float64]
    seed: int
    parts: int
    world: World

    def feeds(self, rows: IntArray, step: int) -> list[Feed]:
        """Inputs and labels of each part of an update, augmented as its step, counted from 0, has it.

        A process without rows of its own still takes part in the sum over processes, with one that counts nothing.
        """
        generator = np.random.default_rng(self._entropy(step))
        return [self.train.feed(part if len(part) else rows[:1], generator) for part in self._parts(rows)]

    def run(
        self,
        update: TrainProgram,
        state: TrainState,
        rows: IntArray,
        rate: float,
        stop: bool,
        feeds: Sequence[Feed] | None = None,
    ) -> StepResult:
        """Update the parameters with the rows of one update, and say how it went.

        A loss or gradient that is not finite is reported, not raised. In float16 such an update is left out, and the loss
        scale halved (Micikevicius et al., arXiv:1710.03740, section 3.2). `feeds` are what `feeds` gives, where that is known.
        """
        drawn = int(np.random.SeedSequence(self._entropy(state.step)).generate_state(1, np.uint32)[0])
        paddle.seed(drawn)
        update.session.seed_dropout(drawn % 2**24)
        scale = state.loss_scale or 1.0
        weight = float(self.example_weights[rows].sum())
        normaliser = scale / weight if weight > 0 else 0.0
        loss = 0.0
        for part, feed in zip(self._parts(rows), feeds or self.feeds(rows, state.step), strict=True):
            report = update.accumulate(feed, normaliser if len(part) else 0.0, rate, stop)
            loss += report.loss / scale
        report = StepResult(loss, report.stops, {block: norm / scale for block, norm in report.norms.items()})
        update.apply(rate, scale, keep=_adjust_scale(state, report))
        return report

    def _entropy(self, step: int) -> list[int]:
        """Dropout and augmentation are functions of seed and step alone, so that a resumed run draws the same."""
        return [self.seed, step, self.world.rank]

    def _parts(self, rows: IntArray) -> list[IntArray]:
        """This process's rows in as many parts as every other process has."""
        count = min(self.parts, -(-len(rows) // self.world.size))
        return np.array_split(self.world.shard(rows), count)


def _adjust_scale(state: TrainState, report: StepResult) -> bool:
    """Move the loss scale of float16 on, and say whether the update counts."""
    if state.loss_scale is None:
        return True
    is_finite = bool(np.isfinite(report.grad_norm))
    state.scaled_steps += 1
    if not is_finite:
        state.loss_scale, state.scaled_steps = state.loss_scale / 2, 0
    elif state.scaled_steps == SCALE_GROWS_AFTER:
        state.loss_scale, state.scaled_steps = state.loss_scale * 2, 0
    return is_finite


def require_finite(report: StepResult, state: TrainState, rows: Any) -> None:
    """Refuse a step whose loss or gradients are not finite.

    Raises:
        TrainingError: naming the step, the batch's rows and the norms of the gradients by block.
    """
    if state.loss_scale is not None and state.loss_scale >= SMALLEST_LOSS_SCALE and np.isfinite(report.loss):
        return  # in float16 a gradient that overflows is left out, until the scale can fall no further
    if np.isfinite(report.loss) and np.isfinite(report.grad_norm):
        return
    norms = ", ".join(f"{block} {norm:.4g}" for block, norm in report.norms.items())
    raise TrainingError(
        f"step {state.step + 1}: the loss is {report.loss}, the gradients' norm {report.grad_norm}; rows of its batch: "
        f"{join_limited(rows.tolist())}; norm of the gradients by block: {norms}. The last checkpoint is from before it. "
        "Lower train.learning_rate, set train.max_grad_norm, or look at those rows"
    )


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
        dev: rows to evaluate on, or None.
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
    before: Callable[[Session, TrainProgram, TrainStep], None] = lambda *_: None,
) -> TrainState:
    """Fine-tune the session's task and leave the best weights in `checkpoints`.

    Interrupted, it goes on from the newest intact checkpoint, bit for bit as if it had not been. SIGTERM and SIGINT finish the
    step, write a checkpoint, and then reach the handler that was there before.

    Args:
        session: the task; what is frozen beside its specification's is by the settings.
        plan: what stays the same.
        checkpoints: of this run alone.
        callbacks: what follows the run, called in turn; of several processes, give them to the one of rank 0.
        world: this process among those that train together; the only one by default.
        stop_asked: asked after each step, for those who cannot send a signal.
        before: called before the first step of a run that is not resumed, with weights in place; it must leave them so.

    Raises:
        TrainingError: at the first loss or gradient that is not finite, naming the step, the batch's rows and the norms.
        TrainingStopped: when asked to stop, if the sender of the signal leaves the process alive.
        ResumeError: when the checkpoint is of a run with other data or settings, listing what differs.
    """
    # Convolutions wait for pages; encoders, whose products take longer, do not.
    with deferred_signals() as interrupt, kept_between_steps(large=session.is_image):
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
                metrics = run.evaluate(asked)
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
        lower_is_better = is_lower_better(session.spec.task, plan.best_metric)
        self.control = TrainerControl(
            settings, session.blocks, len(plan.train), plan.dev is not None, plan.best_metric, lower_is_better
        )
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
        saved = world.load(checkpoints.load)
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

    def evaluate(self, asked: Callable[[], bool]) -> dict[str, float] | None:
        """Evaluate the weights on dev, and keep them when they are the best so far; None when asked to stop meanwhile.

        Of several processes the first one evaluates: running statistics of batch norms are those of each process's own rows.
        """
        metrics: dict[str, float] | None = self.world.broadcast(lambda: self._metrics(asked))
        if metrics is None:
            return None
        if self.control.record_evaluation(self.state, metrics) and self.world.is_main_process:
            self._checkpoints.save_best(self.state.step, self.session.weights(copy=False))
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
        report = self.train_step.run(self.update, state, rows, rate, stop, feeds)
        require_finite(report, state, plan.train.rows[rows])
        step = Step(state.step + 1, state.epoch + 1, report.loss, rate, report.grad_norm)
        self.control.advance(state)
        if self.control.is_logged(state):
            state.steps.append(asdict(step))
        return step, report.stops > 0

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        if self.world.is_main_process:
            self._checkpoints.save(self.update.state(copy=False), pack(self.state, self.plan.request, self._callbacks))
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
            by_tokens = find_task_type(self.session.spec.task).averages_over_tokens
            lengths, size = plan.train.lengths, plan.settings.batch_size
            self._batches = (state.epoch, epoch_batches(lengths, size, plan.seed, state.epoch, by_tokens))
        return self._batches[1][state.position]

    def _refreeze(self) -> None:
        self._frozen = self.control.frozen(self.state.epoch)
        self.session = self.session.refrozen(self._frozen)

    def _update(self) -> TrainProgram:
        update = TrainProgram(self.session, self.plan.settings, self._class_weights, self.world)
        update.initialise()
        return update
