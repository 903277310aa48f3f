"""Stage promote: put the export that the gate has promoted in use."""

from prefect.transactions import Transaction, get_transaction

from hubflow.deployment.pointer import promote_candidate, undo
from hubflow.errors import RegistryError
from hubflow.orchestration.events import emit, pointer_event
from hubflow.orchestration.registry import registry_of
from hubflow.orchestration.tasks import stage
from hubflow.schemas.deployment import Deployed
from hubflow.schemas.references import VerdictRef
from hubflow.text import markdown_text

_PROMOTED = "promoted"


def _describe(deployed: Deployed) -> str:
    move = deployed.move
    assert move is not None, "a promotion leaves something in use"
    export = move.export.path if move.export else "nothing"
    return f"{deployed.name}: {export} in use, revision {move.revision}\n\n{markdown_text(move.reason)}"


@stage(_describe, event=pointer_event)
def promote(verdict: VerdictRef, store: str, by: str | None = None, registry_block: str | None = None) -> Deployed:
    """Put a candidate in use that the gate has promoted, if the pointer is still where it was when the candidate was evaluated.

    A candidate that is in use already stays in use. When several runs promote at the same time, one succeeds, and the others
    get an error. In a transaction of Prefect's, the promotion is taken back when what comes after it fails.

    Args:
        verdict: the gate's verdict, which names the candidate and the deployed pointer.
        store: folder, or URL, of the store.
        by: who promotes; the user of this process by default.
        registry_block: Prefect block of the type Model Registry, whose alias follows the pointer from then on; the one that
            the pointer remembers by default.

    Returns:
        The pointer with all its changes, this one the last.

    Raises:
        PromotionError: when the verdict is not `promoted`, or the pointer has moved since.
        SettingsError: when there is no such block.
        RegistryError: when the registry's alias cannot be moved; the promotion is taken back.
        StoreError: when candidate or verdict are missing or altered, or the pointer cannot be written.
    """
    registry = registry_of(verdict.name, store, registry_block)
    deployed, transaction = promote_candidate(verdict, store, by, registry_block), get_transaction()
    if registry is not None:
        try:
            registry.follow(verdict.name, store)
        except RegistryError:
            undo(verdict, store, "the alias of the model registry could not be moved")
            raise
    move = deployed.move
    if transaction is not None and move is not None and move.verdict == verdict:
        transaction.set(_PROMOTED, {"verdict": verdict, "store": store})
    return deployed


@promote.on_rollback
def _take_back(transaction: Transaction) -> None:
    """Take the promotion back when what comes after it in a transaction fails."""
    promoted = transaction.get(_PROMOTED, default=None)
    if promoted is not None:
        emit(pointer_event(undo(**promoted, reason="the run failed after the promotion")))
        name, store = promoted["verdict"].name, promoted["store"]
        if (registry := registry_of(name, store)) is not None:
            registry.follow(name, store)
