"""calibration_chart: each bin where its probability and its share of right rows are, on axes from 0 to 1."""

from hubflow.reporting.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, calibration_chart
from hubflow.schemas.evaluation import Calibration, CalibrationBin

BINS = [
    CalibrationBin(low=0.0, high=0.5, count=0, confidence=0.0, accuracy=0.0),
    CalibrationBin(low=0.5, high=0.75, count=30, confidence=0.6, accuracy=0.4),
    CalibrationBin(low=0.75, high=1.0, count=10, confidence=1.0, accuracy=1.0),
]


def test_a_bin_is_drawn_at_its_own_mean_and_an_empty_one_is_not() -> None:
    chart = calibration_chart(Calibration(ece=0.15, bins=BINS), "rows")
    assert chart is not None
    wide, high = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP
    model, ideal = chart.lines
    assert [dot[:2] for dot in model.dots] == [(LEFT + 0.6 * wide, TOP + 0.6 * high), (WIDTH - RIGHT, TOP)]
    assert ideal.points == f"{LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{TOP}"
    assert not ideal.dots
    assert [(bar.x, bar.width, bar.height) for bar in chart.bars] == [
        (LEFT + 0.5 * wide, wide / 4, 0.75 * high),
        (LEFT + 0.75 * wide, wide / 4, round(0.25 * high, 1)),
    ]
    assert chart.bars[0].title == "30 rows from 0.5 to 0.75: 0.600 sure, 0.400 right"


def test_there_is_no_chart_of_nothing() -> None:
    assert calibration_chart(None, "rows") is None
    assert calibration_chart(Calibration(ece=0.0, bins=BINS[:1]), "rows") is None
