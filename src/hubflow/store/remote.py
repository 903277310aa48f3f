"""Stores on object storage: bytes by path through fsspec, and folders fetched and sent whole."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hubflow.errors import DamagedError, StoreError, join_limited
from hubflow.files import read_file
from hubflow.schemas.library import library_settings
from hubflow.schemas.urls import url_fault
from hubflow.store.manifest import MANIFEST, MANIFEST_SIGNATURE, atomic_folder, leads_out, verify_folder, write_atomically

CACHE_VARIABLE = "HUBFLOW_STORE_CACHE"
PROBE = ".hubflow-probe"  # of one name: what a killed process leaves of it, the next one removes
EXTRAS = {"s3": "s3", "s3a": "s3"}
CONDITIONAL = ("s3", "s3a")  # what has puts that fail when another came before
PASSING = ("HTTPClientError", "ConnectionError", "ClientError", "ResponseParserError", "FlexibleChecksumError", "_ShortError")
"""Kinds of errors of botocore and aiohttp, which are no OSError, that may pass."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
MARK = "hubflow-writer"
LOST = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
T = TypeVar("T")
_options: dict[str, dict[str, Any]] = {}
_writable: set[str] = set()


def use_options(url: str, options: Mapping[str, Any]) -> None:
    """Have this process open the store at `url` with options of fsspec's (`key`, `secret`, `endpoint_url` …), not written down.

    Without them it is opened with what the environment and fsspec's configuration say. With them, S3's endpoint is theirs, or
    Amazon's: keys are not sent to an endpoint of the environment.
    """
    _options[url.rstrip("/")] = dict(options)


class _ShortError(Exception):
    """Other bytes came than the storage has."""


