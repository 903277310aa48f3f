"""Load a data set: rows held to their contract, one label map, Parquet in the store. Must not import Paddle."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import ValidationError

from hubflow.schemas.errors import HubflowError, bounded
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, RowKind, Split
from hubflow.schemas.rows import ROW_MODELS, validate_rows
from hubflow.schemas.settings import DatasetSpec, TaskType
from hubflow.stages.errors import DataError
from hubflow.stages.reading import DIGITS_SOURCE, IMAGE_FORMATS, read_label_list, read_rows, rows_kind
from hubflow.stages.reading_source import expanded, require_file
from hubflow.stages.splits import sample_rows, split_rows
from hubflow.stages.store import Artifact, Store, content_key, file_sha256
from hubflow.stages.tasks import stage_task

KIND = "datasets"
FORMAT_VERSION = 1  # of the artefact: raise it when the same sources would be written differently
LABEL_MAP_FILE = "label_map.json"
MIN_CLASSES = 2
Frames = dict[Split, pd.DataFrame]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """What to load: the settings, the kind of rows, and the source of each split that has one."""

    spec: DatasetSpec
    task: TaskType
    kind: RowKind
    sources: dict[Split, Path]

    @property
    def label_column(self) -> str:
        """Column that holds a row's label, or its list of labels."""
        return "labels" if self.kind == "tokens" else "label"


def load_dataset(spec: DatasetSpec, task: TaskType, store: str, reuse: bool = True) -> DatasetRef:
    """Accepted rows of each split, and the label map, as an artefact of the store.

    The label map is made once, from the label list or from train, and every split is held to it. Where `dev` or `test`
    is not given, `dev_share` and `test_share` of train take its place, by seed.

    Args:
        spec: where the rows are and how they are written.
        task: what the rows are for.
        store: the store's root folder.
        reuse: take what the store already holds for the same settings and the same content of every source.

    Returns:
        Reference to `train.parquet`, `dev.parquet`, `test.parquet` (those that exist) and `label_map.json`.

    Raises:
        DataError: a source is missing, empty, unreadable, or gives fewer than two classes or a split without rows.
        ContractError: rows break their contract (see `hubflow.schemas.rows`). Faults of several splits come as one DataError.
        StoreError: the store cannot be written.
    """
    place = Store(store)
    plan = _plan(spec, task)
    # Images are hashed as they are read, so their rows are at hand before the key is.
    frames = _read(plan) if spec.format in IMAGE_FORMATS else None
    try:
        digests = _digests(plan, frames)
    except DataError:
        _read(plan)  # raises with what is wrong in the other sources too
        raise
    key = content_key("load_dataset", FORMAT_VERSION, spec, task, digests)
    known = place.find(KIND, key) if reuse else None
    if known is not None:
        return dataset_reference(known)
    return keep_rows(place, key, plan, frames or _read(plan), _listed_labels(plan), digests)


def keep_rows(
    place: Store, key: str, plan: Plan, frames: Frames, listed: LabelMap | None, digests: dict[str, str]
) -> DatasetRef:
    """Hold the rows to their contract, split them and write them."""
    frames, label_map = _validated(plan, frames, listed)
    frames = _split(plan, frames)
    with place.create(KIND, key) as draft:
        for split, rows in frames.items():
            rows.to_parquet(draft.folder / f"{split}.parquet", engine="pyarrow", index=False)
        label_map.save(draft.folder / LABEL_MAP_FILE)
        draft.facts.update(_facts(plan, frames, label_map, digests))
    return dataset_reference(place.made(KIND, key))


def _plan(spec: DatasetSpec, task: TaskType) -> Plan:
    kind = rows_kind(spec, task)
    if spec.format == "digits":
        return Plan(spec, task, kind, {"train": DIGITS_SOURCE})
    given: dict[Split, str | None] = {"train": spec.train, "dev": spec.dev, "test": spec.test}
    return Plan(spec, task, kind, {split: expanded(path) for split, path in given.items() if path is not None})


def _read(plan: Plan) -> Frames:
    return gathered(plan.sources, lambda split: read_rows(plan.spec, plan.sources[split], split, plan.task))


def _digests(plan: Plan, frames: Frames | None) -> dict[str, str]:
    """Hash of the content of each source; for images with their places, since the rows point to the files."""
    if frames is None:
        by_split = gathered(plan.sources, lambda split: file_sha256(require_file(plan.sources[split])))
    else:
        by_split = {split: content_key(rows[["path", "label", "sha256"]].to_numpy().tolist()) for split, rows in frames.items()}
    digests: dict[str, str] = {str(split): digest for split, digest in by_split.items()}
    if plan.spec.label_list is not None:
        digests["label_list"] = file_sha256(require_file(expanded(plan.spec.label_list)))
    return digests


