"""A project made for somebody's data: `hubflow init` looks at the data, and `hubflow contract` writes down what it holds."""

import csv
import io
import json
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from hubflow.data.readers.opening import open_data
from hubflow.data.readers.reading import iter_rows
from hubflow.data.readers.source import codec_of, encoding_of_file, expanded, is_glob, matching
from hubflow.errors import DataError, SettingsError, join_limited
from hubflow.modules.images import FORMATS
from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS
from hubflow.schemas.settings import DataFormat, DatasetSpec
from hubflow.schemas.tasks import TaskName, find_task_type

BY_ENDING: dict[str, DataFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conll": "conll",
    ".conllu": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
}
TASKS: dict[RowKind, TaskName] = {
    "text": "text_classification",
    "text_pair": "text_classification",
    "tokens": "sequence_labelling",
    "image": "image_classification",
}
MODULES = {"text": "all-MiniLM-L6-v2", "image": "resnet_v2_18_imagenet"}
TEXTS = ("text", "sentence", "review", "body", "content", "comment", "message", "title", "description", "question", "query")
LABELS = ("label", "class", "category", "target", "sentiment", "verdict", "intent", "topic", "stars", "rating", "y")
SAMPLE_ROWS, MOST_ROWS = 2000, 200_000
FEW_VALUES = 12
HEAD_BYTES = 1 << 20
MODULE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class SeenData:
    """What a look at data shows.

    Attributes:
        spec: settings by which hubflow reads it.
        task: what can be learned of it.
        kind: of its rows.
        rows: the first of them, under the names that their contract has.
        is_whole: whether these are all.
    """

    spec: DatasetSpec
    task: TaskName
    kind: RowKind
    rows: pd.DataFrame
    is_whole: bool


def look_at(
    data: str,
    task: TaskName | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    encoding: str = "utf-8",
) -> SeenData:
    """Find out how data is written, which columns hold text and label, and what can be learned of it.

    Args:
        data: file of rows, a glob of these, or a folder of images, one folder for each class.
        task: what is to be predicted; by the data where it is not given.
        text_column: by its name, or the one with the longest texts, where it is not given.
        label_column: by its name, or the one with the fewest different values, where it is not given.
        encoding: of text files.

    Raises:
        DataError: when the data is missing or cannot be read, or its format or a column is not clear.
    """
    path = expanded(data)
    files = matching(path) if is_glob(path) else [path]
    if not files or not files[0].exists():
        raise DataError(f"{data}: no such file or folder; give the path of rows, or of a folder of images by class")
    given = _splits(path.absolute())
    if files[0].is_dir():
        files = [Path(given["train"])]
    given |= {"format": _format_of(files[0]), "encoding": encoding}
    if given["format"] in ("csv", "tsv", "jsonl", "parquet") and task != "sequence_labelling":
        sample = _sample(files[0], given)
        if "tokens" in sample and task is None:
            task = "sequence_labelling"
        else:
            label = label_column or _label_of(sample, data)
            text = text_column or _text_of(sample, label, data)
            if given.get("header", True):
                given |= {"label_column": label, "text_column": text}
            else:
                given |= {"label_column": int(label), "text_column": int(text)}
    spec = DatasetSpec.model_validate(given)
    by_format: dict[DataFormat, RowKind] = {"conll": "tokens", "image_folder": "image"}
    kind = by_format.get(spec.format, "text") if task is None else find_task_type(task).rows_kind(spec)
    return _with_rows(spec, task or TASKS[kind], kind, data)


def _with_rows(spec: DatasetSpec, task: TaskName, kind: RowKind, data: str) -> SeenData:
    most = SAMPLE_ROWS if kind == "image" else MOST_ROWS  # of images, the labels are the folders
    frames, count, is_whole = [], 0, True
    for chunk in iter_rows(spec, spec.train, "train", task):
        if count >= most:
            is_whole = False
            break
        frames.append(chunk.rows)
        count += len(chunk.rows)
    if not count:
        raise DataError(f"{data}: holds no rows; expected at least one")
    return SeenData(spec, task, kind, pd.concat(frames, ignore_index=True), is_whole)


