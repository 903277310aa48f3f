"""Hold rows to their contract, split them and keep them, in two passes of bounded memory; and watch them meanwhile."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as arrow
from pyarrow import compute, parquet
from pydantic import ValidationError

from hubflow.data.columns import to_frame
from hubflow.data.duplicates import group_keys
from hubflow.data.preview import named_rows
from hubflow.data.profile import Profiler, against_last, series_of, write_profile
from hubflow.data.quarantine import Quarantine, partition_rows
from hubflow.data.readers.chunks import Chunk, with_clean_labels
from hubflow.data.readers.reading import malformed_texts
from hubflow.data.readers.source import is_glob, matching
from hubflow.data.report import SKIPPED, DataReport, Publish, SplitReport, write_data_report
from hubflow.data.split_checks import SplitChecks
from hubflow.data.splits import Mask, group_parts, sample_mask, split_masks
from hubflow.data.staging import Staging, staging_folder
from hubflow.errors import ContractError, DataError, HubflowError, TagError, join_limited
from hubflow.schemas.labels import LabelMap, TagScheme, require_names
from hubflow.schemas.references import DatasetRef, Finding, Observer, RowKind, Split
from hubflow.schemas.rows import RowModel, RowsError, row_schema
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.store.store import Artifact, Store, content_key

KIND = "datasets"
QUARANTINE = "quarantine"
FORMAT_VERSION = 4  # of the artefact: raise it when the same sources would be written differently
LABEL_MAP_FILE = "label_map.json"
MIN_CLASSES = 2
ORDER: tuple[Split, ...] = ("train", "dev", "test")
LOG = logging.getLogger(__name__)
Sources = Mapping[Split, Callable[[], Iterable[Chunk]]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """What to load: the settings, the kind of rows, their contract, and the source of each split that has one.

    `series` names the series of data sets that it is compared in, where the paths of the sources do not decide it.
    """

    spec: DatasetSpec
    task: TaskName
    kind: RowKind
    sources: dict[Split, Path]
    model: RowModel
    series: str | None = None

    @property
    def label_column(self) -> str:
        """Column that holds a row's label, or its list of labels."""
        return "labels" if self.kind == "tokens" else "label"

    @property
    def group(self) -> str | None:
        """What the settings' `group_column` is called in the rows, whose columns have the contract's names."""
        return self._name_in_rows(self.spec.group_column)

    @property
    def split_column(self) -> str | None:
        """The column whose values decide which split a row goes to, as it is called in the rows; None where chance decides."""
        return self._name_in_rows(self.spec.group_column or self.spec.split_by)

    def _name_in_rows(self, column: str | None) -> str | None:
        spec = self.spec
        if column is None or self.kind == "image":
            return column
        pair = {"text_pair": spec.text_pair_column} if self.kind == "text_pair" else {}
        texts = {"tokens": spec.tokens_column} if self.kind == "tokens" else {"text": spec.text_column, **pair}
        ours = {**texts, self.label_column: spec.label_column}
        named = next((name for name, theirs in ours.items() if theirs == column), None)
        return named or (f"source_{column}" if column in ("row", *ours) else column)

    @property
    def files(self) -> list[Path]:
        """Files and folders that the sources are, as far as they are such."""
        there = [source for source in self.sources.values() if os.path.lexists(source) or is_glob(source)]
        return [path for source in there for path in matching(source)]

    @property
    def wanted(self) -> dict[Split, float]:
        """Fraction of train that goes to each split that has no source of its own."""
        shares: dict[Split, float] = {"dev": self.spec.dev_fraction, "test": self.spec.test_fraction}
        return {split: share for split, share in shares.items() if split not in self.sources and share > 0}


