"""Open the store that a flow's settings name, with credentials that a Prefect block keeps."""

from typing import Any, ClassVar

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, ValidationError, field_validator

from hubflow.errors import SettingsError
from hubflow.schemas.urls import absolute_address, is_under, is_url, url_fault
from hubflow.store.remote import use_options
from hubflow.store.store import Store


class StoreCredentials(Block):
    """Credentials for stores on object storage, and the URL that they are for.

    A run uses the block for a store at this URL, or below it, and for no other address. The storage's endpoint is taken from
    the options alone. `prefect block register -m hubflow.orchestration.store_access` adds the type to Prefect's pages.

    Attributes:
        url: what the credentials are for: every store whose URL is this one, or begins with it and a slash.
        options: fsspec's options for that kind of storage, such as `key`, `secret` and `endpoint_url` of S3.
    """

    _block_type_name: ClassVar[str | None] = "Store Credentials"
    _block_type_slug: ClassVar[str | None] = "hubflow-store-credentials"
    _description: ClassVar[str | None] = "Credentials for hubflow stores on object storage, and the URL that they are for."
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = Field(
        description="The credentials are used for stores at this URL and below it, for no other",
        examples=["s3://bucket/prefix"],
    )
    options: SecretDict = Field(
        default=SecretDict({}), description="fsspec's options for this storage: key, secret, endpoint_url …"
    )

    @field_validator("url")
    @classmethod
    def _is_of_a_store(cls, url: str) -> str:
        fault = url_fault(url) if is_url(url) else f"{url!r} is no URL of a store; expected one such as s3://bucket/prefix"
        if fault is not None:
            raise ValueError(fault)
        return url.rstrip("/")


def open_store(store: str, block: str | None = None) -> str:
    """The store's address in full, once this process can write there.

    Args:
        store: a folder, or a URL.
        block: name of a `StoreCredentials` block for the URL.

    Raises:
        SettingsError: when there is no such block, it is for another URL, or the store is a folder, which needs none.
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
    fault = url_fault(store)
    if fault is not None:
        raise SettingsError(f"store: {fault}")
    credentials = _loaded(block)
    if not is_under(store, credentials.url):
        raise SettingsError(
            f"store_block: {block!r} is for {credentials.url} and what is below it, the store is {store}; name the block that "
            "is for this store, or choose a store there"
        )
    options: dict[str, Any] = credentials.options.get_secret_value()
    use_options(absolute_address(store), options)


def _loaded(block: str) -> StoreCredentials:
    try:
        return StoreCredentials.load(block)  # type: ignore[return-value]  # the type of its other, asynchronous form
    except ValidationError as error:
        raise SettingsError(f"store_block: the block {block!r} cannot be used: {error}; save it again") from None
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            f"store_block: {error}; make it on this Prefect server: StoreCredentials(url=…, options=…).save({block!r}), see "
            "docs/production.md. A Secret block says for no URL what it is for, and is not used"
        ) from None