def _validated(plan: Plan, frames: Frames, listed: LabelMap | None) -> tuple[Frames, LabelMap]:
    """Rows that keep their contract, and the label map that they were held to: `listed`, or made from train."""
    label_map: LabelMap | None = listed

    def validated(split: Split) -> pd.DataFrame:
        nonlocal label_map
        rows = validate_rows(frames[split], ROW_MODELS[plan.kind], str(plan.sources[split]), label_map)
        if split == "train":
            found = _require_classes(plan, rows)
            label_map = listed or LabelMap.from_values(found)
        return rows

    accepted = gathered(plan.sources, validated)
    assert label_map is not None
    return accepted, label_map


def _listed_labels(plan: Plan) -> LabelMap | None:
    if plan.spec.label_list is None:
        return None
    return label_map_of(read_label_list(expanded(plan.spec.label_list), plan.spec.encoding), plan.spec.label_list)


def label_map_of(labels: Sequence[str], source: str) -> LabelMap:
    """The label map of labels that are given in order.

    Raises:
        DataError: when one repeats or is empty, or there are none.
    """
    try:
        return LabelMap(labels=tuple(labels))
    except ValidationError as error:
        raise DataError(f"{source}: {error.errors()[0]['msg'].removeprefix('Value error, ')}; list each label once") from error


def _require_classes(plan: Plan, rows: pd.DataFrame) -> list[str]:
    found = sorted(set(_labels(plan, rows)))
    if len(found) < MIN_CLASSES:
        raise DataError(
            f"{plan.sources['train']}: found only the label {found[0]!r} in all {len(rows)} rows; expected at least "
            f"{MIN_CLASSES} different labels to learn from; check label_column, or add rows of other classes"
        )
    return found


def _labels(plan: Plan, rows: pd.DataFrame) -> Any:
    """Every label of `rows`, once for each row or token."""
    labels = rows[plan.label_column]
    return labels.explode() if plan.kind == "tokens" else labels


def _split(plan: Plan, frames: Frames) -> Frames:
    """Splits made from train where none is given, then at most `max_rows` of each."""
    spec = plan.spec
    stratify = None if plan.kind == "tokens" else "label"
    shares: dict[Split, float] = {"dev": spec.dev_share, "test": spec.test_share}
    wanted = {split: share for split, share in shares.items() if split not in plan.sources and share > 0}
    frames = {**frames, **split_rows(frames["train"], wanted, spec.split_seed, stratify)}
    empty = [split for split, rows in frames.items() if rows.empty]
    if empty:
        raise DataError(
            f"{plan.sources['train']}: its rows are too few to make {bounded(empty)} of them while each class keeps a row in "
            "train; add rows, give the split a file, or set its share to 0"
        )
    order: tuple[Split, ...] = ("train", "dev", "test")
    return {split: sample_rows(frames[split], spec.max_rows, spec.split_seed, stratify) for split in order if split in frames}


def _facts(plan: Plan, frames: Frames, label_map: LabelMap, digests: dict[str, str]) -> dict[str, Any]:
    counts: dict[str, Any] = {split: _labels(plan, rows).value_counts() for split, rows in frames.items()}
    labels = label_map.labels
    return {
        "rows_kind": plan.kind,
        "rows": {split: len(rows) for split, rows in frames.items()},
        "label_counts": {split: {label: int(count.get(label, 0)) for label in labels} for split, count in counts.items()},
        "num_classes": label_map.num_classes,
        "label_map_sha256": label_map.sha256,
        "sources": {split: str(plan.sources.get(split, plan.sources["train"])) for split in frames},
        "source_sha256": digests,
    }


def dataset_reference(artifact: Artifact) -> DatasetRef:
    """Reference to a kept data set."""
    facts = {name: artifact.facts[name] for name in ("rows_kind", "rows", "num_classes", "label_map_sha256")}
    return DatasetRef(path=artifact.path, sha256=artifact.sha256, **facts)


def gathered(splits: Iterable[Split], make: Callable[[Split], Result]) -> dict[Split, Result]:
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
        raise DataError("\n".join(map(str, faults))) from ExceptionGroup("faults of several splits", faults)
    return made


def _describe(dataset: DatasetRef) -> str:
    rows = ", ".join(f"{count} {split}" for split, count in dataset.rows.items())
    return f"{rows} rows, {dataset.num_classes} labels"


load_dataset_task = stage_task(load_dataset, _describe)
