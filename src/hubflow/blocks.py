"""Prefect blocks: a store with its credentials, and a model registry; settings name them, and their secrets stay in them."""

from typing import Any, ClassVar, TypeVar

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from hubflow.errors import SettingsError
from hubflow.schemas.urls import TrackingUri, absolute_address, is_url, url_fault
from hubflow.store.remote import use_options

__all__ = ["HubflowStore", "ModelRegistry"]
AnyBlock = TypeVar("AnyBlock", bound=Block)


class HubflowStore(Block):
    """A store on object storage, or what is above several stores, with the credentials for it.

    A run uses the block for a store at this URL, or below it, and for no other address. The storage's endpoint is taken from
    the options alone. `prefect block register -m hubflow.blocks` adds the type to Prefect's pages.

    Attributes:
        url: what the credentials are for: every store whose URL is this one, or begins with it and a slash. It is the store
            of settings that name the block and no store.
        options: fsspec's options for that kind of storage, such as `key`, `secret` and `endpoint_url` of S3.

    Example:
        >>> HubflowStore(url="s3://models/hubflow/", options={"key": "k", "secret": "s"}).url
        's3://models/hubflow'
    """

    _block_type_name: ClassVar[str | None] = "Hubflow Store"
    _block_type_slug: ClassVar[str | None] = "hubflow-store"
    _description: ClassVar[str | None] = "A hubflow store on object storage, with the credentials for it."
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = Field(
        description="The store, or what is above several; the credentials are used for stores at this URL and below it, and "
        "for no other",
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

    def open(self) -> str:
        """Have this process open stores at the URL, and below it, with the block's options.

        Returns:
            The URL, which stages take as `store`.
        """
        options: dict[str, Any] = self.options.get_secret_value()
        use_options(absolute_address(self.url), options)
        return self.url


class ModelRegistry(Block):
    """MLflow's model registry, in which an alias follows the deployed pointer.

    A promotion makes a version of the registered model for the export, where there is none, and sets the alias to it. A
    rollback sets the alias back. `prefect block register -m hubflow.blocks` adds the type to Prefect's pages.

    Attributes:
        uri: of the registry: sqlite:////data/mlflow.db, or the address of a server that `trust.tracking_uris` of the machine
            allows.
        model: name of the registered model; that of the deployed pointer by default.
        alias: that marks the version in use.
        username: for a server that asks for one.
        password: of that user. Without them, MLFLOW_TRACKING_USERNAME, …_PASSWORD and …_TOKEN of the process count.
    """

    _block_type_name: ClassVar[str | None] = "Model Registry"
    _block_type_slug: ClassVar[str | None] = "hubflow-model-registry"
    _description: ClassVar[str | None] = "MLflow's model registry, in which an alias follows hubflow's deployed pointer."
    model_config = ConfigDict(hide_input_in_errors=True)

    uri: TrackingUri = Field(description="URI of MLflow's registry", examples=["https://mlflow.example.com"])
    model: str | None = Field(
        default=None,
        pattern=r"^[^/:'\"]+$",
        description="Name of the registered model; that of the deployed pointer when not given",
    )
    alias: str = Field(default="champion", pattern=r"^[A-Za-z0-9_-]+$", description="Alias of the version that is in use")
    username: str | None = Field(default=None, description="User, for a server that asks for one")
    password: SecretStr | None = Field(default=None, description="Password of that user")

    @model_validator(mode="after")
    def _asks_for_a_user(self) -> "ModelRegistry":
        if self.username is not None and not self.uri.startswith(("http://", "https://")):
            raise ValueError("username: only a registry at an http or https address asks for one; leave it out")
        return self

    def follow(self, name: str, store: str) -> str | None:
        """Have the alias be at the export that is in use.

        Args:
            name: of the deployed pointer.
            store: folder, or URL, of the store.

        Returns:
            The version that the alias is at; None where nothing is in use.

        Raises:
            RegistryError: when the registry refuses, or does not answer.
        """
        from hubflow.deployment.registry import follow_pointer, open_registry

        password = None if self.password is None else self.password.get_secret_value()
        client = open_registry(self.uri, self.username, password)
        return follow_pointer(client, self.model or name, self.alias, name, absolute_address(store))


def load_block(kind: type[AnyBlock], name: str, setting: str) -> AnyBlock:
    """A block of this Prefect server.

    Args:
        kind: class of the block.
        name: of the block.
        setting: that names it, for errors.

    Raises:
        SettingsError: when there is no such block, or it cannot be used.
    """
    try:
        return kind.load(name)  # type: ignore[return-value]  # the type of its other, asynchronous form
    except ValidationError as error:
        raise SettingsError(f"{setting}: the block {name!r} cannot be used: {error}; save it again") from None
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{setting}: {error}; make it on this Prefect server: `from hubflow.blocks import {kind.__name__}`, then "
            f"{kind.__name__}(…).save({name!r}). A block of another type is not used"
        ) from None
