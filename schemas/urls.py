"""Addresses of stores: folders of this machine, and URLs of object storage. Must not import Paddle, Prefect or fsspec."""

from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

SECRET = "secret_in_url"  # noqa: S105  # the type of a fault, whose value is not to be shown
_FILE = "file://"


def is_url(address: str) -> bool:
    """Whether an address is on object storage (`s3://bucket/prefix`), not in a folder of this machine."""
    return "://" in address and not address.startswith(_FILE)


def url_fault(address: str) -> str | None:
    """What is wrong with a URL, without showing it where it holds a secret; None when nothing is."""
    parts = urlsplit(address)
    if parts.password is not None or parts.query:
        return (
            "the URL holds a password, a key or a query; leave them out, and give credentials by the environment, "
            "fsspec's configuration or a Prefect block (docs/production.md)"
        )
    if "::" in address or parts.fragment or not parts.netloc or ".." in PurePosixPath(parts.path).parts:
        return f"{address!r} is no URL of a store; expected one such as s3://bucket/prefix"
    return None


def absolute_address(address: str) -> str:
    """The address in full: an absolute path, or the URL without a slash at its end."""
    if is_url(address):
        return address.rstrip("/")
    return str(Path(address.removeprefix(_FILE)).expanduser().resolve())


def _without_secrets(address: str) -> str:
    fault = url_fault(address) if is_url(address) else None
    if fault is not None:
        # Pydantic shows a value that is at fault: what is told of it comes without the value (see `parsing`).
        raise PydanticCustomError(SECRET, "{fault}", {"fault": fault})
    return address


StoreAddress = Annotated[str, AfterValidator(_without_secrets)]
"""A folder of this machine, or a URL without secrets."""
