"""The store: artefact folders found by content, written atomically, verified on every read."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hubflow.errors import DamagedError, SignatureError, StoreError
from hubflow.files import read_file
from hubflow.schemas.references import Reference
from hubflow.schemas.urls import absolute_address, is_url, url_fault
from hubflow.store.artifacts import EXPORTS, require_artifact
from hubflow.store.manifest import (
    MANIFEST,
    SealedFolder,
    atomic_folder,
    file_sha256,
    jsonable,
    locked,
    seal,
    verify_folder,
    write_atomically,
)
from hubflow.store.outputs import require_in_output_root
from hubflow.store.remote import (
    CACHE_VARIABLE,
    Remote,
    fetch_folder,
    fetch_signatures,
    mirror_tree,
    remove_folder,
    send_folder,
    send_signatures,
    sha256_of,
)
from hubflow.store.signing import require_trusted, sign, sign_export

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Artifact", "Draft", "Store", "StoreError", "content_key", "file_sha256", "local_folder", "split_address"]
log = logging.getLogger(__name__)
_lookups: ContextVar[tuple[set[str], ...]] = ContextVar("_lookups", default=())


@contextmanager
def noted_lookups() -> Iterator[set[str]]:
    """Note the paths of what is found in a store while the block runs: a stage that gives one of them has not made it."""
    found: set[str] = set()
    token = _lookups.set((*_lookups.get(), found))
    try:
        yield found
    finally:
        _lookups.reset(token)


@dataclass(frozen=True)
class Artifact:
    """A complete folder of the store, every file verified against its manifest, and as its kind of artifact must be."""

    path: str
    sealed: SealedFolder
    reused: bool = False

    @property
    def folder(self) -> Path:
        """Where it is on this machine."""
        return self.sealed.folder

    @property
    def sha256(self) -> str:
        """Hash of its manifest."""
        return self.sealed.sha256

    @property
    def facts(self) -> dict[str, Any]:
        """What its manifest says of it beside its files."""
        return self.sealed.facts


@dataclass
class Draft:
    """A folder being written; `facts` go into its manifest."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)


