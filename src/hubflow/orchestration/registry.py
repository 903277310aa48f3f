"""The alias of a model registry, moved with the deployed pointer."""

from collections.abc import Callable

from hubflow.blocks import ModelRegistry, load_block
from hubflow.deployment.pointer import read_deployed
from hubflow.errors import RegistryError
from hubflow.schemas.deployment import Deployed


def registry_of(name: str, store: str, block: str | None = None) -> ModelRegistry | None:
    """The model registry that follows a deployed pointer, by the name of its block.

    Args:
        name: of the deployed pointer.
        store: folder, or URL, of the store.
        block: to use; the one that the pointer remembers by default.

    Returns:
        The registry; None where the pointer has none.

    Raises:
        SettingsError: when this Prefect server has no such block.
    """
    known = block or read_deployed(store, name).registry_block
    return None if known is None else load_block(ModelRegistry, known, "registry_block")


def move_with_registry(move: Callable[[], Deployed], name: str, store: str, block: str | None = None) -> Deployed:
    """Move the deployed pointer, and the alias after it.

    Args:
        move: moves the pointer. It is not called when the block cannot be loaded.
        name: of the pointer.
        store: folder, or URL, of the store.
        block: of the registry; the one that the pointer remembers by default.

    Returns:
        The pointer.

    Raises:
        SettingsError: when there is no such block; the pointer is where it was.
        RegistryError: when the pointer has moved, and the alias could not be.
    """
    registry = registry_of(name, store, block)
    moved = move()
    if registry is not None:
        try:
            registry.follow(name, store)
        except RegistryError as error:
            raise RegistryError(
                f"{name!r} is at revision {moved.revision}, but the alias of the model registry is not: {error}\nThen give "
                f"`hubflow deployed {name} --store {store} --sync-registry`"
            ) from error
    return moved
