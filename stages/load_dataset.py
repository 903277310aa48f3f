"""Load a data set: rows held to their contract, one label map, Parquet in the store."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hubflow.data.ingestion import FORMAT_VERSION, Plan, Sources, collect_errors, dataset_summary, ingest_dataset, label_map_of
from hubflow.data.readers.images import beside_splits, split_sources
from hubflow.data.readers.reading import (
    DIGITS_SOURCE,
    IMAGE_FORMATS,
    Chunk,
    iter_rows,
    malformed_texts,
    read_label_list,
    rows_kind,
)
from hubflow.data.readers.source import expanded, is_glob, matching, require_file
from hubflow.errors import DataError
from hubflow.orchestration.artifacts import publish_data_report
from hubflow.orchestration.events import dataset_event
from hubflow.orchestration.run_context import run_name
from hubflow.orchestration.tasks import stage
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, Split
from hubflow.schemas.rows import contract_identity, contract_of
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.store.store import Store, content_key, file_sha256

Chunks = dict[Split, list[Chunk]]
LOG = logging.getLogger(__name__)


@stage(dataset_summary, label="load data", event=dataset_event)
def load_dataset(spec: DatasetSpec, task: TaskName, store: str, reuse: bool = True, contract: type | None = None) -> DatasetRef:
    """Load the accepted rows of each split (`TextRows`, `TextPairRows`, `TokenRows` or `ImageRows`), and the label map.

    The label map is made once, from the label list or from train, and every split is checked against it. Where `dev` or `test`
    is not given, `dev_fraction` and `test_fraction` of train take its place, drawn by seed. Rows that break their contract are
    quarantined in `quarantine/<key>/<split>.parquet`; `max_invalid_fraction` says how many may be.

    Splits are checked against each other, and against the last data set of these sources, as `spec.checks` says; the report is
    published in a Prefect run, and a page of it is kept in `data-reports/<key>` where the data was refused.

    Args:
        spec: where the rows are and how they are written.
        task: what the rows are for.
        store: folder, or URL, of the store.
        reuse: take what the store already holds for the same settings and the same content of every source.
        contract: your own contract, a subclass of that of the rows' kind, or a model of pandera for Polars or Arrow; in
            place of `spec.contract`.

    Returns:
        Reference to `train.parquet`, `dev.parquet`, `test.parquet` (those that exist) and `label_map.json`.

    Raises:
        DataError: a source is missing, empty, unreadable, or gives fewer than two classes or a split without rows.
        ContractError: rows break their contract (see `hubflow.schemas.rows`). Faults of several splits come as one DataError.
        SettingsError: the contract is not one for these rows.
        StoreError: the store cannot be written.
    """
    opened = Store(store)
    plan = _plan(spec, task, contract)
    # Images are hashed as they are read, so their rows are at hand before the key is.
    chunks = _read(plan) if spec.format in IMAGE_FORMATS else None
    try:
        digests = _digests(plan, chunks)
    except DataError:
        collect_errors(plan.sources, partial(_read_through, plan))  # raises with what is wrong in the other sources too
        raise
    key = content_key("load_dataset", FORMAT_VERSION, spec, task, contract_identity(plan.model), digests)
    sources: Sources = {split: partial(_chunks, plan, split) for split in plan.sources}
    if chunks is not None:
        sources = {split: partial(iter, read) for split, read in chunks.items()}
    return ingest_dataset(
        opened,
        key,
        plan,
        sources,
        partial(_listed_labels, plan),
        digests,
        reuse,
        publish_data_report,
        run_name(),
        chunks is not None,
    )


def _plan(spec: DatasetSpec, task: TaskName, contract: type | None) -> Plan:
    kind = rows_kind(spec, task)
    model = contract_of(kind, contract or spec.contract)
    if spec.format == "digits":
        return Plan(spec, task, kind, {"train": DIGITS_SOURCE}, model)
    given: dict[Split, str | None] = {"train": spec.train, "dev": spec.dev, "test": spec.test}
    sources = {split: expanded(path) for split, path in given.items() if path is not None}
    if spec.format == "image_folder":
        found = split_sources(sources)
        if found != sources:
            LOG.info("splits: %s", ", ".join(f"{split} {folder}" for split, folder in found.items()))
        sources = found
    return Plan(spec, task, kind, sources, model)


def _read(plan: Plan) -> Chunks:
    chunks = collect_errors(plan.sources, lambda split: list(_chunks(plan, split)))
    if plan.spec.format == "image_folder" and plan.spec.train is not None:
        root, first = expanded(plan.spec.train), chunks["train"][0]
        if plan.sources["train"] != root:
            beside = beside_splits(root)
            skipped, examples = beside.skipped + Counter(first.skipped), (*beside.examples, *first.skipped_examples)
            chunks["train"][0] = replace(first, skipped=dict(skipped), skipped_examples=examples)
    return chunks


def _chunks(plan: Plan, split: Split) -> Iterable[Chunk]:
    return iter_rows(plan.spec, plan.sources[split], split, plan.task)


def _read_through(plan: Plan, split: Split) -> None:
    for chunk in _chunks(plan, split):
        if len(chunk.malformed) and not plan.spec.max_invalid_fraction:
            raise DataError("\n".join(malformed_texts(plan.sources[split], plan.spec.encoding, chunk.malformed)))


def _digests(plan: Plan, chunks: Chunks | None) -> dict[str, str]:
    """Hash of the content of each source; for images with their places, since the rows point to the files."""
    if chunks is None:
        by_split = collect_errors(plan.sources, lambda split: _sha256(plan.sources[split]))
    else:
        by_split = {split: content_key(*(_content(chunk) for chunk in read)) for split, read in chunks.items()}
    digests: dict[str, str] = {str(split): digest for split, digest in by_split.items()}
    if plan.spec.label_list is not None:
        digests["label_list"] = file_sha256(require_file(expanded(plan.spec.label_list)))
    return digests


def _content(chunk: Chunk) -> list[Any]:
    malformed: list[Any] = chunk.malformed[["row", "content"]].to_numpy().tolist()
    return [*chunk.rows[["path", "label", "sha256"]].to_numpy().tolist(), *malformed]


def _sha256(source: Path) -> str:
    """Hash of a file; of several, of their places and contents."""
    if not is_glob(source):
        return file_sha256(require_file(source))
    return content_key([(str(path), file_sha256(require_file(path))) for path in matching(source)])


def _listed_labels(plan: Plan) -> LabelMap | None:
    if plan.spec.label_list is None:
        return None
    labels = read_label_list(expanded(plan.spec.label_list), plan.spec.encoding, plan.spec.format == "image_list")
    return label_map_of(labels, plan.spec.label_list, plan.spec.tag_scheme if plan.kind == "tokens" else "auto")
