"""The control of a run: how long it is, what is frozen when, when to judge, what counts as best, when it is over. No Paddle."""

import math
from collections.abc import Mapping, Sequence

from hubflow.errors import SettingsError
from hubflow.schemas.metrics import LOWER_IS_BETTER
from hubflow.schemas.training import TrainSettings
from hubflow.training.callbacks import TrainState
from hubflow.training.schedules import schedule_of


class TrainerControl:
    """What the settings make of a run over `rows` rows.

    Args:
        settings: of training.
        blocks: of the module, from bottom to top.
        rows: of the train split.
        has_dev: whether there is a dev split to judge on.
        best_metric: picks the best weights.

    Raises:
        SettingsError: when more blocks are to be frozen than there are, early stopping has nothing to judge on, or the warm-up
            is as long as the run.
    """

    def __init__(self, settings: TrainSettings, blocks: Sequence[str], rows: int, has_dev: bool, best_metric: str) -> None:
        if settings.freeze_blocks > len(blocks):
            raise SettingsError(
                f"train.freeze_blocks is {settings.freeze_blocks}, but the module has {len(blocks)} blocks: {', '.join(blocks)}"
            )
        if settings.early_stopping is not None and not has_dev:
            raise SettingsError("train.early_stopping needs a dev split to judge on; give data.dev or a dev_fraction above 0")
        self._settings, self._blocks, self._has_dev, self._metric = settings, tuple(blocks), has_dev, best_metric
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

    def judge(self, state: TrainState, metrics: Mapping[str, float]) -> bool:
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
        """Whether there is nothing left to do but to judge."""
        stopping = self._settings.early_stopping
        return state.step >= self.total_steps or (stopping is not None and state.stale >= stopping.patience)

    def _is_better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        if than is None or math.isnan(than):  # whatever the first is; then any number is better than none
            return than is None or not math.isnan(value)
        return value < than - by if self._metric in LOWER_IS_BETTER else value > than + by
