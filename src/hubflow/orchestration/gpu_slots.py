"""One run at a time on one GPU: a slot of a concurrency limit that waits, and that a killed run gives back."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from rich.markup import escape

from hubflow.console import say
from hubflow.errors import ConcurrencyError
from hubflow.schemas.nightly import ConcurrencySettings


@contextmanager
def slot(settings: ConcurrencySettings, device: str) -> Iterator[None]:
    """Hold a slot while the block runs; wait for it where others hold them all.

    The slot is a lease that this process renews: when it is killed, the server gives the slot back after `lease_seconds`.

    Raises:
        ConcurrencyError: when the limit is missing and is not to be made.
    """
    if settings.held == "never" or (settings.held == "gpu" and not _is_gpu(device)):
        yield
        return
    require_limit(settings)
    say(f"[dim]waiting for a slot of {escape(repr(settings.name))} …[/dim]")
    with concurrency(settings.name, strict=True, lease_duration=settings.lease_seconds):
        yield


def require_limit(settings: ConcurrencySettings) -> None:
    """Make the limit where it is missing; one that is there stays as it is.

    Raises:
        ConcurrencyError: when it is missing and is not to be made.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(settings.name)
        except ObjectNotFound:
            if not settings.create:
                raise ConcurrencyError(
                    f"slot: Prefect's server has no concurrency limit {settings.name!r}; make it with `prefect gcl create "
                    f"{settings.name} --limit {settings.slots}`, or set slot.create"
                ) from None
            with suppress(ObjectAlreadyExists):  # another run has just made it
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=settings.name, limit=settings.slots))


def _is_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    from hubflow.runtime.paddle_import import paddle, place_of

    return isinstance(place_of(device.partition(",")[0]), paddle.CUDAPlace)