@dataclass
class Staged:
    """The accepted rows of one source on disk, and in memory their labels as codes, and the parts that their groups go to.

    Attributes:
        rows: the rows.
        parts_of: gives the part of each row of a chunk (see `group_parts`) where parts are made of the rows by group.
        labels: code of each label.
    """

    rows: Staging
    parts_of: Callable[[pd.DataFrame], np.ndarray] | None = None
    labels: dict[str, int] = field(default_factory=dict)
    _codes: list[np.ndarray] = field(default_factory=list)
    _parts: list[np.ndarray] = field(default_factory=list)

    def add(self, accepted: pd.DataFrame, label_column: str, file: str | None = None) -> None:
        """Take one chunk of accepted rows, of a file when there are several."""
        self.rows.add(accepted, file)
        if self.parts_of is not None:
            self._parts.append(self.parts_of(accepted))
        if label_column == "labels":  # a sentence has no label to draw it by
            for label in set(chain.from_iterable(accepted["labels"])):
                self.labels.setdefault(label, len(self.labels))
            self._codes.append(np.zeros(len(accepted), dtype=np.uint8))
            return
        codes, found = pd.factorize(accepted["label"])
        known = np.array([self.labels.setdefault(label, len(self.labels)) for label in found], dtype=np.uint32)
        self._codes.append(known[codes].astype(np.min_scalar_type(len(self.labels))))

    def codes(self) -> np.ndarray:
        """Code of each row's label, in the smallest type that holds it."""
        self._codes = [np.concatenate(self._codes)]
        return self._codes[0]

    def masks(self, shares: Mapping[Split, float], seed: int) -> dict[Split, Mask]:
        """Which rows go to train, and to each of `shares`."""
        if self.parts_of is None or not shares:
            return split_masks(self.codes(), shares, seed)
        parts = np.concatenate(self._parts)
        names: list[Split] = ["train", *shares]
        return {name: parts == position for position, name in enumerate(names)}


def ingest_rows(
    store: Store,
    key: str,
    plan: Plan,
    sources: Sources,
    listed: LabelMap | None,
    digests: dict[str, str],
    observers: Sequence[Observer] = (),
    publish: Publish = lambda _report: None,
) -> DatasetRef:
    """Hold the rows to their contract, split them and write them; those that break it are quarantined.

    Args:
        store: the store.
        key: names the data set, and its quarantine, in the store.
        plan: what to keep.
        sources: chunks of each source.
        listed: the label map when it is given; made from train otherwise.
        digests: hash of the content of each source, for the facts.
        observers: see every row that is kept; a finding of theirs with the policy `fail` is an error.
        publish: is given the report, before the error when there is one.

    Raises:
        DataError: a source cannot be read, or gives fewer than two classes or a split without rows.
        ContractError: more rows than `max_invalid_fraction` break their contract, a whole column does, or an observer's
            finding.
        StoreError: the store cannot be written.
    """
    report = DataReport(plan.spec.max_invalid_fraction)
    try:
        with staging_folder(store.root) as folder:
            staged, label_map = _staged(store, key, plan, sources, listed, folder, report)
            with store.create(KIND, key, plan.files) as draft:
                counts = _write(plan, staged, draft.folder, observers)
                label_map.save(draft.folder / LABEL_MAP_FILE)
                _observed(plan, observers, report)
                draft.facts.update(_facts(plan, counts, label_map, digests), data_report=report.of_content())
    except HubflowError as error:
        publish(report.as_dict(str(error)))
        raise
    publish(report.as_dict())
    return dataset_reference(store.load(KIND, key))