class Store:
    """Artefacts under one root folder, each at `<kind>/<key>`, and loose files beside them.

    A store that is a URL (`s3://bucket/prefix`; `trust.store_schemes` has the schemes) has its root on this machine too: a
    cache of what lies there. Sealed folders are fetched into it when they are asked for, and sent when they are made; loose
    files are read and written there, unless a stage wrote them below the root itself, which `mirror` then sends. `training/`
    stays here.

    Args:
        root: folder, which is made where it is missing, or URL.

    Raises:
        StoreError: when the root cannot be created or written, or the URL is none of a store.
        SettingsError: when the root is outside of `trust.output_root`.
    """

    def __init__(self, root: str | Path) -> None:
        address = str(root)
        self._remote = Remote(address) if is_url(address) else None
        self._damaged: set[str] = set()
        try:
            self.root = self._remote.cache if self._remote else require_in_output_root(Path(absolute_address(address)), "store")
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except (OSError, RuntimeError, ValueError) as error:
            if self._remote is not None:
                raise StoreError(
                    f"the store {address}: its cache on this machine cannot be written ({error}); set {CACHE_VARIABLE} to a "
                    "folder that can be"
                ) from error
            raise StoreError(f"the store {root} cannot be written ({error}); choose another `store` or free it") from error

    def require_writable(self) -> None:
        """Find out, before long work, whether a store on object storage takes what is made.

        Raises:
            StoreError: when it does not.
        """
        if self._remote is not None:
            self._remote.require_writable()

    def display_path(self, path: str) -> str:
        """What a person, or another machine, finds a store-relative path by.

        Args:
            path: relative to the store.

        Returns:
            Absolute path, or URL.
        """
        return f"{self._remote.url}/{path}" if self._remote else str(self.root / path)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The intact artefact at `<kind>/<key>`.

        Args:
            kind: of the artefact, such as `checkpoints`.
            key: of the artefact, by content (`content_key`).

        Returns:
            The artefact, or None when there is none or its files are gone or altered.

        Raises:
            SignatureError: when it is an export, `trust.keys` is set, and none of them has signed it.
            StoreError: when the storage that should have it cannot be reached.
        """
        path = f"{kind}/{key}"
        self.resolve(path)
        artifact = self._looked_up(path)
        if artifact is not None:
            for found in _lookups.get():
                found.add(path)
            self._trusted(artifact)
        return artifact

    def _looked_up(self, path: str) -> Artifact | None:
        here = self._found_here(path)
        if self._remote is None:
            return here
        manifest = self._remote.read(f"{path}/{MANIFEST}")
        if manifest is None:
            if here is not None:  # made here, but not sent: its run was killed, or the storage was out of reach
                send_folder(self._remote, self.root, path)
            return here
        if here is not None and here.sha256 == sha256_of(manifest):
            return here
        return self._fetched(path, manifest)

    def open(self, reference: Reference) -> Artifact:
        """The artefact that a reference names, every file verified.

        Args:
            reference: what a stage returned.

        Returns:
            The artefact.

        Raises:
            SignatureError: when it is an export, `trust.keys` is set, and none of them has signed it.
            StoreError: when it is missing, altered, or not the one that the reference was made for.
        """
        folder = self.resolve(reference.path)
        if self._remote is not None:
            here = self._found_here(reference.path)
            if here is not None and here.sha256 == reference.sha256:
                return self._trusted(here)
            fetch_folder(self._remote, self.root, reference.path)
        artifact = _verified(folder, reference.path, reused=True)
        if artifact.sha256 != reference.sha256:
            raise StoreError(
                f"{self.display_path(reference.path)}: the reference is to manifest {reference.sha256[:12]}, found "
                f"{artifact.sha256[:12]}; run the stage that makes it again"
            )
        return self._trusted(artifact)

    def resolve(self, path: str) -> Path:
        """Absolute path of a store-relative one.

        Args:
            path: relative to the store.

        Returns:
            Absolute path below the root on this machine.

        Raises:
            StoreError: when it leads out of the store.
        """
        real = Path(os.path.realpath(self.root / path))  # of a link that leads in a circle, the link
        if PurePosixPath(path).is_absolute() or not real.is_relative_to(self.root):
            raise StoreError(f"the path {path!r} leads out of the store {self.root}")
        return self.root / path

    @contextmanager
    def create(self, kind: str, key: str, holds: Iterable[Path] = ()) -> Iterator[Draft]:
        """Write an artefact: files go into the yielded draft's folder, which takes its place only when complete.

        Args:
            kind: of the artefact.
            key: of the artefact.
            holds: files and folders whose rows it holds: who may not read each of them may not open its folder.

        Yields:
            The draft: its folder, and the facts of its manifest.

        Raises:
            StoreError: when it cannot be written, or not sent to where the store is; the next run sends it then.
        """
        path = f"{kind}/{key}"
        self.require_writable()
        with atomic_folder(self.root / path, holds) as folder:
            draft = Draft(folder)
            yield draft
            seal(folder, kind, draft.facts)
            if kind == EXPORTS:
                sign_export(folder)
        if self._remote is not None:
            send_folder(self._remote, self.root, path, again=path in self._damaged)
            self._damaged.discard(path)

    def load(self, kind: str, key: str) -> Artifact:
        """The artefact just created at `<kind>/<key>`.

        Args:
            kind: of the artefact.
            key: of the artefact.

        Returns:
            The artefact.

        Raises:
            StoreError: when it is missing or damaged.
        """
        path = f"{kind}/{key}"
        return self._trusted(_verified(self.root / path, path))

    def discard(self, path: str) -> None:
        """Remove a folder or a file, here and where the store is; the manifest first, so that nothing half is ever found.

        Args:
            path: relative to the store.

        Raises:
            StoreError: when it cannot be removed, or leads out of the store.
        """
        local = self.resolve(path)
        if self._remote is not None:
            remove_folder(self._remote, path)
        try:
            if local.is_dir():
                (local / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(local)
            else:
                local.unlink(missing_ok=True)
        except FileNotFoundError:  # another process removes it too
            return
        except OSError as error:
            raise StoreError(f"{local} cannot be removed ({error})") from error

    def sync(self, path: str) -> None:
        """Send what a stage wrote below the root itself, and take away there what is gone here.

        Args:
            path: of a folder or a file, relative to the store.
        """
        if self._remote is not None:
            mirror_tree(self._remote, self.root, self.resolve(path).relative_to(self.root).as_posix())

    def read_bytes(self, path: str) -> bytes | None:
        """Content of a loose file.

        Args:
            path: relative to the store.

        Returns:
            The content, or None when there is no such file.

        Raises:
            StoreError: when it cannot be read, or leads out of the store.
        """
        file = self.resolve(path)
        if self._remote is not None:
            return self._remote.read(path)
        try:
            return read_file(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{file} cannot be read ({error})") from error

    def write_bytes(self, path: str, data: bytes, holds: Iterable[Path] = ()) -> None:
        """Write a loose file, whole or not at all.

        Args:
            path: relative to the store.
            data: what it holds.
            holds: files and folders of the data: who may not read each of them may not read the file here.

        Raises:
            StoreError: when it cannot be written; what was there is unharmed.
        """
        file = self.resolve(path)
        if self._remote is not None:
            self._remote.write(path, data)
            return
        write_atomically(file, data, holds)

    def compare_and_swap(self, path: str, expected: bytes | None, data: bytes) -> bool:
        """Write a loose file if it still has the content that it is expected to have.

        Args:
            path: relative to the store.
            expected: content that it must have; None where there must be no such file.
            data: new content.

        Returns:
            Whether it was written; False when another process was quicker.

        Raises:
            StoreError: when it cannot be read or written.
        """
        file = self.resolve(path)
        if self._remote is not None:
            return self._remote.swap(path, expected, data)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with locked(file.with_name(f".{file.name}.lock")):
                if self.read_bytes(path) != expected:
                    return False
                write_atomically(file, data)
        except OSError as error:
            raise StoreError(f"{file} cannot be written ({error}); free the store or choose another") from error
        return True

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders right below a folder of loose files or artefacts.

        Args:
            folder: relative to the store.

        Returns:
            Names, sorted; hidden ones are left out.

        Raises:
            StoreError: when the folder is there and cannot be read.
        """
        local = self.resolve(folder)
        if self._remote is not None:
            found = {path.split("/")[0] for path in self._remote.sizes(folder)}
        else:
            try:
                found = {path.name for path in local.iterdir()} if local.is_dir() else set()
            except OSError as error:
                raise StoreError(f"{local} cannot be read ({error})") from error
        return sorted(name for name in found if not name.startswith("."))

    def sign(self, path: str, key: "Ed25519PrivateKey") -> str:
        """Add a key's signature to an export, also where the store is.

        Args:
            path: of the export, relative to the store.
            key: private key that signs.

        Returns:
            The key's fingerprint.

        Raises:
            SignatureError: when it cannot be signed.
            StoreError: when there is no such export, it is damaged, or the signature cannot be sent.
        """
        self._fetch_signatures(path)
        found = self._looked_up(path)
        if found is None:
            raise StoreError(f"{self.display_path(path)}: no such export, or a damaged one; correct the path")
        known = sign(found.sealed, key)
        if self._remote is not None:
            send_signatures(self._remote, self.root, path)
        return known

    def _trusted(self, artifact: Artifact) -> Artifact:
        """The artifact itself, unless it is an export that this machine does not trust."""
        if artifact.sealed.kind == EXPORTS:
            try:
                require_trusted(artifact.sealed)
            except SignatureError:
                self._fetch_signatures(artifact.path)
                require_trusted(artifact.sealed)
        return artifact

    def _fetch_signatures(self, path: str) -> None:
        """Bring those of an export that is here already, which may have been signed since."""
        if self._remote is not None and (self.root / path).is_dir():
            fetch_signatures(self._remote, self.root, path)

    def _found_here(self, path: str) -> Artifact | None:
        try:
            return _verified(self.root / path, path, reused=True)
        except StoreError:
            return None

    def _fetched(self, path: str, manifest: bytes) -> Artifact | None:
        assert self._remote is not None
        try:
            fetch_folder(self._remote, self.root, path, manifest)
        except DamagedError as error:
            log.warning("%s; it is made again", error)
            self._damaged.add(path)
            return None
        return _verified(self.root / path, path, reused=True)


