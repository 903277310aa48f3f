"""Settings and outcome of a nightly run. Must not import Paddle or Prefect."""

import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hubflow.schemas.base import Settings
from hubflow.schemas.gate import GATED, GateSettings
from hubflow.schemas.references import VerdictRef
from hubflow.schemas.settings import FineTuneSettings

Outcome = Literal["skipped", "promoted", "rejected", "inconclusive"]


class ConcurrencySettings(Settings):
    """A slot of a concurrency limit of Prefect's server, held while a run trains and evaluates."""

    name: str = Field("gpu", min_length=1, description="Of the global concurrency limit")
    slots: int = Field(1, ge=1, description="That the limit is made with where there is none")
    create: bool = Field(True, description="Make a missing limit; False: a missing one is an error")
    lease_seconds: float = Field(
        120, ge=60, le=86_400, description="After so long a slot of a run that was killed is given back"
    )
    held: Literal["gpu", "always", "never"] = Field("gpu", description="gpu: when the run trains on a GPU")


class NightlySettings(FineTuneSettings):
    """All that a nightly run needs, the settings of a fine-tune among it: the parameter of the flow `nightly`."""

    start_from: Literal["deployed", "module"] = Field(
        "deployed", description="Begin with the weights in use, where they fit, or with the module's own"
    )
    gate: GateSettings = GateSettings()
    sample_rows: int = Field(20, ge=0, description="Rows of the gate's split that are predicted with what is in use at last")
    slot: ConcurrencySettings = ConcurrencySettings()

    @model_validator(mode="after")
    def _gated(self) -> Self:
        known = GATED[self.task]
        chosen = self.gate.metric or self.train.best_metric
        if chosen is not None and chosen not in known:
            raise ValueError(f"gate.metric: {chosen!r} cannot be compared row by row; use one of {', '.join(known)}")
        return self


class NightlyRun(BaseModel):
    """What a nightly run was made from, and how far it came: `nightly/<name>.json` of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: str = Field(description="Of data, module and settings")
    revision: int = Field(description="Of the deployed pointer when the run began: weights to begin with, and to judge against")
    began: datetime.datetime | None = Field(None, description="When the first try of it began, which its report is named by")
    is_done: bool = False
    verdict: VerdictRef | None = None
    report: str | None = None
    at: datetime.datetime


class NightlyResult(BaseModel):
    """What the flow `nightly` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    outcome: Outcome
    reason: str
    name: str
    store: str = Field(description="Absolute path, or URL, of the store")
    started_from: str | None = Field(None, description="Whose weights training began with")
    candidate: str | None = Field(None, description="Path of the export that was evaluated, in the store")
    deployed: str | None = Field(description="Path of the export in use now, in the store; None: nothing")
    revision: int = Field(description="Of the deployed pointer now")
    verdict: str | None = Field(None, description="Path of the verdict's folder, in the store")
    sample: str | None = Field(None, description="Path of the sample's predictions, in the store")
    report: str | None = Field(None, description="Absolute path, or URL, of the HTML report")
    seconds: dict[str, float] = Field(description="Seconds by stage")