def _staged(
    store: Store, key: str, plan: Plan, sources: Sources, listed: LabelMap | None, folder: Path, report: DataReport
) -> tuple[dict[Split, Staged], LabelMap]:
    """Accepted rows of each source, and the label map that they were held to: `listed`, or made from train."""
    label_map: LabelMap | None = listed
    if listed is not None:
        _require_tags(plan, listed)

    def stage(split: Split) -> Staged:
        nonlocal label_map
        quarantine = Quarantine(store.root / QUARANTINE / key / f"{split}.parquet", plan.files)
        path = quarantine.path.relative_to(store.root).as_posix()
        counts = report.splits[split] = SplitReport(str(plan.sources[split]), path)
        by_key = plan.split_column is not None and split == "train"
        staged = Staged(Staging(folder, split, plan.spec.format == "jsonl"), partial(_parts_by_key, plan) if by_key else None)
        try:
            _sort_chunks(plan, _named(plan, sources[split](), listed), label_map, staged, quarantine, counts)
            quarantine.finish()
            store.sync(path)
        finally:
            staged.rows.close()
            quarantine.discard()
        _require_valid(plan, split, counts, label_map, store.display_path(path), quarantine.path)
        if split == "train":
            found = _require_classes(plan, staged)
            if label_map is None:
                label_map = LabelMap.from_values(found, plan.spec.tag_scheme if plan.kind == "tokens" else "auto")
                _require_tags(plan, label_map)
        return staged

    accepted = collect_errors([split for split in ORDER if split in sources], stage)
    assert label_map is not None
    return accepted, label_map


def _named(plan: Plan, chunks: Iterable[Chunk], listed: LabelMap | None) -> Iterator[Chunk]:
    """Chunks whose labels are clean, and names where the data has numbers and the settings a label list."""
    for chunk in (with_clean_labels(chunk, plan.label_column) for chunk in chunks):
        if listed is None:
            yield chunk
            continue
        rows, count = named_rows(chunk.rows, plan.label_column, listed.labels)
        coerced = chunk.coerced | ({plan.label_column: count} if count else {})
        yield replace(chunk, rows=rows, coerced=coerced)


def _require_tags(plan: Plan, label_map: LabelMap) -> None:
    """Refuse tags that can be read in two ways, before anything is learnt from them.

    Raises:
        TagError: naming them, and the setting that says how they are read.
    """
    if plan.kind != "tokens":
        return
    try:
        if label_map.tag_scheme == "auto":
            require_names(label_map.labels)
        _ = label_map.tagging
    except TagError as error:
        raise TagError(f"{plan.sources['train']}: {error}") from error


def _sort_chunks(
    plan: Plan,
    chunks: Iterable[Chunk],
    label_map: LabelMap | None,
    staged: Staged,
    quarantine: Quarantine,
    counts: SplitReport,
) -> None:
    schema = row_schema(plan.model, label_map)
    for chunk in chunks:
        if not counts.read and plan.spec.format != "jsonl":  # whose columns may come later
            _require_key(plan, staged, counts.source, [str(name) for name in chunk.rows])
        found = partition_rows(chunk.rows, schema, plan.model, label_map, chunk.file or counts.source)
        if chunk.file is not None:  # of several, whose rows are numbered by file
            found.failures["row"] = [f"{row} of {Path(chunk.file).name}" for row in found.failures["row"]]
        counts.add(chunk, found)
        quarantine.add(found.rejected, chunk.malformed)
        if len(found.accepted):
            staged.add(found.accepted, plan.label_column, chunk.file)
    if counts.accepted:
        _require_key(plan, staged, counts.source, staged.rows.names)


def _require_key(plan: Plan, staged: Staged, source: str, names: list[str]) -> None:
    """Refuse rows without the column of groups, or, where they are split here, without that of split_by."""
    column = plan.group if staged.parts_of is None else plan.split_column
    if column is not None and column not in names:
        theirs = [name for name in names if name != "row"]
        found = f"found {len(theirs)} column(s): {join_limited(map(repr, theirs))}"
        setting = "split_by" if plan.spec.group_column is None else "group_column"
        raise DataError(
            f"{source}: no column {plan.spec.group_column or plan.spec.split_by!r}; {found}; correct {setting}, or leave it out"
        )


