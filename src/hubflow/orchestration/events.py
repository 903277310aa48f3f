"""Events that stages emit to Prefect's server: automations act on them, and its pages show them."""

import logging
from dataclasses import dataclass, field
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event as PrefectEvent
from prefect.events import Resource, emit_event
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from hubflow.errors import HubflowError
from hubflow.inference.verification import is_verified
from hubflow.orchestration.run_context import in_run, run_name
from hubflow.schemas.deployment import Deployed
from hubflow.schemas.references import DatasetRef, ExportRef, VerdictRef
from hubflow.text import printable

MAX_ERROR_CHARS = 2000
log = logging.getLogger(__name__)
EVENTS = (
    *("hubflow.dataset.accepted", "hubflow.dataset.rejected", "hubflow.export.verified"),
    *("hubflow.model.promoted", "hubflow.model.rejected", "hubflow.model.inconclusive", "hubflow.model.rolled-back"),
    *("hubflow.nightly.skipped", "hubflow.nightly.promoted", "hubflow.nightly.rejected", "hubflow.nightly.inconclusive"),
)
"""Every event that hubflow emits."""
MODEL = "hubflow.deployed."
"""Before the name of a deployed pointer: the resource of events about it, and of the flow nightly's."""


@dataclass(frozen=True)
class Event:
    """One event: its name, the resource that it is about, and what is to be known of it.

    Attributes:
        name: such as `hubflow.dataset.accepted`.
        resource: id of the resource.
        payload: as JSON can hold it.
    """

    name: str
    resource: str
    payload: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.name in EVENTS, self.name


def emit(event: Event | None) -> None:
    """Send an event to Prefect's server in a run; outside of one, nobody waits for it."""
    if event is not None and in_run():
        emit_event(event=event.name, resource=_labels(event), payload=event.payload)


def announce(event: Event | None) -> None:
    """Send an event from a command, where the environment or a profile names a server; that it cannot be sent is a warning."""
    if event is None or get_current_settings().api.url is None:
        return
    made = PrefectEvent(event=event.name, resource=Resource(_labels(event)), payload=event.payload)
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[made.model_dump(mode="json")])
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("the event %s could not be sent to %s (%r)", event.name, get_current_settings().api.url, error)


def _labels(event: Event) -> dict[str, str]:
    return {"prefect.resource.id": event.resource, "prefect.resource.name": event.resource.removeprefix(MODEL)}


def dataset_event(outcome: DatasetRef | HubflowError) -> Event:
    """`hubflow.dataset.accepted` with the reference, or `.rejected` with the error and where the quarantined rows are."""
    resource = f"hubflow.dataset.{run_name() or 'unnamed'}"
    if isinstance(outcome, HubflowError):
        where = None if outcome.quarantine is None else str(outcome.quarantine)
        reason = printable(str(outcome))[:MAX_ERROR_CHARS]
        return Event("hubflow.dataset.rejected", resource, {"reason": reason, "quarantine": where})
    return Event("hubflow.dataset.accepted", resource, {"dataset": outcome.model_dump(mode="json")})


def export_event(outcome: ExportRef | HubflowError) -> Event | None:
    """`hubflow.export.verified` with the reference; nothing of an error, for which the run has its own event."""
    if isinstance(outcome, HubflowError) or not is_verified():
        return None
    resource = f"hubflow.export.{run_name() or 'unnamed'}"
    return Event("hubflow.export.verified", resource, {"export": outcome.model_dump(mode="json")})


def verdict_event(outcome: VerdictRef | HubflowError) -> Event | None:
    """`hubflow.model.rejected`, or `.inconclusive`, with the verdict; a promotion has its event when it is made."""
    if isinstance(outcome, HubflowError) or outcome.verdict == "promoted":
        return None
    payload = {"reason": outcome.reason, "verdict": outcome.model_dump(mode="json")}
    return Event(f"hubflow.model.{outcome.verdict}", f"{MODEL}{outcome.name}", payload)


def pointer_event(outcome: Deployed | HubflowError) -> Event | None:
    """`hubflow.model.promoted`, or `.rolled-back`, with the last change of the deployed pointer."""
    if isinstance(outcome, HubflowError) or outcome.move is None:
        return None
    move = outcome.move
    name = "promoted" if move.action in ("promoted", "overridden") else "rolled-back"
    payload = {"reason": move.reason, "by": move.by, "change": move.model_dump(mode="json")}
    return Event(f"hubflow.model.{name}", f"{MODEL}{outcome.name}", payload)
