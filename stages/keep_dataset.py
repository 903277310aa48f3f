"""Keep rows that are at hand as load_dataset keeps those of files, for a stage of your own in its place. No Paddle here."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as arrow

from hubflow.schemas.contracts import contract_identity, contract_of
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.errors import bounded
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.references import DatasetRef, Split
from hubflow.schemas.settings import DatasetSpec, TaskType
from hubflow.stages.data.keep_rows import FORMAT_VERSION, Plan
from hubflow.stages.data.reading import rows_kind
from hubflow.stages.data.reading_chunks import CHUNK_ROWS, sliced
from hubflow.stages.data.reading_source import require_file
from hubflow.stages.data.watch import keep_watched
from hubflow.stages.errors import DataError
from hubflow.stages.load_dataset import label_map_of
from hubflow.stages.store import Store, content_key, file_sha256


def keep_dataset(
    frames: Mapping[Split, pd.DataFrame],
    task: TaskType,
    store: str,
    labels: Sequence[str] | None = None,
    dev_share: float = 0.1,
    test_share: float = 0.0,
    split_seed: int = 0,
    source: str = "DataFrame",
    reuse: bool = True,
    contract: type | None = None,
    max_invalid_share: float = 0.0,
    group_column: str | None = None,
    checks: DataChecks = DataChecks(),  # noqa: B008  # frozen
) -> DatasetRef:
    """Keep rows that are at hand, from a query for example, as `load_dataset` keeps those of files.

    Args:
        frames: rows by split, `train` at least. Columns `text` (and `text_pair`), or `tokens` and `labels` (lists of str), or
            `path` of image files; `label` where each row has one; `row`, a number from 1 that errors name it by, is counted
            when not given. Further columns are carried through.
        task: what the rows are for.
        store: the store's root folder.
        labels: every label in order; from train when not given.
        dev_share: share of train that becomes `dev` when there is none; `test_share` likewise; `split_seed` draws both.
        test_share: see `dev_share`.
        split_seed: see `dev_share`.
        source: what errors and facts name as the origin of the rows; with their columns, it says which data sets are compared
            with each other.
        reuse: take what the store already holds for the same rows.
        contract: your own contract, a subclass of that of the rows' kind.
        max_invalid_share: share of a split's rows that may break their contract and be set aside.
        group_column: column whose values should not be in two splits; those made here keep the rows of a value together.
        checks: what is done about faults that no single row shows.

    Raises:
        SettingsError: an argument is none of its kind.
        DataError: no `train`, fewer than two classes, a split without rows, or an image file that is missing.
        ContractError: rows break their contract.
        StoreError: the store cannot be written.
    """
    if "train" not in frames:
        raise DataError(f"{source}: found the splits {bounded(frames) or 'none'}; expected train at least")
    strange = [name for name in frames if name not in get_args(Split)]
    if strange:
        raise DataError(f"{source}: unknown split(s) {bounded(map(repr, strange))}; expected train, dev and test")
    is_image, is_pair = task == "image_classification", "text_pair" in frames["train"]
    given = {
        "format": "image_list" if is_image else "parquet",
        "train": source,
        "text_pair_column": "text_pair" if is_pair else None,
        "dev_share": dev_share,
        "test_share": test_share,
        "split_seed": split_seed,
        "max_invalid_share": max_invalid_share,
        "group_column": group_column,
        "checks": checks,
    }
    spec = parse_settings(DatasetSpec, given, "keep_dataset")
    kind = rows_kind(spec, task)
    sources = {split: Path(f"{source}, {split}") for split in frames}
    series = content_key(source, sorted(map(str, frames["train"].columns)))
    plan = Plan(spec, task, kind, sources, contract_of(kind, contract), series)
    numbered = {split: _numbered(rows, is_image, str(plan.sources[split])) for split, rows in frames.items()}
    digests: dict[str, str] = {split: _content_sha256(rows) for split, rows in numbered.items()}
    identity = contract_identity(plan.model)
    place, key = Store(store), content_key("keep_dataset", FORMAT_VERSION, spec, task, identity, labels, digests)
    chunks = {split: partial(sliced, rows, CHUNK_ROWS) for split, rows in numbered.items()}
    return keep_watched(place, key, plan, chunks, partial(_listed, labels, source), digests, reuse)


def _listed(labels: Sequence[str] | None, source: str) -> LabelMap | None:
    return None if labels is None else label_map_of(labels, source)


def _numbered(rows: pd.DataFrame, is_image: bool, source: str) -> pd.DataFrame:
    """Rows with their number, and images with the hash of their content, where these are not given."""
    repeated = rows.columns[rows.columns.duplicated()].unique()
    if len(repeated):
        raise DataError(f"{source}: column name(s) {bounded(map(repr, repeated))} repeat; name each column once")
    columns: dict[str, Any] = {} if "row" in rows else {"row": np.arange(1, len(rows) + 1, dtype=np.int64)}
    if is_image and "path" in rows and "sha256" not in rows:
        columns["sha256"] = [file_sha256(require_file(Path(path))) for path in rows["path"]]
    return rows.reset_index(drop=True).assign(**columns)


def _content_sha256(rows: pd.DataFrame) -> str:
    """Hash of the rows; of columns that Arrow cannot hold, whose rows their contract will name, the hash of how they look."""
    sink = arrow.BufferOutputStream()
    try:
        table = arrow.Table.from_pandas(rows, preserve_index=False)
    except (arrow.ArrowException, UnicodeEncodeError, OverflowError):
        with np.printoptions(threshold=sys.maxsize):
            looks = {str(name): rows[name].map(repr) for name in rows if rows[name].dtype == object}
        table = arrow.Table.from_pandas(rows.assign(**looks), preserve_index=False)
    with arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()
