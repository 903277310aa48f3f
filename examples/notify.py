"""Have Prefect's server post to a webhook when a nightly run fails, and when its model is not put to use.

uv run python examples/notify.py https://hooks.example.org/...
"""

import sys

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture

BODY = '{"text": "hubflow nightly: {{ event.event }}", "reason": {{ (event.payload.reason or "") | tojson }}}'


def notify(url: str) -> None:
    """Make the block and the automations on the server that Prefect is set to."""
    webhook = Webhook(url=url, method="POST", headers={"Content-Type": "application/json"})
    block = webhook.save("hubflow-nightly", overwrite=True)
    failed = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": "nightly"},
        posture=Posture.Reactive,
        threshold=1,
    )
    rejected = EventTrigger(
        expect={"hubflow.nightly.rejected", "hubflow.nightly.inconclusive"}, posture=Posture.Reactive, threshold=1
    )
    for name, trigger in (("hubflow: a nightly run failed", failed), ("hubflow: a model was not put to use", rejected)):
        Automation(name=name, trigger=trigger, actions=[CallWebhook(block_document_id=block, payload=BODY)]).create()
        print(f"made: {name}")


if __name__ == "__main__":
    notify(sys.argv[1])
