"""Open the store that a flow's settings name, with credentials that a Prefect block keeps."""

import json
from collections.abc import Mapping
from typing import Any

from prefect.blocks.system import Secret

from hubflow.schemas.errors import SettingsError
from hubflow.schemas.urls import absolute_address, is_url
from hubflow.stages.remote import use_options
from hubflow.stages.store import Store


def open_store(store: str, block: str | None = None) -> str:
    """The store's address in full, once this process can write there.

    Args:
        store: a folder, or a URL.
        block: name of a Prefect Secret block whose value is a mapping of fsspec's options for the URL.

    Raises:
        SettingsError: when there is no such block, its value is no mapping, or the store is a folder, which needs none.
        StoreError: when the store cannot be written.
    """
    use_block(store, block)
    Store(store).require_writable()
    return absolute_address(store)


def use_block(store: str, block: str | None) -> None:
    """Have this process open the store at a URL with the options in a block; without a block nothing is done.

    Raises:
        SettingsError: as `open_store` does.
    """
    if block is None:
        return
    if not is_url(store):
        raise SettingsError(f"store_block is {block!r}, but {store} is a folder, which needs no credentials; leave it out")
    use_options(absolute_address(store), _options(block))


def _options(block: str) -> Mapping[str, Any]:
    try:
        value: Any = Secret.load(block).get()  # type: ignore[union-attr]  # the type of its other, asynchronous form
    except ValueError as error:
        raise SettingsError(f"store_block: {error}; make a Secret block of that name on this Prefect server") from None
    try:
        options = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        options = None
    if not isinstance(options, Mapping):
        raise SettingsError(
            f"store_block: the Secret {block!r} is no mapping of fsspec's options such as key, secret and endpoint_url"
        )
    return options
