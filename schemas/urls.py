"""Addresses in settings: paths of this machine, and URLs of object storage. Must not import Paddle, Prefect or fsspec."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, StringConstraints
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


@dataclass(frozen=True)
class PathRole:
    """Marks a setting as a path: of what is read, or of what is written; `may_be_name` where a name can take its place."""

    is_written: bool
    may_be_name: bool = False


@dataclass(frozen=True)
class PathSetting:
    """A path that settings hold.

    Attributes:
        name: dotted, as in a settings file.
        value: the path, or an address such as a URL.
        role: what it is for.
    """

    name: str
    value: str
    role: PathRole

    @property
    def is_relative(self) -> bool:
        """Whether it is a path that depends on the working directory."""
        return is_relative(self.value)


def as_text(value: Any) -> Any:
    """The text of a path object; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


InputPath = Annotated[str, StringConstraints(min_length=1), BeforeValidator(as_text), PathRole(is_written=False)]
"""A file or folder that is read."""
PathOrName = Annotated[str, StringConstraints(min_length=1), BeforeValidator(as_text), PathRole(False, may_be_name=True)]
"""A folder that is read, or a name in its place."""
OutputPath = Annotated[str, StringConstraints(min_length=1), BeforeValidator(as_text), PathRole(is_written=True)]
"""A file or folder that is written."""
StoreAddress = Annotated[OutputPath, AfterValidator(_without_secrets)]
"""A folder of this machine in which things are kept, or a URL without secrets."""
ExportAddress = Annotated[InputPath, AfterValidator(_without_secrets)]
"""An exported folder of this machine, or its URL without secrets."""


def is_relative(address: str) -> bool:
    """Whether an address is a path that depends on the working directory; URLs, also those of databases, may hold one."""
    for prefix in ("sqlite:///", "file://", "file:"):
        if address.startswith(prefix):
            return not PurePath(address.removeprefix(prefix)).is_absolute()
    return not (is_url(address) or address.startswith(("~", "hf://", "package:")) or PurePath(address).is_absolute())


def paths_of(settings: BaseModel, group: str = "") -> Iterator[PathSetting]:
    """Every path that settings hold, in groups of settings too."""
    for name, field in type(settings).model_fields.items():
        value, role = getattr(settings, name), _role(field.metadata) or _role((field.annotation,))
        if isinstance(value, BaseModel):
            yield from paths_of(value, f"{group}{name}.")
        elif role is not None:
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, str):
                    yield PathSetting(f"{group}{name}", one, role)


def _role(parts: Any) -> PathRole | None:
    """The role that an annotation is marked with, in a union too."""
    for part in parts:
        found = part if isinstance(part, PathRole) else _role(get_args(part))
        if found is not None:
            return found
    return None
