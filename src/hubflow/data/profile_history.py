"""Profiles of accepted data sets in the store, and the comparison with the last of them. Must not import Paddle or Prefect."""

import contextlib
import datetime
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubflow.data.drift import as_report, finding, measured
from hubflow.data.profile import FORMAT_VERSION
from hubflow.errors import StoreError
from hubflow.schemas.drift import DriftSettings
from hubflow.schemas.findings import Finding
from hubflow.schemas.settings import DatasetSpec, TaskType
from hubflow.store.store import Store, content_key

FOLDER = "profiles"
KEPT = 30
STAMP = "%Y%m%dT%H%M%S.%f"
NOTHING = "There was nothing to compare with: it is the first data set of this series."
ONLY_THIS = "There was nothing to compare with: this series holds no other content than this."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A profile of the store: of which content, and when it was accepted."""

    path: str
    key: str
    content: str
    created: str
    profile: dict[str, Any]


def series_of(
    spec: DatasetSpec, task: TaskType, settings: DriftSettings, named: str | None = None, run: str | None = None
) -> str:
    """Name of the series of data sets that one belongs to: the same for tonight's rows as for last night's.

    It is made from the task, the name of the run, the sources' places and the columns; not from the rows. `named` takes the
    place of the places, for rows that come from no file. `settings.series` takes the place of all but the task, so that runs
    of several names can share a series.
    """
    if settings.series is not None:
        return content_key("profiles", task, settings.series)
    by_run = () if run is None else ("run", run)
    if named is not None:
        return content_key("profiles", task, "rows at hand", named, *by_run)
    places = [None if path is None else os.path.abspath(Path(path).expanduser()) for path in (spec.train, spec.dev, spec.test)]
    columns = (spec.text_column, spec.text_pair_column, spec.label_column, spec.tokens_column)
    return content_key("profiles", task, spec.format, places, columns, *by_run)


def against_last(
    place: Store, series: str, content: str, profile: Mapping[str, Any], settings: DriftSettings
) -> tuple[list[Finding], dict[str, Any]]:
    """Compare a profile with the latest one of other content in its series.

    Args:
        place: the store.
        series: as `series_of` gives it.
        content: hash of the rows' sources: a rerun on the same content is not compared with itself.
        profile: as `Profiler.profile` gives it.
        settings: limits.

    Returns:
        The findings, and the part "drift" of the data report: `note`, `compared_with` (created and key; None when there was
        nothing to compare with) and `measures`.
    """
    kept = _read(place, series)
    last = next((one for one in reversed(kept) if one.content != content), None)
    if last is None:
        return [], {"note": ONLY_THIS if kept else NOTHING, "compared_with": None, "measures": []}
    measures = measured(last.profile, profile, settings)
    findings = [finding(measure, settings) for measure in measures if measure.policy != "ok"]
    note = f"Compared with the data set {last.key} of {last.created}."
    report = {"note": note, "compared_with": {"key": last.key, "created": last.created}, "measures": as_report(measures)}
    return findings, report


def write_profile(
    place: Store, series: str, key: str, content: str, profile: Mapping[str, Any], holds: Iterable[Path] = ()
) -> str:
    """Keep the profile of an accepted data set; of one content the latest, and of a series the last KEPT.

    It has the names of labels and counts of values: those who may not read one of `holds`, the data, may not read it.

    Raises:
        StoreError: when it cannot be written; those that are there are unharmed.
    """
    now = datetime.datetime.now(datetime.UTC)
    known = {"created": f"{now:%Y-%m-%d %H:%M:%S} UTC", "key": key, "content": content, "profile": dict(profile)}
    path = f"{FOLDER}/{series}/{_after_all(place.names(f'{FOLDER}/{series}'), now):{STAMP}}-{key}.json"
    place.write_bytes(path, json.dumps(known, ensure_ascii=True).encode(), holds)
    others = [one for one in _read(place, series) if one.path != path]
    same = [one.path for one in others if one.content == content]
    rest = [one.path for one in others if one.content != content]
    for old in (*same, *rest[: max(0, len(rest) + 1 - KEPT)]):
        place.discard(old)
    return path


def forget_profile(place: Store, series: str, key: str) -> None:
    """Take back the profile of a data set that was refused later on: the next one is not to be compared with it."""
    for name in place.names(f"{FOLDER}/{series}"):
        if name.endswith(f"-{key}.json"):
            place.discard(f"{FOLDER}/{series}/{name}")


def _after_all(names: list[str], now: datetime.datetime) -> datetime.datetime:
    """Now; where the clock was set back, the first moment after all that the names of profiles begin with."""
    for name in reversed(names):
        with contextlib.suppress(ValueError):
            newest = datetime.datetime.strptime(name.partition("-")[0], STAMP).replace(tzinfo=datetime.UTC)
            return max(now, newest + datetime.timedelta(microseconds=1))
    return now


def _read(place: Store, series: str) -> list[Kept]:
    """Profiles of a series, the oldest first; those that are damaged, or of another format, are left out with a word."""
    kept = []
    for name in place.names(f"{FOLDER}/{series}"):
        path = f"{FOLDER}/{series}/{name}"
        if not name.endswith(".json"):
            continue
        try:
            content = place.read_bytes(path)
            if content is None:  # another run may be tidying up
                continue
            values = json.loads(content)
            one = Kept(path, str(values["key"]), str(values["content"]), str(values["created"]), dict(values["profile"]))
            version = one.profile["format_version"]
        except (StoreError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: no readable profile (%s); the data is not compared with it", place.display_path(path), error)
            continue
        if version == FORMAT_VERSION:
            kept.append(one)
    return kept
