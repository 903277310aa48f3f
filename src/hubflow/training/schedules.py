"""Learning-rate schedules: pure functions of the step. Must not import Paddle."""

import math
from dataclasses import dataclass

from hubflow.schemas.training import (
    AnySchedule,
    Constant,
    Cosine,
    Linear,
    Noam,
    Polynomial,
    SlantedTriangular,
    TrainSettings,
)


@dataclass(frozen=True)
class Schedule:
    """A warm-up to `peak`, then the decay `kind` over the remaining steps, without a jump between the two.

    Attributes:
        kind: the decay and its arguments.
        peak: highest rate.
        total_steps: updates of the whole run.
        warmup_steps: updates before the one that has the peak.
    """

    kind: AnySchedule
    peak: float
    total_steps: int
    warmup_steps: int

    def at(self, step: int) -> float:
        """Learning rate of the update number `step`, counted from 0.

        Warm-up of w steps gives `peak * (step + 1) / (w + 1)`: the first update already learns, and step w has the peak. The
        slanted triangle's starts at `peak / ratio` instead.
        """
        if step < self.warmup_steps:
            return self.peak * self._warmup(step)
        return self.peak * self._decay(step)

    def _warmup(self, step: int) -> float:
        if isinstance(self.kind, SlantedTriangular):
            return _slanted(step / self.warmup_steps, self.kind.ratio)
        return (step + 1) / (self.warmup_steps + 1)

    def _decay(self, step: int) -> float:
        kind = self.kind
        left = 1.0 - min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        match kind:
            case Constant():
                return 1.0
            case Linear():
                return left
            case Cosine():
                return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
            case Polynomial():
                return float(kind.end_factor + (1.0 - kind.end_factor) * left**kind.power)
            case Noam():
                return math.sqrt((self.warmup_steps + 1) / (step + 1))
            case SlantedTriangular():
                return _slanted(left, kind.ratio)


def _slanted(share: float, ratio: float) -> float:
    return (1.0 + share * (ratio - 1.0)) / ratio


def schedule_of(settings: TrainSettings, total_steps: int) -> Schedule:
    """The schedule that the settings describe, for a run of `total_steps` updates."""
    given = settings.warmup_steps
    warmup = warmup_steps(settings.warmup_proportion, total_steps) if given is None else min(given, total_steps - 1)
    return Schedule(settings.schedule, settings.learning_rate, total_steps, warmup)


def warmup_steps(proportion: float, total_steps: int) -> int:
    """Steps of warm-up for a share of all steps, at least one when the share is above zero and there is room."""
    return 0 if proportion == 0 else min(total_steps - 1, max(1, round(proportion * total_steps)))
