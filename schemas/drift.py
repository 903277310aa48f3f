"""Settings of the comparison with the last accepted data set. Must not import Paddle or Prefect."""

from typing import Self

from pydantic import Field, model_validator

from hubflow.schemas.base import Settings


class DriftLimits(Settings):
    """From which value on a change is a warning, and from which the stage fails; None: never."""

    warn: float | None = Field(None, ge=0)
    fail: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn is not None and self.fail is not None and self.fail < self.warn:
            raise ValueError("fail must not be below warn: what fails is a warning already")
        return self


class DriftSettings(Settings):
    """How a data set may differ from the last other one that was accepted from the same sources.

    Nothing fails by default: that tonight's rows differ from last night's is a fact about the world as often as a fault, and
    only who knows the data can say how much is too much.
    """

    psi: DriftLimits = Field(
        DriftLimits(warn=0.1),
        description="Population stability index of lengths, characters and images (Siddiqi, Credit Risk Scorecards, 2006: "
        "below 0.1 no change, 0.1 to 0.25 one to look at, above 0.25 a shift)",
    )
    labels: DriftLimits = Field(
        DriftLimits(warn=0.1),
        description="Jensen-Shannon distance of the label shares, base 2: 0 is the same, 1 has no label in common (Endres and "
        "Schindelin 2003); 0.1 is about 62% of one of two labels where it was 50%",
    )
    rows: DriftLimits = Field(
        DriftLimits(warn=2.0), description="How many times as many rows a split has, or had: 2 is twice as many or half as many"
    )
    series: str | None = Field(
        None,
        min_length=1,
        description="Data sets of one series are compared; by default those with the same task, sources and columns. Needed "
        "where the sources' names change from run to run, as dated files do",
    )
