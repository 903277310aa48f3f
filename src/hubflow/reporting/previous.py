"""The run before this one of the same name in the store, and what has changed since. Must not import Paddle."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubflow.store.store import Store

SUMMARY = "run.json"
RUNS = "runs"
MAX_CHANGES = 40
MAX_VALUE_CHARS = 120
UNCOMPARED = ("store", "name", "reuse")  # they change no result


@dataclass(frozen=True)
class Change:
    """One setting that is not what it was."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class Since:
    """What has changed since the last run of the same name.

    Attributes:
        created: when that run was reported.
        metrics: by split and name, value before.
        same_rows: whether a split holds the same rows as before, by split: only then are its metrics comparable.
        changes: of settings, at most MAX_CHANGES.
        more_changes: how many further ones there are.
        data_is_same: whether the rows of every split are the same.
        note: why there is nothing to compare with; empty when there is.
    """

    created: str = ""
    metrics: Mapping[str, Mapping[str, float]] | None = None
    same_rows: Mapping[str, bool] | None = None
    changes: tuple[Change, ...] = ()
    more_changes: int = 0
    data_is_same: bool = False
    note: str = ""


def last_run(home: Store, name: str, but: str = "") -> str | None:
    """Path of `run.json` of the last run called `name` that is not at the path `but`; None when there is none."""
    folders = [folder for folder in home.names(RUNS) if folder.partition("-")[2] == name and f"{RUNS}/{folder}" != but]
    paths = (f"{RUNS}/{folder}/{SUMMARY}" for folder in reversed(folders))
    return next((path for path in paths if home.read_bytes(path) is not None), None)


def since(home: Store, summary: Mapping[str, Any], place: str = "") -> Since:
    """What has changed since the last run of the same name.

    Args:
        home: the store.
        summary: of this run, as `run.json` has it: settings, metrics and the hash of each split's rows.
        place: path of this run's folder, where an earlier try of it may have left its report.
    """
    path = last_run(home, summary["settings"]["name"], place)
    if path is None:
        return Since(note="This is the first run of this name in the store.")
    try:
        last = json.loads(home.read_bytes(path) or b"")
        metrics, hashes, settings = last["metrics"], last.get("split_sha256", {}), last["settings"]
        created = str(last.get("created") or path.split("/")[1].partition("-")[0])
        before, now = (dict(_flat(one)) for one in (settings, summary["settings"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Since(note=f"The last run's {home.display_path(path)} cannot be read ({type(error).__name__}: {error}).")
    changes = [
        Change(key, _brief(before, key), _brief(now, key))
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key) and key not in UNCOMPARED
    ]
    same = {split: hashes.get(split) == value for split, value in summary["split_sha256"].items()}
    is_same = all(same.values()) and hashes.keys() == same.keys()
    return Since(created, metrics, same, tuple(changes[:MAX_CHANGES]), max(0, len(changes) - MAX_CHANGES), is_same)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _brief(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "not there"
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"
