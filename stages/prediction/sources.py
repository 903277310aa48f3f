"""What to predict on, and where the predictions go: files of a path, a glob or a list. Must not import Paddle or Prefect."""

import glob
from dataclasses import dataclass
from pathlib import Path

from hubflow.schemas.errors import SettingsError, bounded
from hubflow.schemas.references import RowKind
from hubflow.schemas.settings import FORMATS, DataFormat, DatasetSpec, PredictSettings, TaskType
from hubflow.stages.data.reading import rows_kind
from hubflow.stages.data.reading_source import expanded
from hubflow.stages.errors import DataError

ENDINGS: dict[str, DataFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet", ".conll": "conll"}
OUTPUTS = (".parquet", ".csv", ".jsonl")
_NAMES = ("encoding", "header", "quoting", "text_column", "text_pair_column", "label_column", "tokens_column")


@dataclass(frozen=True)
class Source:
    """A file or folder of rows, and how they are written."""

    path: Path
    spec: DatasetSpec


def output_of(settings: PredictSettings) -> Path:
    """Where the predictions go, absolute.

    Raises:
        SettingsError: when the ending is unknown, or several files have no output named.
    """
    if settings.output is None and is_several(settings):
        raise SettingsError(f"output: several files need one named, with an ending of {', '.join(OUTPUTS)}")
    data = expanded(settings.data if isinstance(settings.data, str) else settings.data[0]).resolve()
    output = Path(settings.output) if settings.output else data.with_name(f"{data.name}.predictions.parquet")
    if output.suffix not in OUTPUTS:
        raise SettingsError(f"output {output}: expected an ending of {', '.join(OUTPUTS)}")
    return output.expanduser().absolute()


def quarantine_of(output: Path) -> Path:
    """Where the rows that are set aside go: beside the predictions."""
    return output.with_name(f"{output.stem}.quarantine.parquet")


def is_several(settings: PredictSettings) -> bool:
    """Whether the data may be several files, which the output then names in a column."""
    return not isinstance(settings.data, str) or _is_glob(settings.data)


def sources_of(settings: PredictSettings, task: TaskType, trained_on: RowKind, output: Path) -> list[Source]:
    """Every file or folder to predict on, in the order given, those of a glob sorted; the predictions are none of them.

    Raises:
        DataError: when a glob matches nothing.
        SettingsError: when the format cannot be told, or does not give the rows that the export was trained on.
    """
    patterns = (settings.data,) if isinstance(settings.data, str) else settings.data
    ours = {output, quarantine_of(output)}
    paths = [path for pattern in patterns for path in _matching(pattern) if path.absolute() not in ours]
    return [Source(path, _spec(settings, path, task, trained_on)) for path in paths]


def _is_glob(text: str) -> bool:
    return glob.has_magic(text) and not expanded(text).exists()


def _matching(pattern: str) -> list[Path]:
    if not _is_glob(pattern):
        return [expanded(pattern)]
    found = sorted(glob.glob(str(expanded(pattern)), recursive=True))
    if not found:
        raise DataError(f"{pattern}: matches no file; correct the glob in the settings of the data")
    return [Path(path) for path in found]


def _spec(settings: PredictSettings, path: Path, task: TaskType, trained_on: RowKind) -> DatasetSpec:
    kind = settings.format or _format(path, task)
    if kind not in FORMATS[task]:
        raise SettingsError(
            f"format {kind!r} holds no rows for this export's task {task}; use one of {', '.join(FORMATS[task])}"
        )
    spec = DatasetSpec(format=kind, train=str(path), **{name: getattr(settings, name) for name in _NAMES})
    if rows_kind(spec, task) != trained_on:
        remedy = "set text_pair_column" if trained_on == "text_pair" else "leave text_pair_column out"
        raise SettingsError(
            f"this export was trained on {trained_on} rows, the settings give {rows_kind(spec, task)}; {remedy}"
        )
    return spec


def _format(path: Path, task: TaskType) -> DataFormat:
    if task == "image_classification":
        return "image_list" if path.is_file() else "image_folder"
    known = ENDINGS.get(path.suffix.lower())
    if known is None:
        raise SettingsError(
            f"{path}: the ending does not tell the format; set format to one of {bounded(FORMATS[task], len(FORMATS[task]))}"
        )
    return known
