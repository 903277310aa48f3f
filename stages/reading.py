"""Reading rows of any format as the frames of their contract. Must not import Paddle or Prefect."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hubflow.schemas.references import RowKind, Split
from hubflow.schemas.settings import FORMATS, DataFormat, DatasetSpec, TaskType
from hubflow.stages.errors import DataError
from hubflow.stages.reading_delimited import read_delimited
from hubflow.stages.reading_images import read_digits, read_image_folder, read_image_list
from hubflow.stages.reading_records import read_jsonl, read_parquet
from hubflow.stages.reading_source import Request, expanded, read_label_list
from hubflow.stages.reading_tokens import read_conll, read_msra

__all__ = ["DIGITS_SOURCE", "IMAGE_FORMATS", "read_label_list", "read_rows", "rows_kind"]

DIGITS_SOURCE = Path("scikit-learn digits")
IMAGE_FORMATS: tuple[DataFormat, ...] = FORMATS["image_classification"]
READERS: dict[DataFormat, Callable[[Request], pd.DataFrame]] = {
    "csv": read_delimited,
    "tsv": read_delimited,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "image_folder": read_image_folder,
    "image_list": read_image_list,
    "conll": read_conll,
    "msra": read_msra,
    "digits": read_digits,
}


def rows_kind(spec: DatasetSpec, task: TaskType) -> RowKind:
    """Kind of rows that `spec` gives for `task`.

    Raises:
        DataError: when the format holds no rows for the task.
    """
    if spec.format not in FORMATS[task]:
        raise DataError(f"format {spec.format!r} holds no rows for {task}; use one of {', '.join(FORMATS[task])}")
    if task == "text_classification":
        return "text" if spec.text_pair_column is None else "text_pair"
    return "tokens" if task == "sequence_labelling" else "image"


def read_rows(
    spec: DatasetSpec, path: str | Path | None, split: Split, task: TaskType | None = None, labelled: bool = True
) -> pd.DataFrame:
    """Rows of one source, as written: nothing but the reading is checked here.

    Args:
        spec: format and columns of the source.
        path: the file or folder; not used by format digits.
        split: which split the source is for.
        task: needed by JSON lines and Parquet of token rows; otherwise the format tells.
        labelled: False makes labels optional, as for prediction.

    Returns:
        Columns of the contract that `rows_kind` names (see `hubflow.schemas.rows`), and those carried through.
        `row` is the 1-based line or record number.

    Raises:
        DataError: naming the file, the line, what was expected and found, and what to do.
    """
    usual: TaskType = next(known for known, formats in FORMATS.items() if spec.format in formats)
    if path is None and spec.format != "digits":
        raise DataError(f"format {spec.format} needs a file or folder for {split}, found none; set `{split}`")
    source = DIGITS_SOURCE if path is None or spec.format == "digits" else expanded(path)
    return READERS[spec.format](Request(spec, source, split, rows_kind(spec, task or usual), labelled))