def default_name(data: str) -> str:
    """A name for the project of some data: of the file or folder, in letters that a Python module and a setting may have."""
    stem = re.sub(r"[^a-z0-9]+", "_", Path(data.rstrip("/")).name.split(".")[0].lower()).strip("_")
    return stem if MODULE_NAME.fullmatch(stem) and not keyword.iskeyword(stem) else f"project_{stem}".strip("_")


def guesses(seen: SeenData) -> str:
    """What was found out about how the data is written, in one line for a person to check."""
    spec = seen.spec
    lines = [f"format {spec.format}"]
    if spec.format in ("csv", "tsv"):
        lines += [f"fields between {spec.delimiter!r}"] * (spec.delimiter is not None) + ["no header"] * (not spec.header)
    if seen.kind in ("text", "text_pair"):
        lines += [f"text in column {spec.text_column!r}, label in column {spec.label_column!r}"]
    lines += [f"{split} {Path(str(path)).name}" for split, path in (("dev", spec.dev), ("test", spec.test)) if path is not None]
    return "; ".join(lines)


def contract_source(seen: SeenData, name: str, with_checks: bool = True) -> str:
    """Python source of a contract that the rows keep, for a person to edit: their kind's own, and what further columns hold.

    Args:
        seen: what a look at the data showed.
        name: of the class.
        with_checks: whether later rows must keep the ranges and values of these, or their types alone.
    """
    base = ROW_MODELS[seen.kind]
    own = set(base.to_schema().columns) | {"file"}
    columns = [_column(str(one), seen.rows[one], with_checks) for one in seen.rows.columns if str(one) not in own]
    fields = [line for line in columns if not line.startswith("#")]
    left_out = [line for line in columns if line.startswith("#")]
    if seen.kind == "image":
        labels = sorted(one.name for one in Path(str(seen.spec.train)).iterdir() if one.is_dir())
    else:
        labels = [] if seen.kind == "tokens" else sorted(map(str, seen.rows["label"].dropna().unique()))
    is_checked = with_checks and (seen.is_whole or seen.kind == "image") and 1 < len(labels) <= FEW_VALUES
    return _render(
        "contract.py",
        base=base.__name__,
        name=name,
        rows=len(seen.rows),
        source=str(seen.spec.train),
        labels=labels if is_checked else [],
        fields=fields,
        left_out=left_out,
    )


