"""The far side of a store that lies on object storage: bytes by path, through fsspec. Must not import Paddle or Prefect."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubflow.schemas.folders import StoreError
from hubflow.schemas.urls import url_fault

CACHE_VARIABLE = "HUBFLOW_STORE_CACHE"
PROBE = ".hubflow-probe"  # of one name: what a killed process leaves of it, the next one removes
EXTRAS = {"s3": "s3", "s3a": "s3"}
CONDITIONAL = ("s3", "s3a")  # what has puts that fail when another came before
LOST = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_options: dict[str, dict[str, Any]] = {}
_writable: set[str] = set()


def use_options(url: str, options: Mapping[str, Any]) -> None:
    """Have this process open the store at `url` with options of fsspec's (`key`, `secret`, `endpoint_url` …), not written down.

    Without them it is opened with what the environment and fsspec's configuration say. With them, S3's endpoint is theirs, or
    Amazon's: keys are not sent to an endpoint of the environment.
    """
    _options[url.rstrip("/")] = dict(options)


class Remote:
    """Files below one URL.

    Raises:
        StoreError: from every method, when the storage cannot be reached or refuses; no message holds a secret.
    """

    def __init__(self, url: str) -> None:
        fault = url_fault(url)
        if fault is not None:
            raise StoreError(f"store: {fault}")
        self.url = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        self._options = _options.get(self.url, {})
        self._fs, self._base = self._opened()

    @property
    def cache(self) -> Path:
        """Folder of this machine for what was fetched: below $HUBFLOW_STORE_CACHE, else $XDG_CACHE_HOME or ~/.cache."""
        own, shared = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
        above = Path(own) if own else Path(shared or "~/.cache") / "hubflow" / "stores"
        return above.expanduser().resolve() / f"{self._protocol}-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"

    def require_writable(self) -> None:
        """Write a small object and remove it again, once in a process."""
        if self.url in _writable:
            return
        self.write(PROBE, b"hubflow")
        self.remove([PROBE])
        _writable.add(self.url)

    def read(self, path: str) -> bytes | None:
        """Content of one object; None when there is none."""
        with self._told("read", path):
            try:
                return bytes(self._fs.cat_file(self._at(path)))
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """Put one object, whole or not at all."""
        with self._told("written", path):
            self._make_folder(path)
            self._fs.pipe_file(self._at(path), data)

    def swap(self, path: str, expected: bytes | None, data: bytes) -> bool:
        """Put one object if it still holds `expected` (None: does not exist yet); False when it does not.

        On S3 the server decides (If-Match, If-None-Match), so of several at once one wins; elsewhere two at the very same
        moment can both be told that they won.
        """
        with self._told("written", path):
            try:
                tag = self._fs.info(self._at(path)).get("ETag")
            except FileNotFoundError:
                tag = None
            if self.read(path) != expected:
                return False
            condition: dict[str, str] = {}
            if self._protocol in CONDITIONAL:
                condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": str(tag)}
            try:
                self._make_folder(path)
                self._fs.pipe_file(self._at(path), data, **condition)
            except OSError as error:
                if _lost(error):
                    return False
                raise
            return True

    def download(self, path: str, target: Path) -> None:
        """Copy one object to a local file."""
        with self._told("read", path):
            self._fs.get_file(self._at(path), str(target))

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to one object."""
        with self._told("written", path):
            self._make_folder(path)
            self._fs.put_file(str(source), self._at(path))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object below a folder, by its path from there."""
        with self._told("read", folder):
            try:
                found = self._fs.find(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
            start = len(self._fs._strip_protocol(self._at(folder))) + 1
            return {name[start:]: int(known["size"] or 0) for name, known in found.items() if name[start:]}

    def remove(self, paths: list[str]) -> None:
        """Remove objects; those that are not there are no fault."""
        for path in paths:
            with self._told("removed", path), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._at(path))

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}"

    def _make_folder(self, path: str) -> None:
        """Where the storage has folders, as a mounted one does; S3 has none, and would be asked for a bucket."""
        if self._protocol not in CONDITIONAL:
            self._fs.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)

    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            fs, base = url_to_fs(self.url, use_listings_cache=False, **self._fs_options())
        except ImportError as error:
            extra = EXTRAS.get(self._protocol)
            needed = f"install the extra `{extra}` (uv sync --extra {extra})" if extra else "install it"
            raise StoreError(f"the store {self.url} needs a package that is not here ({error}); {needed}") from error
        except Exception as error:
            raise self._fault(error, "opened", "") from None
        return fs, str(base).rstrip("/")

    def _fs_options(self) -> dict[str, Any]:
        """Options of fsspec's; on S3 neither the environment nor fsspec's configuration adds an endpoint to given ones."""
        if self.url not in _options or self._protocol not in CONDITIONAL:
            return self._options
        config = {"ignore_configured_endpoint_urls": True, **self._options.get("config_kwargs", {})}
        return {"endpoint_url": None, "client_kwargs": {}, **self._options, "config_kwargs": config}

    @contextlib.contextmanager
    def _told(self, done: str, path: str) -> Iterator[None]:
        """What the storage's own libraries raise, whatever it is, as one kind of error without secrets."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise self._fault(error, done, path) from None  # the chain of causes could show what this message does not

    def _fault(self, error: Exception, done: str, path: str) -> StoreError:
        shown = f"{type(error).__name__}: {error}"
        for secret in (*_texts(self._options), *map(os.environ.get, SECRET_VARIABLES)):
            shown = shown.replace(secret, "…") if secret else shown
        where = f"{self.url}/{path}" if path else self.url
        return StoreError(f"{where} cannot be {done} ({shown}); check the URL, the network and the credentials")


def _lost(error: BaseException | None) -> bool:
    """Whether a conditional put was refused because another came before."""
    while error is not None:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        if code in LOST:
            return True
        error = error.__cause__ or error.__context__
    return False


def _texts(options: Mapping[str, Any]) -> Iterator[str]:
    """Every text among options that can be a secret."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str) and len(value) > 3 and name not in ("endpoint_url", "region_name"):  # noqa: PLR2004
            yield value
