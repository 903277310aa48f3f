"""Pruning: remove what is old and what nothing in use needs."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from hubflow.deployment.pointer import deployed_names, read_deployed
from hubflow.errors import SettingsError, StoreError
from hubflow.files import read_text
from hubflow.schemas.deployment import Pruned, PruneSettings
from hubflow.schemas.urls import is_url
from hubflow.store.manifest import LEFT_OVER_AFTER_SECONDS, MANIFEST, locked, remove_leftovers
from hubflow.store.store import Store

KINDS = ("runs", "samples", "verdicts", "evaluations", "exports", "checkpoints", "training")
"""What is pruned, those that refer to others first; data sets, encoded rows, modules and heads stay."""
DAY_SECONDS = 86_400
WITH_FOLDERS = ("quarantine", "profiles")
"""What has temporary files one folder deeper too."""


def prune(settings: PruneSettings, store: str, dry_run: bool = False) -> Pruned:
    """Remove old runs' reports, samples, verdicts, evaluations, exports, checkpoints and what stopped trainings left.

    Of each kind the newest stay, and what is young. What is in use under any name, its predecessor, and what they were made
    of and evaluated by stay, however old. A training under way is left alone: its lock is held. Temporary files and folders
    that killed runs left go when they are old; those of processes that are alive stay.

    Raises:
        SettingsError: for a store at a URL, whose files' ages are not known here.
        StoreError: when a pointer cannot be read, so that it is not known what is in use, or something cannot be removed.
    """
    if is_url(store):
        raise SettingsError(f"{store}: a store on object storage is pruned by the storage's own lifecycle rules")
    opened = Store(store)
    needed = _needed(opened, store)
    limit = time.time() - settings.min_age_days * DAY_SECONDS
    removed, size = [], 0
    for kind in KINDS:
        found = sorted(_entries(opened.root / kind), key=lambda one: (_written(one), one.name))
        for folder in found[: max(0, len(found) - settings.keep_last)]:
            path = f"{kind}/{folder.name}"
            if path in needed or _written(folder) > limit:
                continue
            bytes_here = _size(folder)
            if kind == "training":
                if not _remove_training(folder, dry_run):
                    continue
            elif not dry_run:
                opened.discard(path)
            removed.append(path)
            size += bytes_here
    for leftover, bytes_here in _leftovers(opened.root, settings.min_age_days * DAY_SECONDS, dry_run):
        removed.append(leftover)
        size += bytes_here
    in_use = tuple(sorted(path for path in needed if (opened.root / path).exists()))
    return Pruned(is_dry=dry_run, removed=tuple(removed), bytes=size, kept_in_use=in_use)


def _needed(opened: Store, store: str) -> set[str]:
    """Paths of all that the exports in use, and their predecessors, are, were made of, and were evaluated by."""
    paths: set[str] = set()
    for name in deployed_names(store):
        deployed = read_deployed(store, name)
        for move in (deployed.move, deployed.predecessor):
            if move is not None and move.export is not None:
                paths |= set(_paths(move.model_dump(mode="json")))
    waiting = sorted(paths)
    while waiting:  # what the manifests of these refer to
        for path in _paths(_facts(opened, waiting.pop())):
            if path not in paths:
                paths.add(path)
                waiting.append(path)
    return paths


def _paths(value: Any) -> Iterator[str]:
    """Paths of all references within a nested value: mappings with `path` and `sha256`."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and isinstance(value.get("sha256"), str):
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def _facts(store: Store, path: str) -> Any:
    manifest = store.resolve(path) / MANIFEST
    try:
        return json.loads(read_text(manifest)) if manifest.is_file() else {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{manifest}: what is in use needs it, but it is not readable ({error}); nothing was removed"
        ) from error


def _leftovers(root: Path, min_age_seconds: float, dry_run: bool) -> list[tuple[str, int]]:
    """Temporary files and folders of killed runs, removed unless `dry_run`, with their sizes."""
    kinds = [root / one.name for one in root.iterdir() if one.is_dir() and not one.name.startswith(".")]
    folders = [*kinds, *(inner for kind in WITH_FOLDERS for inner in _entries(root / kind))]
    age, found = max(min_age_seconds, LEFT_OVER_AFTER_SECONDS), []
    for folder in sorted(folders):
        sizes = {one: _size(one) for one in remove_leftovers(folder, age, is_dry=True)}
        gone = sizes if dry_run else remove_leftovers(folder, age)
        found += [(one.relative_to(root).as_posix(), sizes.get(one, 0)) for one in gone]
    return found


def _size(folder: Path) -> int:
    files = [folder, *folder.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def _entries(folder: Path) -> list[Path]:
    """Folders right below one, but those being written or put aside."""
    return [one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")] if folder.is_dir() else []


def _written(folder: Path) -> float:
    """When a folder was written: its manifest last, of those that have one; of a training its newest file."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        return manifest.stat().st_mtime
    return max((one.stat().st_mtime for one in folder.rglob("*")), default=folder.stat().st_mtime)


def _remove_training(folder: Path, dry_run: bool) -> bool:
    """Remove what a stopped training left, unless it is under way; whether that is so (or would be)."""
    try:
        with locked(folder.with_name(f"{folder.name}.lock"), timeout=0):
            if not dry_run:
                shutil.rmtree(folder)
    except Timeout:
        return False
    except OSError as error:
        raise StoreError(f"{folder} cannot be removed ({error})") from error
    return True
