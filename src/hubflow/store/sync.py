"""Folders between a store on object storage and its cache here: fetched whole, sent with the manifest last. No Paddle here."""

import hashlib
import json
from pathlib import Path

from hubflow.errors import DamagedError, StoreError, join_limited
from hubflow.files import read_file
from hubflow.store.manifest import MANIFEST, MANIFEST_SIGNATURE, atomic_folder, leads_out, verify_folder, write_atomically
from hubflow.store.remote import Remote


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
    place = root / path
    if place.is_file():
        remote.upload(place, path)
        return
    if not place.exists():
        remove_folder(remote, path)
        return
    here = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    for name in sorted(here):
        remote.upload(place / name, f"{path}/{name}")
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
