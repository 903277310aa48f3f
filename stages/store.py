"""The store: artefact folders found by content, written atomically, verified on every read. Must not import Paddle."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hubflow.schemas.folders import MANIFEST, StoreError, atomic_folder, file_sha256, jsonable, seal, verify_folder
from hubflow.schemas.references import Reference

__all__ = ["Artifact", "Draft", "Store", "StoreError", "content_key", "file_sha256"]


@dataclass(frozen=True)
class Artifact:
    """A complete folder of the store, every file verified against its manifest."""

    folder: Path
    path: str
    sha256: str
    facts: dict[str, Any]
    reused: bool = False


@dataclass
class Draft:
    """A folder being written; `facts` go into its manifest."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)


class Store:
    """Artefacts under one root folder, each at `<kind>/<key>`.

    Raises:
        StoreError: when the root cannot be created or written.
    """

    def __init__(self, root: str | Path) -> None:
        try:
            self.root = Path(root).expanduser().resolve()
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreError(f"the store {root} cannot be written ({error}); choose another `store` or free it") from error

    def find(self, kind: str, key: str) -> Artifact | None:
        """The intact artefact at `<kind>/<key>`, or None when there is none or its files are gone or altered."""
        path = f"{kind}/{key}"
        try:
            return _verified(self.root / kind / key, path, reused=True)
        except StoreError:
            return None

    def open(self, reference: Reference) -> Artifact:
        """The artefact that `reference` names, every file verified.

        Raises:
            StoreError: when it is missing, altered, or not the one that the reference was made for.
        """
        artifact = _verified(self.inside(reference.path), reference.path, reused=True)
        if artifact.sha256 != reference.sha256:
            raise StoreError(
                f"{artifact.folder}: the reference is to manifest {reference.sha256[:12]}, found {artifact.sha256[:12]}; "
                "run the stage that makes it again"
            )
        return artifact

    def inside(self, path: str) -> Path:
        """Absolute path of a store-relative one.

        Raises:
            StoreError: when it leads out of the store.
        """
        if PurePosixPath(path).is_absolute() or not (self.root / path).resolve().is_relative_to(self.root):
            raise StoreError(f"the path {path!r} leads out of the store {self.root}")
        return self.root / path

    @contextmanager
    def create(self, kind: str, key: str) -> Iterator[Draft]:
        """Write an artefact: files go into the yielded draft's folder, which takes its place only when complete."""
        target = self.root / kind / key
        with atomic_folder(target) as folder:
            draft = Draft(folder)
            yield draft
            seal(folder, kind, draft.facts)

    def made(self, kind: str, key: str) -> Artifact:
        """The artefact just created at `<kind>/<key>`."""
        path = f"{kind}/{key}"
        return _verified(self.root / kind / key, path)


def content_key(*parts: object) -> str:
    """Short hash of JSON-serialisable parts: the name of what is made from them."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=jsonable)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _verified(folder: Path, path: str, reused: bool = False) -> Artifact:
    manifest = verify_folder(folder)
    return Artifact(folder, path, file_sha256(folder / MANIFEST), manifest["facts"], reused)
