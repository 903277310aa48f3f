"""How often a model is right where it is so sure, as a reliability diagram. Must not import Paddle or Prefect."""

import numpy as np

from hubflow.reporting.charts import Bar, LineChart, Series, line_chart
from hubflow.schemas.evaluation import Calibration, CalibrationBin

EVEN = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DIAGONAL = np.array([0.0, 1.0])


def calibration_chart(calibration: Calibration | None, unit: str) -> LineChart | None:
    """Fraction that is right over the mean probability of what was predicted, with the share of rows in each bin behind it.

    Guo et al., arXiv:1706.04599, figure 1; a point is at the mean probability of its bin, not at the bin's middle.

    Args:
        calibration: of a split.
        unit: what was counted: rows, or words.

    Returns:
        None where nothing was counted.
    """
    bins = [one for one in calibration.bins if one.count] if calibration is not None else []
    total = sum(one.count for one in bins)
    if not total:
        return None
    confidence, accuracy = (np.array([getattr(one, name) for one in bins]) for name in ("confidence", "accuracy"))
    shares = [Bar(one.low, one.high, one.count / total, _said(one, unit)) for one in bins]
    return line_chart(
        "Fraction that is right",
        [Series("this model", confidence, accuracy), Series("as right as sure", DIAGONAL, DIAGONAL, "ideal")],
        f"bars: share of the {unit}",
        axis="probability of what was predicted",
        bars=shares,
        axes=EVEN,
    )


def _said(one: CalibrationBin, unit: str) -> str:
    return f"{one.count} {unit} from {one.low:.3g} to {one.high:.3g}: {one.confidence:.3f} sure, {one.accuracy:.3f} right"
