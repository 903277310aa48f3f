"""What to predict on, and where the predictions go: files of a path, a glob or a list. Must not import Paddle or Prefect."""

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath

from hubflow.data.readers.images import SYSTEM_NAMES
from hubflow.data.readers.opening import plain_name
from hubflow.data.readers.reading import rows_kind
from hubflow.data.readers.source import expanded, is_glob, matching
from hubflow.errors import DataError, SettingsError, join_limited
from hubflow.inference.batch.writing import OUTPUTS
from hubflow.modules.images import is_image_file
from hubflow.schemas.references import RowKind
from hubflow.schemas.settings import FORMATS, DataFormat, DatasetSpec, PredictSettings, TaskType
from hubflow.store.outputs import Output

ENDINGS: dict[str, DataFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
    ".conllu": "conll",
    ".conllup": "conll",
}
_NAMES = (
    "encoding",
    "header",
    "quoting",
    "delimiter",
    "quote",
    "escape",
    "text_column",
    "text_pair_column",
    "label_column",
    "tokens_column",
    "label_list",
)


@dataclass(frozen=True)
class Source:
    """A file or folder of rows, and how they are written; or image files that were named one by one, or by a glob."""

    path: Path
    spec: DatasetSpec
    images: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, or the folder."""
        return self.images or (self.path,)

    @cached_property
    def image_names(self) -> dict[str, str]:
        """What each image was called, by its absolute path."""
        return {os.path.abspath(path): str(path) for path in self.images}


def output_of(settings: PredictSettings) -> Output:
    """Where the predictions go.

    Raises:
        SettingsError: when the ending is unknown, several files have no output named, or it cannot be written there.
    """
    if settings.output is None and is_several(settings):
        raise SettingsError(f"output: several files need one named, with an ending of {', '.join(OUTPUTS)}")
    data = expanded(settings.data if isinstance(settings.data, str) else settings.data[0]).absolute()
    data = data if data.name not in ("", "..") else data.resolve()  # a link keeps its own name and folder
    named = settings.output or str(data.with_name(f"{data.name}.predictions.parquet"))
    output = Output.named(named, "output", settings.overwrite, "set overwrite: true (--overwrite)")
    if output.path.suffix not in OUTPUTS:
        raise SettingsError(f"output {named}: expected an ending of {', '.join(OUTPUTS)}")
    return output


def quarantine_of(output: Output) -> Output:
    """Where the rows that are quarantined go: beside the predictions."""
    return replace(output, path=output.path.with_name(f"{output.path.name}.quarantine.parquet"))


def require_free(output: Output, sources: Sequence[Source]) -> None:
    """Refuse, before anything is predicted, to write over what hubflow did not write, or over what is read.

    Raises:
        SettingsError: naming what is there.
    """
    for one in (output, quarantine_of(output)):
        one.require_replaceable()
        one.require_no_source(path for source in sources for path in source.files)


def is_several(settings: PredictSettings) -> bool:
    """Whether the data may be several files, which the output then names in a column."""
    return not isinstance(settings.data, str) or is_glob(settings.data)


def sources_of(settings: PredictSettings, task: TaskType, trained_on: RowKind, output: Output) -> list[Source]:
    """Every file or folder to predict on, in the order given, those of a glob sorted; the predictions are none of them.

    Raises:
        DataError: when a glob matches nothing.
        SettingsError: when the format cannot be told, or does not give the rows that the export was trained on.
    """
    patterns = (settings.data,) if isinstance(settings.data, str) else settings.data
    ours = {output.path, quarantine_of(output).path}
    found: list[tuple[bool, Path]] = []
    for pattern in patterns:
        paths = [path for path in matching(pattern) if path.absolute() not in ours]
        is_image = _images_among(paths, settings, task)
        found += [(is_image(path), path) for path in paths]
    sources: list[Source] = []
    for are_images, group in itertools.groupby(found, key=lambda one: one[0]):
        paths = [path for _, path in group]
        if are_images:  # which are read together: each of many would be a part of its own
            sources.append(Source(paths[0], _spec(settings, paths[0], task, trained_on, "image_folder"), tuple(paths)))
        else:
            sources += [Source(path, _spec(settings, path, task, trained_on)) for path in paths]
    if not sources:
        raise DataError(
            f"{join_limited(patterns)}: matches no file but the predictions; correct the glob in the settings of the data"
        )
    return sources


def _images_among(paths: Sequence[Path], settings: PredictSettings, task: TaskType) -> Callable[[Path], bool]:
    """Which of the paths of a pattern are read as images: of files beside images all, since what is no image is counted."""
    if task != "image_classification" or settings.format not in (None, "image_folder"):
        return lambda _path: False
    files = {path for path in paths if os.path.lexists(path) and not path.is_dir()}
    has_images = any(map(is_image_file, files))
    return lambda path: path in files and (has_images or path.name in SYSTEM_NAMES)


def _spec(
    settings: PredictSettings, path: Path, task: TaskType, trained_on: RowKind, known: DataFormat | None = None
) -> DatasetSpec:
    kind = known or settings.format or _format(path, task)
    if kind not in FORMATS[task]:
        raise SettingsError(
            f"format {kind!r} holds no rows for this export's task {task}; use one of {', '.join(FORMATS[task])}"
        )
    given = {name: getattr(settings, name) for name in (*_NAMES, *(("image_root",) if kind == "image_list" else ()))}
    spec = DatasetSpec(format=kind, train=str(path), **given)
    if rows_kind(spec, task) != trained_on:
        remedy = "set text_pair_column" if trained_on == "text_pair" else "leave text_pair_column out"
        raise SettingsError(
            f"this export was trained on {trained_on} rows, the settings give {rows_kind(spec, task)}; {remedy}"
        )
    return spec


def _format(path: Path, task: TaskType) -> DataFormat:
    if task == "image_classification":
        return "image_list" if path.is_file() else "image_folder"
    known = ENDINGS.get(PurePath(plain_name(path)).suffix.lower())
    if known is None:
        raise SettingsError(
            f"{path}: the ending does not tell the format; set format to one of "
            f"{join_limited(FORMATS[task], len(FORMATS[task]))}"
        )
    return known