def content_key(*parts: object) -> str:
    """Short hash of JSON-serialisable parts: the name of what is made from them."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=jsonable)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def local_folder(address: str) -> Path:
    """Where a sealed folder is on this machine: the folder itself, or where it is fetched to from `<store's URL>/<kind>/<key>`.

    Raises:
        StoreError: when there is none at the URL, or it is damaged.
    """
    if not is_url(address):
        return Path(absolute_address(address))
    url, kind, key = split_address(address)
    artifact = Store(url).find(kind, key)
    if artifact is None:
        raise StoreError(f"{address}: no such folder, or a damaged one; expected s3://bucket/prefix/exports/KEY or alike")
    return artifact.folder


def sign_folder(address: str, key: "Ed25519PrivateKey") -> str:
    """Add a key's signature to an export: a folder, or `<store's URL>/exports/<key>`.

    Returns:
        The key's fingerprint.

    Raises:
        SignatureError: when it cannot be signed.
        StoreError: when there is no such export, it is damaged, or the signature cannot be sent.
    """
    if is_url(address):
        url, kind, name = split_address(address)
        return Store(url).sign(f"{kind}/{name}", key)
    sealed = verify_folder(Path(absolute_address(address)), EXPORTS)
    require_artifact(sealed)
    return sign(sealed, key)


def split_address(address: str) -> tuple[str, str, str]:
    """The URL of a store, and the kind and key of the folder in it that an address is of.

    Raises:
        StoreError: when it is no such address.
    """
    url, *path = absolute_address(address).rsplit("/", 2)
    fault = url_fault(address) if is_url(address) else "no URL"
    if fault or len(path) != 2 or url_fault(url):  # noqa: PLR2004
        raise StoreError(
            f"the URL is none of a folder in a store ({fault or address}); expected s3://bucket/prefix/exports/KEY or alike"
        )
    return url, path[0], path[1]


def _verified(folder: Path, path: str, reused: bool = False) -> Artifact:
    kind = path.split("/", maxsplit=1)[0]
    sealed = verify_folder(folder, kind)
    require_artifact(sealed)
    return Artifact(path, sealed, reused)
