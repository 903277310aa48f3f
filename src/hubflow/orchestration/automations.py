"""Automations of Prefect's server for hubflow's runs: notifications, and runs that have lost their process."""

import datetime
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import Action, CallWebhook, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from hubflow.errors import SettingsError

FLOWS = ("fine-tune", "nightly", "predict", "sweep")
WEBHOOK_BLOCK = "hubflow-notifications"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDED = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed"))
LOST = "no heartbeat came: the run's process, or its host, is gone. Run it again: it goes on from what the store holds"
_SUBJECT = "hubflow: {{ event.event }}"
_TEXT = (
    "{{ event.event }}: {{ event.resource.name }}. {{ event.payload.reason or '' }}"
    "{% if flow_run %} Run {{ flow_run.name }}: {{ flow_run|ui_url }}{% endif %}"
)
_JSON = '{"text": "hubflow: {{ event.event }}", "reason": {{ (event.payload.reason or "") | tojson }}}'


def setup_automations(
    notify: str | None = None,
    webhook: str | None = None,
    flows: Sequence[str] = FLOWS,
    zombie_after: int | None = 90,
    run_on_promotion: str | None = None,
) -> list[str]:
    """Make hubflow's automations on the Prefect server that is set, or bring those that are there up to date.

    - A run fails or crashes, the gate rejects a model, or its verdict is inconclusive: a notification, where one is asked for.
    - A run sends no heartbeat any more (a zombie): its state becomes Crashed. Heartbeats are sent where runs have
      `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` in their environment, 30 seconds at least.
    - A model is promoted: a deployment is started, where one is named.

    Args:
        notify: notification block `type/name`, such as `slack-webhook/alerts`, or a webhook block `webhook/name`.
        webhook: URL that is posted to; a webhook block is made of it.
        flows: names of the flows whose runs are watched.
        zombie_after: seconds without a heartbeat; None leaves zombies alone.
        run_on_promotion: deployment `flow/deployment` that a promotion starts.

    Returns:
        The names of the automations.

    Raises:
        SettingsError: when a block or deployment is missing, or a block is no notification block and no webhook.
    """
    actions = _notifications(notify, webhook)
    of_flows = {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
    wanted: dict[str, tuple[EventTrigger, Sequence[Any]]] = {}
    if actions:
        failed = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
        wanted["hubflow: a run failed"] = EventTrigger(expect=failed, match_related=of_flows), actions
        for verdict in ("rejected", "inconclusive"):
            wanted[f"hubflow: a model is {verdict}"] = EventTrigger(expect={f"hubflow.model.{verdict}"}), actions
    if zombie_after is not None:
        silent = EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=of_flows,
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDED},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=datetime.timedelta(seconds=zombie_after),
        )
        wanted["hubflow: a run has lost its process"] = silent, [ChangeFlowRunState(state=StateType.CRASHED, message=LOST)]
    if run_on_promotion is not None:
        promoted = EventTrigger(expect={"hubflow.model.promoted"})
        start = RunDeployment(source="selected", deployment_id=_deployment(run_on_promotion))
        wanted[f"hubflow: a promotion starts {run_on_promotion}"] = promoted, [start]
    for name, (trigger, then) in wanted.items():
        _save(AutomationCore(name=name, trigger=trigger, actions=list(then)))
    return list(wanted)


def _save(automation: AutomationCore) -> None:
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(automation.name)
        if known:
            # The client sends what is set, and the server asks for fields that have defaults.
            whole = AutomationCore.model_validate(automation.model_dump(mode="json", exclude_none=True))
            client.update_automation(known[0].id, whole)
        else:
            client.create_automation(automation)


def _notifications(notify: str | None, webhook: str | None) -> list[Action]:
    made: list[Action] = []
    if webhook is not None:
        block = Webhook(url=webhook, method="POST", headers={"Content-Type": "application/json"})
        made.append(CallWebhook(block_document_id=UUID(str(block.save(WEBHOOK_BLOCK, overwrite=True))), payload=_JSON))
    if notify is not None:
        try:
            found: Any = Block.load(notify)
        except ValueError as error:
            raise SettingsError(f"--notify {notify}: {error}; make the block on Prefect's pages or with Block.save") from None
        identity = found._block_document_id
        if isinstance(found, Webhook):
            made.append(CallWebhook(block_document_id=identity, payload=_JSON))
        elif isinstance(found, NotificationBlock):
            made.append(SendNotification(block_document_id=identity, subject=_SUBJECT, body=_TEXT))
        else:
            raise SettingsError(f"--notify {notify}: a {type(found).__name__}; expected a notification block or a webhook")
    return made


def _deployment(name: str) -> UUID:
    with get_client(sync_client=True) as client:
        try:
            return UUID(str(client.read_deployment_by_name(name).id))
        except (ObjectNotFound, ValueError) as error:
            raise SettingsError(
                f"--run-on-promotion {name}: Prefect's server has no such deployment ({error}); deploy it first, "
                "and name it FLOW/DEPLOYMENT"
            ) from None
