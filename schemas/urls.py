"""Addresses in settings: paths of this machine, and URLs of object storage."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, get_args
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, StringConstraints
from pydantic_core import PydanticCustomError

from hubflow.schemas.library import library_settings
from hubflow.schemas.parsing import SECRET

_ON_THIS_MACHINE = re.compile(r"(sqlite|file):|(?!databricks|uc:)[^:]*$")
"""URIs of MLflow that lead to no other machine: files, whose path may have no scheme."""
CONTAINER_SCHEMES = ("abfs", "abfss")
"""Of URLs whose host may be `container@account`."""
VARIABLE = "prefect://variables/"
"""Before the name of a Prefect Variable, where settings stand for its value."""
_FILE = "file://"
_OF_FILES = ("sqlite:///", "file://", "file:")


def is_url(address: str) -> bool:
    """Whether an address is on object storage (`s3://bucket/prefix`), not in a folder of this machine."""
    return "://" in address and not address.startswith(_FILE)


def url_fault(address: str) -> str | None:
    """What is wrong with the URL of a store, without showing it where it may hold a secret; None when nothing is.

    The URL is read as it is written, as fsspec does, and not by a parser that drops or decodes characters.
    """
    scheme, _, rest = address.partition("://")
    host, *segments = rest.rstrip("/").split("/")
    account = host.replace("@", "", 1) if scheme in CONTAINER_SCHEMES else host
    if set("?#") & set(rest) or "@" in account or (":" in host and not host.startswith("arn:")):
        return (
            "the URL holds a user, a password, a port or a query; leave them out, and give credentials and endpoint by the "
            "environment, fsspec's configuration or a Prefect block (docs/how-to/s3.md)"
        )
    if not address.isprintable() or "\\" in address or "::" in address or not all(map(_is_plain, (host, *segments))):
        return f"{address!r} is no URL of a store; expected one such as s3://bucket/prefix, without . and .. and empty parts"
    known = library_settings().trust.store_schemes
    if scheme not in known:
        return (
            f"{address!r}: a store's URL begins with {' or '.join(f'{one}://' for one in known)}; to allow more, the owner of "
            "the machine sets trust.store_schemes (docs/explanation/security.md)"
        )
    return None


def _is_plain(segment: str) -> bool:
    """Whether a part of a URL means itself, to a storage that decodes %2e too."""
    decoded = unquote(segment)
    return decoded not in ("", ".", "..") and not set("/\\") & set(decoded)


def is_under(address: str, prefix: str) -> bool:
    """Whether the URL of a store is `prefix` or below it, by whole parts as they are written: s3://bucket-2 is not in s3://bucket."""
    if url_fault(address) or url_fault(prefix):
        return False
    return f"{address.rstrip('/')}/".startswith(f"{prefix.rstrip('/')}/")


def absolute_address(address: str) -> str:
    """The address in full: an absolute path, or the URL without a slash at its end."""
    if is_url(address):
        return address.rstrip("/")
    return str(Path(address.removeprefix(_FILE)).expanduser().resolve())


def _store_address(address: str) -> str:
    return _refuse(address, url_fault(address) if is_url(address) else None)


def _on_this_machine(address: str) -> str:
    is_elsewhere = is_url(address) and not address.startswith("hf://")
    return _refuse(address, "a URL is not opened here; give a path on this machine" if is_elsewhere else None)


def _link_base(address: str) -> str:
    scheme, _, rest = address.partition("://")
    host = rest.partition("/")[0]
    if "@" in host or set("?#") & set(rest):
        return _refuse(
            address, "the URL holds a user, a password or a query, which all who see the run would read; leave them out"
        )
    is_link = scheme in ("http", "https") and rest.isprintable() and host and not set(" <>()\"'\\") & set(rest)
    return _refuse(address, None if is_link else "expected an address that a browser opens, such as https://host/folder")


def _tracking_uri(address: str) -> str:
    host = address.partition("://")[2].partition("/")[0]
    if ":" in host.rpartition("@")[0] or "password" in address.lower():
        return _refuse(
            address,
            "the URI holds a password, which is kept with the settings; leave it out, and give it by the environment "
            "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, or what your database reads)",
        )
    if _ON_THIS_MACHINE.match(address):
        return address
    known = (*library_settings().trust.tracking_uris, *filter(None, [os.environ.get("MLFLOW_TRACKING_URI")]))
    is_known = any(address.rstrip("/") == one.rstrip("/") or address.startswith(f"{one.rstrip('/')}/") for one in known)
    without_query = address.partition("?")[0].partition("#")[0]  # where a token may be
    if not is_known or not address.isprintable() or set("?#\\") & set(address) or ".." in unquote(address):
        return _refuse(
            address,
            f"the owner of the machine allows no runs to send to {without_query!r}: expected a file, sqlite:///…, or a URI of "
            "trust.tracking_uris, which the owner sets with HUBFLOW_TRUST_TRACKING_URIS (docs/explanation/security.md)",
        )
    return address


def _refuse(address: str, fault: str | None) -> str:
    if fault is not None:
        # Pydantic shows a value that is at fault; this type of fault is reported without the value (see `parsing`).
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


def _can_be_a_path(text: str) -> str:
    """Refuse what the system takes for no path, and the home of a user whom it does not know."""
    if "\x00" in text:
        raise ValueError("a path with a null character; remove it")
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text.partition('/')[0]} is the home of no user of this machine; write the path in full") from error
    return text


_Text = Annotated[str, StringConstraints(min_length=1), BeforeValidator(as_text), AfterValidator(_can_be_a_path)]
InputPath = Annotated[_Text, AfterValidator(_on_this_machine), PathRole(is_written=False)]
"""A file or folder of this machine that is read."""
PathOrName = Annotated[_Text, AfterValidator(_on_this_machine), PathRole(False, may_be_name=True)]
"""A folder that is read, or a name in its place, such as that of a hub module."""
OutputPath = Annotated[_Text, AfterValidator(_on_this_machine), PathRole(is_written=True)]
"""A file or folder of this machine that is written."""
StoreAddress = Annotated[_Text, AfterValidator(_store_address), PathRole(is_written=True)]
"""A folder of this machine in which things are kept, or a URL without secrets."""
ExportAddress = Annotated[_Text, AfterValidator(_store_address), PathRole(is_written=False)]
"""An exported folder of this machine, or its URL without secrets."""
TrackingUri = Annotated[_Text, AfterValidator(_tracking_uri), PathRole(is_written=True)]
"""URI of an MLflow tracking store, without a password."""
LinkBase = Annotated[str, AfterValidator(_link_base)]
"""Start of links for browsers, without a password. Nothing is requested from it."""


def local_path(address: str) -> Path | None:
    """The absolute path on this machine that an address names; None of what is elsewhere. URLs of databases may hold one."""
    for prefix in _OF_FILES:
        if address.startswith(prefix):
            address = address.removeprefix(prefix)
            break
    return None if "://" in address or address.startswith(("hf://", "package:")) else Path(address).expanduser().absolute()


def is_relative(address: str) -> bool:
    """Whether an address is a path that depends on the working directory; URLs, also those of databases, may hold one."""
    for prefix in _OF_FILES:
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
