"""Learning-rate schedules: pure functions of the step. Must not import Paddle."""

import math
from collections.abc import Callable
from dataclasses import dataclass

DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda _progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Share of the peak rate by progress (0 to 1) through the steps after warm-up."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then a decay over the remaining steps, without a jump between the two."""

    decay: str
    peak: float
    total_steps: int
    warmup_steps: int

    def at(self, step: int) -> float:
        """Learning rate of the update number `step`, counted from 0.

        Warm-up of w steps gives `peak * (step + 1) / (w + 1)`: the first update already learns, and step w has the peak.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        after = max(1, self.total_steps - self.warmup_steps)
        return self.peak * DECAYS[self.decay](min(1.0, (step - self.warmup_steps) / after))


def warmup_steps(proportion: float, total_steps: int) -> int:
    """Steps of warm-up for a share of all steps, at least one when the share is above zero and there is room."""
    return 0 if proportion == 0 else min(total_steps - 1, max(1, round(proportion * total_steps)))
