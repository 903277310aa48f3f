"""One update from rows: each process's share of them, in parts, with dropout and augmentation drawn from seed and step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.encoded import EncodedSplit, IntArray
from hubflow.errors import TrainingError, join_limited
from hubflow.modules.inputs import Feed
from hubflow.runtime.paddle_import import paddle
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.program import Report, Update

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

    def take(
        self,
        update: Update,
        state: TrainState,
        rows: IntArray,
        rate: float,
        stop: bool,
        feeds: Sequence[Feed] | None = None,
    ) -> Report:
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
            report = update.add(feed, normaliser if len(part) else 0.0, rate, stop)
            loss += report.loss / scale
        report = Report(loss, report.stops, {block: norm / scale for block, norm in report.norms.items()})
        update.finish(rate, scale, keep=_adjust_scale(state, report))
        return report

    def _entropy(self, step: int) -> list[int]:
        """Dropout and augmentation are functions of seed and step alone, so that a resumed run draws the same."""
        return [self.seed, step, self.world.rank]

    def _parts(self, rows: IntArray) -> list[IntArray]:
        """This process's rows in as many parts as every other process has."""
        count = min(self.parts, -(-len(rows) // self.world.size))
        return np.array_split(self.world.shard(rows), count)


def _adjust_scale(state: TrainState, report: Report) -> bool:
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


def require_finite(report: Report, state: TrainState, rows: Any) -> None:
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