def _require_valid(
    plan: Plan, split: Split, counts: SplitReport, label_map: LabelMap | None, path: str, quarantine: Path
) -> None:
    if not counts.read:
        raise RowsError(f"{counts.source}: holds no rows; expected at least one")
    if not counts.rejected:
        return
    share = plan.spec.max_invalid_fraction
    if counts.rejected > share * counts.read:
        malformed = pd.concat(counts.first_malformed, ignore_index=True) if counts.malformed else None
        texts = [] if malformed is None else malformed_texts(plan.sources[split], plan.spec.encoding, malformed)
        raise counts.fault(plan.model, label_map, texts, share, path, quarantine)
    checks = ", ".join(f"{name} {count}" for name, count in counts.as_dict()["checks"].items())
    LOG.warning("%s: %d of %d rows are quarantined in %s (%s)", counts.source, counts.rejected, counts.read, path, checks)


def _require_classes(plan: Plan, staged: Staged) -> list[str]:
    found = sorted(staged.labels)
    if len(found) < MIN_CLASSES:
        raise DataError(
            f"{plan.sources['train']}: found only the label {found[0]!r} in all {staged.rows.rows} rows; expected at least "
            f"{MIN_CLASSES} different labels to learn from; check label_column, or add rows of other classes"
        )
    return found


def _parts_by_key(plan: Plan, rows: pd.DataFrame) -> np.ndarray:
    keys, known = group_keys(rows["row"])[0], np.zeros(len(rows), bool)  # of a row that is in no group
    if plan.split_column in rows:  # whose chunk may lack the column
        groups, known = group_keys(rows[plan.split_column])
        keys = np.where(known, groups, keys)
    if plan.spec.split_by is not None and not known.all():
        raise DataError(
            f"{plan.sources['train']}: row {rows['row'].iloc[int(known.argmin())]} has no value in the column "
            f"{plan.spec.split_by!r} of split_by, so its split would change with the rows around it; fill it in, or remove it"
        )
    return group_parts(keys, plan.wanted, plan.spec.split_seed)


def _masks(plan: Plan, staged: dict[Split, Staged]) -> Iterator[tuple[Split, dict[Split, Mask]]]:
    """For each source, which of its rows go to which split: parts of train where none is given, at most `max_rows` of each."""
    spec = plan.spec
    wanted = plan.wanted
    for source, rows in staged.items():
        codes = rows.codes()
        parts = rows.masks(wanted if source == "train" else {}, spec.split_seed)
        parts = {source if part == "train" else part: mask for part, mask in parts.items()}
        empty = [part for part, mask in parts.items() if not mask.any()]
        if empty:
            raise DataError(
                f"{plan.sources['train']}: its {'rows' if plan.split_column is None else 'groups'} are too few to make "
                f"{join_limited(empty)} of them while each class keeps a row in train; add rows, give the split a file, or set "
                "its share to 0"
            )
        yield source, {part: sample_mask(codes, mask, spec.max_rows, spec.split_seed) for part, mask in parts.items()}


def _write(
    plan: Plan, staged: dict[Split, Staged], folder: Path, observers: Sequence[Observer]
) -> dict[Split, tuple[int, Counter[str]]]:
    """Write each split chunk by chunk and show it to the observers; number of rows and of each label, by split."""
    counts: dict[Split, tuple[int, Counter[str]]] = {}
    for source, masks in _masks(plan, staged):
        rows = staged[source].rows
        writers = {split: parquet.ParquetWriter(folder / f"{split}.parquet", rows.schema) for split in masks}
        labels: dict[Split, Counter[str]] = {split: Counter() for split in masks}
        start = 0
        for table in rows.tables():
            for split, mask in masks.items():
                part = table.filter(arrow.array(mask[start : start + len(table)]))
                if len(part):
                    writers[split].write_table(part)
                    labels[split].update(_label_counts(part.column(plan.label_column)))
                    _show(observers, split, part)
            start += len(table)
        for split, writer in writers.items():
            writer.close()
            counts[split] = int(masks[split].sum()), labels[split]
    return {split: counts[split] for split in ORDER if split in counts}


def _show(observers: Sequence[Observer], split: Split, part: Any) -> None:
    if observers:
        frame = to_frame(part)
        for observer in observers:
            observer.add(split, frame)