class Remote:
    """Files below one URL.

    What may pass, such as a connection that is reset, a status of 500 or 503 or half a body, is tried again for a while. A
    storage that does not answer is given up after a few times `limits.storage_timeout_seconds`.

    Raises:
        StoreError: from every method, when the storage cannot be reached or refuses; no message holds a secret.
    """

    def __init__(self, url: str) -> None:
        fault = url_fault(url)
        if fault is not None:
            raise StoreError(f"store: {fault}")
        self.url = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        self._has_conditions = self._protocol in CONDITIONAL
        self._options = _options.get(self.url, {})
        self._timeout = library_settings().limits.storage_timeout_seconds
        self._fs, self._base = self._opened(attempts=3)

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
        at = self._at(path)
        alone = {"max_concurrency": 1} if self._has_conditions else {}  # it would ask for the size once more

        def content() -> bytes | None:
            try:
                size = self._fs.info(at)["size"]
                data = bytes(self._fs.cat_file(at, **alone))
            except FileNotFoundError:
                return None
            _require_size(len(data), size)
            return data

        return self._retried("read", path, content)

    def write(self, path: str, data: bytes) -> None:
        """Put one object, whole or not at all."""
        self._retried("written", path, lambda: self._put(self._fs, path, data))

    def swap(self, path: str, expected: bytes | None, data: bytes) -> bool:
        """Put one object if it still holds `expected` (None: does not exist yet); False when it does not.

        On S3 the server decides (If-Match, If-None-Match), so of several at once one wins; elsewhere two at the very same
        moment can both get the answer that they won. A mark at the object says whose it is when the server's answer is lost,
        and when a client below this one has sent the request twice.
        """
        fs = self._opened(attempts=1)[0] if self._has_conditions else self._fs
        mark = uuid.uuid4().hex
        for attempt, wait in enumerate(_waits()):
            tag = self._retried("read", path, lambda: self._tag(path))
            found = self.read(path)
            if attempt > 0 and found == data and self._is_marked(path, mark):
                return True
            if found != expected:
                return False
            condition: dict[str, Any] = {}
            if self._has_conditions:
                condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": str(tag)}
                condition["Metadata"] = {MARK: mark}
            try:
                self._put(fs, path, data, **condition)
                return True
            except Exception as error:
                if _lost(error):
                    return self._is_marked(path, mark)
                if not _may_pass(error) or wait is None:
                    raise self._fault(error, "written", path) from None
            time.sleep(wait)
        raise AssertionError

    def download(self, path: str, target: Path, size: int | None = None) -> None:
        """Copy one object to a local file; with `size`, its bytes on the storage, none that is shorter or longer."""

        def copy() -> None:
            self._fs.get_file(self._at(path), str(target))
            _require_size(target.stat().st_size, size)

        self._retried("read", path, copy)

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to one object."""

        def copy() -> None:
            self._make_folder(path)
            self._fs.put_file(str(source), self._at(path))

        self._retried("written", path, copy)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object below a folder, by its path from there."""

        def found() -> dict[str, int]:
            try:
                objects = self._fs.find(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
            start = len(self._fs._strip_protocol(self._at(folder))) + 1
            return {name[start:]: int(known["size"] or 0) for name, known in objects.items() if name[start:]}

        return self._retried("read", folder, found)

    def remove(self, paths: list[str]) -> None:
        """Remove objects; those that are not there are no fault."""

        def removed(path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._at(path))

        for path in paths:
            self._retried("removed", path, functools.partial(removed, path))

    def _put(self, fs: Any, path: str, data: bytes, **condition: Any) -> None:
        self._make_folder(path)
        fs.pipe_file(self._at(path), data, **condition)

    def _tag(self, path: str) -> str | None:
        try:
            tag: str | None = self._fs.info(self._at(path)).get("ETag")
            return tag
        except FileNotFoundError:
            return None

    def _is_marked(self, path: str, mark: str) -> bool:
        """Whether what is there was put with this mark; true on storage that keeps no marks."""

        def found() -> bool:
            try:
                return not self._has_conditions or self._fs.metadata(self._at(path), refresh=True).get(MARK) == mark
            except FileNotFoundError:
                return False

        return self._retried("read", path, found)

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}"

    def _make_folder(self, path: str) -> None:
        """Where the storage has folders, as a mounted one does; S3 has none, and would be asked for a bucket."""
        if not self._has_conditions:
            self._fs.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)

    def _opened(self, attempts: int) -> tuple[Any, str]:
        """fsspec's file system, and the base of paths in it; on S3 with so many attempts at each request."""
        from fsspec.core import url_to_fs

        try:
            fs, base = url_to_fs(self.url, use_listings_cache=False, **self._fs_options(attempts))
        except ImportError as error:
            extra = EXTRAS.get(self._protocol)
            needed = f"install the extra `{extra}` (uv sync --extra {extra})" if extra else "install it"
            raise StoreError(f"the store {self.url} needs a package that is not here ({error}); {needed}") from error
        except Exception as error:
            raise self._fault(error, "opened", "") from None
        if self._has_conditions:  # s3fs tries again on top of botocore's attempts, without end in sight for a silent server
            fs.retries = 2 if attempts > 1 else 1
        return fs, str(base).rstrip("/")

    def _fs_options(self, attempts: int) -> dict[str, Any]:
        """Options of fsspec's; on S3 neither the environment nor fsspec's configuration adds an endpoint to given ones."""
        if not self._has_conditions:
            return self._options
        from fsspec.config import conf

        patience = {
            "connect_timeout": min(5.0, self._timeout),
            "read_timeout": self._timeout,
            "retries": {"mode": "standard", "total_max_attempts": attempts},
        }
        if self.url not in _options:
            return {"config_kwargs": {**patience, **conf.get(self._protocol, {}).get("config_kwargs", {})}}
        config = {"ignore_configured_endpoint_urls": True, **patience, **self._options.get("config_kwargs", {})}
        return {"endpoint_url": None, "client_kwargs": {}, **self._options, "config_kwargs": config}

    def _retried(self, done: str, path: str, work: Callable[[], T]) -> T:
        """What `work` gives. It is tried again where its error may pass; in the end that is an error without secrets.

        What the storage's own libraries raise, whatever it is, comes as one kind of error.
        """
        started = time.monotonic()
        for wait in _waits():
            try:
                return work()
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise  # this machine's disk, not the storage
                if not _may_pass(error) or wait is None or time.monotonic() - started > 2 * self._timeout:
                    raise self._fault(error, done, path) from None  # the chain of causes could show what this message does not
            time.sleep(wait)
        raise AssertionError

    def _fault(self, error: Exception, done: str, path: str) -> StoreError:
        shown = f"{type(error).__name__}: {error}"
        for secret in (*_texts(self._options), *map(os.environ.get, SECRET_VARIABLES)):
            shown = shown.replace(secret, "…") if secret else shown
        where = f"{self.url}/{path}" if path else self.url
        return StoreError(f"{where} cannot be {done} ({shown}); check the URL, the network and the credentials")


def _waits() -> Iterator[float | None]:
    """Seconds between attempts; None after the last one."""
    return iter((0.2, 0.4, 0.8, 1.6, None))


def _require_size(came: int, expected: int | None) -> None:
    if expected is not None and came != expected:
        raise _ShortError(f"{came} of {expected} bytes came")


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, OSError):
        lasting = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
        return not isinstance(error, lasting)
    return any(kind.__name__ in PASSING for kind in type(error).__mro__)


def _lost(error: BaseException | None) -> bool:
    """Whether a conditional put was refused because another came before."""
    while error is not None:
        code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code", "")
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


