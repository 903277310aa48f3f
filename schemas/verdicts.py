"""Verdicts: what the gate found of a candidate, and what it decided. Must not import Paddle or Prefect."""

import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.references import Decision, ExportRef

VERDICT = "verdict.json"
Outcome = Literal["passed", "failed", "inconclusive"]


class Rule(BaseModel):
    """One rule, and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="The setting of the gate that asks for it")
    outcome: Outcome
    threshold: float
    value: float | None = Field(description="What is held against the threshold; None where it is not known")
    text: str = Field(description="What a person reads")


class Verdict(BaseModel):
    """What the gate found of a candidate, and what it decided: `verdict.json` of `verdicts/<key>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verdict: Decision
    reason: str
    name: str = Field(description="Of the deployed pointer")
    revision: int = Field(description="Of the pointer that the candidate was evaluated against; 0: nothing was deployed yet")
    candidate: ExportRef
    deployed: ExportRef | None = Field(description="What was in use; None: nothing")
    split: str
    rows: int = Field(description="Of the split that both were evaluated on")
    metric: str
    candidate_value: float
    deployed_value: float | None = Field(description="None where nothing is in use, or it cannot be evaluated on these rows")
    difference: float | None = Field(description="By how much the candidate is better: positive also of a smaller loss")
    interval: tuple[float, float] | None = Field(description="Of the difference, by a paired bootstrap over the rows")
    confidence: float
    resamples: int
    threshold: float = Field(description="That the interval is held against: the smallest gain")
    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = Field(description="What a person should know, such as labels that differ")
    at: datetime.datetime