def write_project(folder: Path, name: str, seen: SeenData, module: str | None = None) -> list[Path]:
    """Write settings, a contract, a flow, a test and a `prefect.yaml` for the data.

    Args:
        folder: of the project; it is made where it is missing.
        name: of the run, the flow and the files: letters, digits and underscores.
        seen: what a look at the data showed.
        module: that is fine-tuned; a small one for the kind of data by default.

    Returns:
        The files.

    Raises:
        SettingsError: when the name is no name of a Python module, or a file is there already.
    """
    if not MODULE_NAME.fullmatch(name) or keyword.iskeyword(name):
        raise SettingsError(
            f"--name {name!r}: expected letters, digits and underscores, a letter first, no keyword; such as reviews"
        )
    kind = find_task_type(seen.task).module_kind
    spec = seen.spec.model_dump(mode="json", exclude_defaults=True)
    contract = f"{name}_contract:{_class_name(name)}"
    values = {
        "name": name,
        "task": seen.task,
        "module": {"name": module or MODULES[kind], **({"max_seq_len": 128} if kind == "text" else {})},
        "data": {**spec, "contract": contract},
        "train": {"epochs": 3, "batch_size": 16, "learning_rate": 5e-5 if kind == "text" else 1e-3},
        "store": f"~/{name}-store",
    }
    known = {"name": name, "class_name": _class_name(name), "task": seen.task, "kind": kind}
    files = {
        f"{name}.yaml": _render("settings.yaml", settings=yaml.safe_dump(values, sort_keys=False, allow_unicode=True), **known),
        f"{name}_contract.py": contract_source(seen, _class_name(name), with_checks=False),
        f"{name}_flow.py": _render("flow.py", **known),
        f"test_{name}.py": _render("test.py", **known),
        "prefect.yaml": _render("prefect.yaml", **known),
    }
    there = [file for file in files if (folder / file).exists()]
    if there:
        raise SettingsError(f"{folder}: {join_limited(there)} is there already; choose another --name or folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in files]


def _render(template: str, **values: Any) -> str:
    pages = Environment(  # noqa: S701  # Python and YAML, not HTML
        loader=PackageLoader("hubflow", "templates/project"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["py"] = repr
    return pages.get_template(f"{template}.jinja").render(**values)


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) or "Rows"


def _format_of(path: Path) -> DataFormat:
    if path.is_dir():
        files = (file for inner in sorted(path.iterdir()) if inner.is_dir() for file in inner.iterdir())
        endings = {file.suffix.lower().lstrip(".") for _, file in zip(range(1000), files, strict=False)}
        images = {one.lower() for one in FORMATS} | {"jpg", "jpeg", "tif", "tiff"}
        if not endings & images:
            raise DataError(f"{path}: holds no folders of images; expected one folder for each class, with its images in it")
        return "image_folder"
    suffixes = [one.lower() for one in path.suffixes if one.lower() not in (".gz", ".bz2", ".xz", ".zst")]
    found = BY_ENDING.get(suffixes[-1]) if suffixes else None
    if found is None and suffixes[-1:] == [".txt"]:
        return "conll"
    if found is None:
        raise DataError(f"{path}: its ending says no format; expected one of {', '.join(BY_ENDING)}, or a folder of images")
    return found


def _splits(path: Path) -> dict[str, Any]:
    """Sources of the splits: files or folders named `train`, `dev` (or valid, val) and `test` that lie together."""
    if path.is_dir() and (path / "train").is_dir():
        path = path / "train"
    found: dict[str, Any] = {"train": str(path)}
    if path.name.partition(".")[0] == "train":
        for split, names in (("dev", ("dev", "valid", "validation", "val")), ("test", ("test",))):
            others = (path.with_name(path.name.replace("train", name, 1)) for name in names)
            if (other := next((one for one in others if one.exists()), None)) is not None:
                found[split] = str(other)
    return found if "test" in found else {**found, "test_fraction": 0.1}


def _sample(path: Path, given: dict[str, Any]) -> pd.DataFrame:
    """The first rows, of all columns; what hubflow has to know to read the file goes into `given`."""
    if given["format"] == "parquet":
        batch = next(pq.ParquetFile(path).iter_batches(SAMPLE_ROWS), None)
        return pd.DataFrame() if batch is None else batch.to_pandas()
    with open_data(path) as opened:
        head = opened.read(HEAD_BYTES)
    encoding = given["encoding"]
    try:
        text = head.decode(encoding_of_file(path, head, codec_of(path, encoding)) or encoding, "replace").removeprefix("\ufeff")
    except LookupError as error:
        raise DataError(f"{path}: unknown encoding {encoding!r}; name it with --encoding, such as cp1252") from error
    if given["format"] == "jsonl":
        return _json_sample(text, path)
    delimiter = _delimiter(text, "\t" if given["format"] == "tsv" else ",")
    usual = "\t" if given["format"] == "tsv" else ","
    if delimiter != usual:
        given["delimiter"] = delimiter
    quoting: Any = csv.QUOTE_NONE if given["format"] == "tsv" else csv.QUOTE_MINIMAL
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting))[: SAMPLE_ROWS + 1]
    names = rows[0] if rows else []
    table = pd.DataFrame([row for row in rows[1:] if len(row) == len(names)], columns=range(len(names)), dtype=str)
    if _is_header(names, table):
        return table.set_axis(names, axis="columns")
    given["header"] = False
    first = pd.DataFrame([names], columns=table.columns)
    return pd.concat([first, table], ignore_index=True).rename(columns=str)