def fetch_folder(remote: Remote, root: Path, path: str, manifest: bytes | None = None) -> None:
    """Bring a sealed folder here; it takes its place when every file has been verified.

    Args:
        remote: where it lies.
        root: of the cache.
        path: of the folder, relative to the store.
        manifest: its manifest, when it is at hand.

    Raises:
        DamagedError: when files are missing, altered, or would lead out of the folder.
        StoreError: when there is no such folder, or the storage cannot be reached.
    """
    where = f"{remote.url}/{path}"
    content = manifest if manifest is not None else remote.read(f"{path}/{MANIFEST}")
    if content is None:
        raise StoreError(f"{where}: no such folder; correct the path, or make it again")
    names = _names(where, content)
    sizes = remote.sizes(path)
    missing = [name for name in names if name not in sizes]
    if missing:
        raise DamagedError(f"{where}: {len(missing)} file(s) of its manifest are missing: {join_limited(missing)}")
    with atomic_folder(root / path) as draft:
        for name in names:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            remote.download(f"{path}/{name}", draft / name, sizes[name])
        (draft / MANIFEST).write_bytes(content)
        signatures = remote.read(f"{path}/{MANIFEST_SIGNATURE}") if MANIFEST_SIGNATURE in sizes else None
        if signatures is not None:
            (draft / MANIFEST_SIGNATURE).write_bytes(signatures)
        try:
            verify_folder(draft)
        except StoreError as error:
            raise DamagedError(f"{where}: {str(error).partition(': ')[2]}") from error


def send_folder(remote: Remote, root: Path, path: str, again: bool = False) -> None:
    """Send a sealed folder: its files, then the manifest, so that nothing half-written is ever found.

    Args:
        remote: where it goes.
        root: of the cache.
        path: of the folder, relative to the store.
        again: send it although the same manifest is there: its files were found to be damaged.

    Raises:
        StoreError: when the storage cannot be reached or refuses.
    """
    folder, there = root / path, remote.read(f"{path}/{MANIFEST}")
    content = read_file(folder / MANIFEST)
    if there == content and not again:
        return
    if there is not None:
        remote.remove([f"{path}/{MANIFEST}"])  # what is there is no longer whole from here on
    names = _names(str(folder), content)
    for name in names:
        remote.upload(folder / name, f"{path}/{name}")
    beside = {MANIFEST, *send_signatures(remote, root, path)}
    remote.write(f"{path}/{MANIFEST}", content)
    left = [f"{path}/{name}" for name in remote.sizes(path) if name not in names and name not in beside]
    remote.remove(left)


def send_signatures(remote: Remote, root: Path, path: str) -> list[str]:
    """Send the signatures of a sealed folder, and nothing else of it; the names of what was sent."""
    file = root / path / MANIFEST_SIGNATURE
    if not file.is_file():
        return []
    remote.write(f"{path}/{MANIFEST_SIGNATURE}", read_file(file))
    return [MANIFEST_SIGNATURE]


def fetch_signatures(remote: Remote, root: Path, path: str) -> None:
    """Bring the signatures of a sealed folder here that is here already: it may have been signed since it was fetched."""
    content, file = remote.read(f"{path}/{MANIFEST_SIGNATURE}"), root / path / MANIFEST_SIGNATURE
    if content is not None and not (file.is_file() and read_file(file) == content):
        write_atomically(file, content)


def remove_folder(remote: Remote, path: str) -> None:
    """Remove a folder or an object; the manifest first."""
    remote.remove([f"{path}/{MANIFEST}", path])
    remote.remove([f"{path}/{name}" for name in remote.sizes(path)])


def mirror_tree(remote: Remote, root: Path, path: str) -> None:
    """Send files that lie below the cache's root, and remove there what is gone here."""
    local = root / path
    if local.is_file():
        remote.upload(local, path)
        return
    if not local.exists():
        remove_folder(remote, path)
        return
    here = {file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file()}
    for name in sorted(here):
        remote.upload(local / name, f"{path}/{name}")
    remote.remove([f"{path}/{name}" for name in remote.sizes(path) if name not in here])


def _names(where: str, manifest: bytes) -> list[str]:
    try:
        names = [str(name) for name in json.loads(manifest)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{where}/{MANIFEST}: no readable manifest ({error})") from error
    out = [name for name in names if leads_out(name)]
    if out:
        raise DamagedError(f"{where}/{MANIFEST}: names file(s) out of its folder: {join_limited(map(repr, out))}")
    return names


def sha256_of(content: bytes) -> str:
    """SHA-256 of a manifest's bytes, as references hold it."""
    return hashlib.sha256(content).hexdigest()
