"""Watching a data set as it is kept: splits against each other, its profile, and the last data set."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hubflow.data.ingestion import KIND, ORDER, Plan, Sources, dataset_reference, ingest_rows, require_none_fails
from hubflow.data.profile import Profiler, against_last, series_of, write_profile
from hubflow.data.readers.source import is_glob
from hubflow.data.report import SKIPPED, Publish, SplitReport, write_data_page
from hubflow.data.splits import SplitChecks
from hubflow.errors import ContractError, StoreError
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, Finding, Observer, RowKind, Split
from hubflow.store.manifest import atomic_folder
from hubflow.store.store import Store, content_key

PAGES, REPORT = "data-reports", "report.json"
PAGE_WRITTEN = "the data was refused; its report is %s"
log = logging.getLogger(__name__)


class DataMonitor:
    """What is done beside keeping rows: observe them, and tell what was seen.

    Args:
        store: the store.
        key: of the data set in the store.
        plan: what is kept; its settings hold the policies of the checks and the limits of drift.
        content: hash of the content of all sources.
        publish: shows a report to people who watch the run.
        run: name of the run, whose data sets are compared with each other.
    """

    def __init__(self, store: Store, key: str, plan: Plan, content: str, publish: Publish, run: str | None) -> None:
        self._store, self._key, self._content, self._holds = store, key, content, plan.files
        self._show = publish
        spec, drift = plan.spec, plan.spec.checks.drift
        self._series = series_of(spec, plan.task, drift, plan.series, run)
        self._profile = _ProfileObserver(
            plan.kind, self._series, partial(against_last, store, self._series, content, settings=drift)
        )
        of_several = [split for split in ORDER if _is_of_several(plan, split)]
        self._checks = SplitChecks(spec.checks, plan.kind, plan.group, store.root, of_several=of_several)

    @property
    def observers(self) -> tuple[Observer, Observer]:
        """Those that see every row."""
        return self._checks, self._profile

    def publish(self, report: Mapping[str, Any]) -> None:
        """Tell of the rows: to people who watch the run, and in the store, with a page where they were refused."""
        self._show(report)
        write_data_report(self._store, self._key, report, self._holds)

    def take_again(self, of_content: Mapping[str, Any]) -> None:
        """Report on rows that are taken from the store, compare them with the last other data set, and renew their profile.

        Args:
            of_content: what was reported of them when they were stored, without what depends on the data sets before.

        Raises:
            ContractError: when they differ from the last data set by more than may be.
        """
        found, facts = self._profile.compared(of_content["facts"]["profile"])
        findings = [*of_content["findings"], *(finding.model_dump(mode="json") for finding in found)]
        report = {**of_content, "findings": findings, "facts": {**of_content["facts"], **facts}}
        try:
            kept = (Finding.model_validate(one) for one in of_content["findings"])
            require_none_fails([*found, *(one for one in kept if one.policy == "fail")])
        except ContractError as error:
            self.publish({**report, "error": str(error)})
            raise
        self.publish(report)
        self.keep()

    def keep(self) -> None:
        """Keep the profile of the accepted data set, for the next one to be compared with."""
        write_profile(self._store, self._series, self._key, self._content, self._profile.facts()["profile"], self._holds)


def ingest_dataset(
    store: Store,
    key: str,
    plan: Plan,
    sources: Sources,
    listed: Callable[[], LabelMap | None],
    digests: dict[str, str],
    reuse: bool,
    publish: Publish,
    run: str | None,
    at_hand: bool = False,
) -> DatasetRef:
    """`ingest_rows` with a monitor; with `reuse`, what the store already holds by this key, reported again.

    Args:
        store: the store.
        key: of the data set in the store.
        plan: what to keep.
        sources: chunks of each source.
        listed: gives the label map when there is a list of labels.
        digests: hash of the content of each source.
        reuse: take what the store already holds.
        publish: shows the report to people who watch the run.
        run: name of the run, whose data sets are compared with each other.
        at_hand: whether the chunks have been read already: what they skip, such as files beside images, is reported anew.

    Raises:
        HubflowError: as `ingest_rows` does.
    """
    monitor = DataMonitor(store, key, plan, content_key(digests), publish, run)
    known = store.find(KIND, key) if reuse else None
    if known is not None:
        report = known.facts["data_report"]
        monitor.take_again(_with_skipped(report, plan, sources) if at_hand else report)
        return dataset_reference(known)
    kept = ingest_rows(store, key, plan, sources, listed(), digests, monitor.observers, monitor.publish)
    monitor.keep()
    return kept


def _with_skipped(report: Mapping[str, Any], plan: Plan, sources: Sources) -> dict[str, Any]:
    """A report with what its sources skip now, which does not change the rows."""
    found = [one for one in report["findings"] if one["check"] != SKIPPED]
    splits = dict(report["splits"])
    for split, chunks in sources.items():
        counted = SplitReport(str(plan.sources[split]), "")
        for chunk in chunks():
            counted.add_skipped(chunk)
        splits[split] = {**splits[split], "skipped": dict(counted.skipped)}
        found += [one.model_dump(mode="json") for one in counted.findings(split, plan.spec.checks)]
    return {**report, "splits": splits, "findings": found}


def _is_of_several(plan: Plan, split: Split) -> bool:
    """Whether the rows of a split are of several files of rows; frames are of none."""
    is_of_files = plan.series is None and plan.kind != "image"
    return is_of_files and is_glob(plan.sources.get(split, plan.sources["train"]))


class _ProfileObserver:
    """Profiles the rows, and compares the profile with that of the last other content."""

    def __init__(self, kind: RowKind, series: str, compare: Callable[..., tuple[list[Finding], dict[str, Any]]]) -> None:
        self._profiler, self._series, self._compare = Profiler(kind), series, compare
        self._facts: dict[str, Any] = {}

    def add(self, split: Split, rows: pd.DataFrame) -> None:
        """Take a chunk."""
        self._profiler.add(split, rows)

    def findings(self) -> list[Finding]:
        """What differs from the last data set by more than the limits."""
        found, _ = self.compared(self._profiler.profile())
        return found

    def compared(self, profile: dict[str, Any]) -> tuple[list[Finding], dict[str, Any]]:
        """What a profile differs in from that of the last other content, and the facts of both."""
        found, drift = self._compare(profile=profile)
        self._facts = {"series": self._series, "profile": profile, "drift": drift}
        return found, self._facts

    def facts(self) -> dict[str, Any]:
        """The profile, and the comparison."""
        return self._facts


def write_data_report(store: Store, key: str, report: Mapping[str, Any], holds: Sequence[Path]) -> None:
    """Keep a report in the store, with a page where the data was refused, for those who may read each of `holds`."""
    path = f"{PAGES}/{key}"
    try:
        with atomic_folder(store.root / path, holds) as draft:
            (draft / REPORT).write_text(json.dumps(report, ensure_ascii=True), encoding="utf-8")
            if report.get("error"):
                write_data_page(draft, report)
        store.sync(path)
    except StoreError as error:  # a full disk must not hide why the data was refused
        log.error("the report on the data cannot be written: %s", error)
        return
    if report.get("error"):
        log.error(PAGE_WRITTEN, store.display_path(f"{path}/data.html"))


def read_data_report(store: Store, key: str) -> dict[str, Any] | None:
    """The report of a data set as it was published, if it is still there."""
    try:
        kept = store.read_bytes(f"{PAGES}/{key}/{REPORT}")
        return None if kept is None else dict(json.loads(kept))
    except (StoreError, ValueError):
        return None