def _json_sample(text: str, path: Path) -> pd.DataFrame:
    """The first objects, of one a line or of an array; what is cut off at the end is left out."""
    decoder, rows, start = json.JSONDecoder(), list[Any](), 0
    while len(rows) < SAMPLE_ROWS and (found := re.compile(r"[^\s,\[\]]").search(text, start)):
        try:
            row, start = decoder.raw_decode(text, found.start())
        except ValueError:
            break
        rows.append(row)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected JSON objects, one a line or in an array; found {text[:40]!r}")
    return pd.DataFrame(rows)


def _is_header(names: Sequence[str], table: pd.DataFrame) -> bool:
    """Whether the first line names the columns: no name is a number, or one of the few values of its column."""
    for number, name in enumerate(names):
        values = set(table[number])
        if re.fullmatch(r"[-+]?\d+([.,]\d+)?", name.strip()) or (name in values and len(values) <= FEW_VALUES):
            return False
    return True


def _delimiter(text: str, usual: str) -> str:
    first = text.splitlines()[0] if text else ""
    counts = {one: first.count(one) for one in (usual, ",", ";", "\t", "|")}
    return max(counts, key=lambda one: counts[one])


def _label_of(sample: pd.DataFrame, data: str) -> str:
    names = {str(name).lower(): str(name) for name in sample.columns}
    found = next((names[name] for name in LABELS if name in names), None)
    if found is not None:
        return found
    counts = {str(name): sample[name].astype(str).nunique() for name in sample.columns}
    few = {name: count for name, count in counts.items() if 1 < count <= max(2, len(sample) // 3)}
    if not few:
        raise DataError(
            f"{data}: which column holds the label is not clear; found {join_limited(map(repr, counts))}; name it "
            "with --label-column"
        )
    return min(few, key=lambda name: few[name])


def _text_of(sample: pd.DataFrame, label: str, data: str) -> str:
    names = {str(name).lower(): str(name) for name in sample.columns if str(name) != label}
    found = next((names[name] for name in TEXTS if name in names), None)
    lengths = {name: sample[name].astype(str).str.len().mean() for name in names.values()}
    if found is None and not lengths:
        raise DataError(f"{data}: has no column beside {label!r}; name the columns by --text-column and --label-column")
    return found or max(lengths, key=lambda name: lengths[name])


def _column(name: str, values: "pd.Series[Any]", with_checks: bool) -> str:
    """One line of a contract: the column, its type, and, with checks, what its values keep."""
    known = values.dropna()
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        return f"# the column {name!r} has no name that Python takes: pa.Field(alias={name!r}) under a name of yours"
    nullable = ["nullable=True"] if len(known) < len(values) else []
    texts = known.astype(str)
    is_whole = bool(texts.str.fullmatch(r"-?(0|[1-9]\d{0,17})").all()) and not nullable  # 007 is a text
    if len(known) and (is_whole or texts.str.fullmatch(r"-?(0|[1-9]\d{0,8})(\.\d{1,6})?").all()):
        numbers = texts.map(int if is_whole else float)
        limits = [f"ge={numbers.min()}", f"le={numbers.max()}"] if with_checks else []
        return f"{name}: Series[{'int' if is_whole else 'float'}] = pa.Field({', '.join([*limits, 'coerce=True', *nullable])})"
    if not known.map(lambda value: isinstance(value, str)).all():
        return f"# the column {name!r} holds other values than text and numbers, and is kept as it is"
    distinct = sorted(map(str, texts.unique()))
    is_few = 1 < len(distinct) <= FEW_VALUES and len(known) > 3 * len(distinct)
    values_in = [f"isin={distinct!r}"] if with_checks and is_few else []
    return f"{name}: Series[str] = pa.Field({', '.join([*values_in, *nullable])})"