def _label_counts(labels: Any) -> dict[str, int]:
    values = compute.list_flatten(labels) if arrow.types.is_list(labels.type) or _is_large(labels.type) else labels
    return {entry["values"]: entry["counts"] for entry in compute.value_counts(values).to_pylist()}


def _is_large(kind: Any) -> bool:
    return bool(arrow.types.is_large_list(kind))


def _observed(plan: Plan, observers: Sequence[Observer], report: DataReport) -> None:
    """Gather what the observers, and the readers, found.

    Raises:
        ContractError: for findings with the policy `fail`, all of them.
    """
    for split, counts in report.splits.items():
        report.findings += counts.findings(split, plan.spec.checks)
    for observer in observers:
        report.findings += observer.findings()
        report.facts |= getattr(observer, "facts", dict)()
    for finding in report.findings:
        if finding.policy == "warn":
            LOG.warning("%s: %s", finding.check, finding.message)
    require_none_fails(report.findings)


def require_none_fails(findings: Iterable[Finding]) -> None:
    """Refuse a data set with findings whose policy is `fail`.

    Raises:
        ContractError: with all of them, and the first few examples of each.
    """
    failing = []
    for finding in findings:
        if finding.policy == "fail":
            first = f" (first: {'; '.join(finding.examples)})" if finding.examples else ""
            failing.append(f"{finding.check}: {finding.message}{first}")
    if failing:
        raise ContractError("\n".join(failing))


def _facts(
    plan: Plan, counts: dict[Split, tuple[int, Counter[str]]], label_map: LabelMap, digests: dict[str, str]
) -> dict[str, Any]:
    return {
        "rows_kind": plan.kind,
        "contract": plan.model.__name__,
        "group_column": plan.spec.group_column,
        "rows": {split: rows for split, (rows, _) in counts.items()},
        "label_counts": {split: {label: found[label] for label in label_map.labels} for split, (_, found) in counts.items()},
        "num_classes": label_map.num_classes,
        "label_map_sha256": label_map.sha256,
        "sources": {split: str(plan.sources.get(split, plan.sources["train"])) for split in counts},
        "source_sha256": digests,
    }


def dataset_reference(artifact: Artifact) -> DatasetRef:
    """Reference to a kept data set."""
    facts = {name: artifact.facts[name] for name in ("rows_kind", "rows", "num_classes", "label_map_sha256")}
    return DatasetRef(path=artifact.path, sha256=artifact.sha256, **facts)


def collect_errors(splits: Iterable[Split], make: Callable[[Split], Result]) -> dict[Split, Result]:
    """What `make` gives for each split; the faults of all of them are raised together.

    Raises:
        HubflowError: the fault itself when it is the only one, otherwise a DataError with all of them.
    """
    made: dict[Split, Result] = {}
    faults: list[HubflowError] = []
    for split in splits:
        try:
            made[split] = make(split)
        except HubflowError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        error = DataError("\n".join(map(str, faults)))
        kept = [fault.quarantine for fault in faults if fault.quarantine is not None]
        error.quarantine = kept[0] if len(kept) == 1 else kept[0].parent if kept else None
        raise error from ExceptionGroup("faults of several splits", faults)
    return made


def label_map_of(labels: Sequence[str], source: str, tag_scheme: TagScheme = "auto") -> LabelMap:
    """The label map of labels that are given in order.

    Raises:
        DataError: when one repeats or is empty, or there are none.
    """
    try:
        return LabelMap(labels=tuple(labels), tag_scheme=tag_scheme)
    except ValidationError as error:
        raise DataError(f"{source}: {error.errors()[0]['msg'].removeprefix('Value error, ')}; list each label once") from error


def dataset_summary(dataset: DatasetRef) -> str:
    """The lines printed about a data set."""
    rows = ", ".join(f"{count} {split}" for split, count in dataset.rows.items())
    return f"{rows} rows, {dataset.num_classes} labels"


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
