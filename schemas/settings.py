"""Settings of a fine-tune: frozen pydantic models, the same from YAML, JSON, keyword arguments and deployments."""

import copy
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hubflow.schemas.errors import SettingsError

TaskType = Literal["image_classification", "text_classification", "sequence_labelling"]
DataFormat = Literal["csv", "tsv", "jsonl", "parquet", "image_folder", "image_list", "conll", "msra", "digits"]
FORMATS: dict[TaskType, tuple[DataFormat, ...]] = {
    "image_classification": ("image_folder", "image_list", "digits"),
    "text_classification": ("csv", "tsv", "jsonl", "parquet"),
    "sequence_labelling": ("conll", "msra", "jsonl", "parquet"),
}
METRICS: dict[TaskType, tuple[str, ...]] = {
    "image_classification": ("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro"),
    "text_classification": ("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro"),
    "sequence_labelling": ("loss", "accuracy", "precision", "recall", "f1", "precision_strict", "recall_strict", "f1_strict"),
}
"""What is measured on each split, by task."""
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Column = str | int


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModuleSpec(Settings):
    """Which pretrained module, and how its context is built."""

    name: str = Field(min_length=1, description="A folder, a short name of `hubflow modules`, or hf://org/name@revision")
    revision: str | None = Field(None, description="Revision of a hub module: a branch, a tag or a commit")
    pretrained: bool = Field(True, description="False builds the same network with fresh weights")
    trainable: bool = Field(True, description="False freezes every parameter of the module")
    max_seq_len: int = Field(128, ge=1, description="Text: longest sequence in tokens, special tokens included")
    image_size: int | None = Field(None, ge=8, description="Images: side in pixels; the module's own when not given")


class DatasetSpec(Settings):
    """Where the rows are and how they are written."""

    format: DataFormat
    train: str | None = Field(None, description="File or folder of the training rows")
    dev: str | None = Field(None, description="File or folder of the development rows; made from train when not given")
    test: str | None = Field(None, description="File or folder of the test rows; none, or made by test_share, when not given")
    encoding: str = Field("utf-8", description="Character encoding of text files; a UTF-8 byte-order mark is accepted")
    header: bool = Field(True, description="CSV and TSV: whether the first line names the columns")
    quoting: bool | None = Field(None, description='CSV and TSV: whether "…" quotes a field; by default in CSV, not in TSV')
    text_column: Column = Field("text", description="Name, or 0-based position without a header")
    text_pair_column: Column | None = Field(None, description="Second text of a pair")
    label_column: Column = Field("label", description="Name, or 0-based position; for CoNLL the 0-based column of the tag")
    tokens_column: Column = Field("tokens", description="JSON lines and Parquet token rows: column of the token lists")
    label_list: str | None = Field(None, description="File with one label a line, in order; from train when not given")
    dev_share: Share = Field(0.1, description="Share of train that becomes dev when there is none, stratified by label")
    test_share: Share = Field(0.0, description="Share of train that becomes test when there is none, stratified by label")
    max_rows: int | None = Field(None, ge=1, description="Use at most so many rows of each split, drawn by seed")
    split_seed: int = Field(0, ge=0, description="Seed of the splits made here")
    digits: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(tuple(range(10)), description="Format digits: which classes")

    @model_validator(mode="after")
    def _paths(self) -> Self:
        if self.format != "digits" and self.train is None:
            raise ValueError("train: a file or folder of training rows is needed")
        if self.dev_share + self.test_share >= 1:
            raise ValueError("dev_share and test_share together must leave rows to train on")
        return self


class HeadSettings(Settings):
    """The layers put on top of the module."""

    hidden_units: tuple[Annotated[int, Field(ge=1)], ...] = Field((), description="Hidden fully connected layers with ReLU")
    num_classes: int | None = Field(None, ge=2, description="Checked against the labels when given; taken from them otherwise")


class TrainSettings(Settings):
    """How the weights are fine-tuned."""

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1, description="Rows a step; for sequences on average: every step has as many tokens")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate")
    optimizer: Literal["adamw", "adam", "momentum", "sgd"] = "adamw"
    weight_decay: float = Field(0.01, ge=0, description="Decoupled; norms and biases are left out. adamw only")
    warmup_proportion: Share = Field(0.1, description="Share of all steps over which the learning rate rises from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="After warm-up, down to 0")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Clip of the gradients' global norm; none when null")
    best_metric: str | None = Field(
        None, description="Metric on dev that picks the best epoch; accuracy, or entity f1 for sequences"
    )
    log_every_steps: int = Field(10, ge=1)
    random_flip: bool = Field(False, description="Images: mirror half of the training rows, by seed")


class EvaluateSettings(Settings):
    """How the best weights are judged."""

    batch_size: int = Field(64, ge=1)
    worst_mistakes: int = Field(20, ge=0, description="How many of the rows with the largest loss the report shows")


class FineTuneSettings(Settings):
    """All that one fine-tune needs: the parameter of the flow `fine-tune`."""

    name: str = Field("fine-tune", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run's folder in the store")
    task: TaskType
    module: ModuleSpec
    data: DatasetSpec
    head: HeadSettings = HeadSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    store: str = Field("hubflow-store", min_length=1, description="Folder under which everything is kept")
    device: str = Field("auto", pattern=r"^(auto|cpu|gpu(:\d+)?)$", description="auto, cpu, gpu or gpu:N")
    seed: int = Field(0, ge=0, lt=2**31)
    reuse: bool = Field(True, description="Take what the store already holds for the same content and settings")

    @model_validator(mode="after")
    def _fits_task(self) -> Self:
        fitting, measured, best = FORMATS[self.task], METRICS[self.task], self.train.best_metric
        faults = []
        if self.data.format not in fitting:
            faults.append(f"data.format {self.data.format!r} holds no rows for {self.task}; use one of {', '.join(fitting)}")
        if best is not None and best not in measured:
            faults.append(f"train.best_metric {best!r} is not measured for {self.task}; use one of {', '.join(measured)}")
        if faults:
            raise ValueError("\n  - settings: ".join(faults))
        return self


class PredictSettings(Settings):
    """All that one batch prediction needs: the parameter of the flow `predict`."""

    export: str = Field(min_length=1, description="Exported folder")
    data: str = Field(min_length=1, description="File of rows, or folder of images; labels are not needed")
    format: DataFormat | None = Field(None, description="By the file's ending when not given")
    output: str | None = Field(None, description="Predictions file (.parquet, .csv or .jsonl); beside the data when not given")
    encoding: str = Field("utf-8", description="Character encoding of text files")
    header: bool = Field(True, description="CSV and TSV: whether the first line names the columns")
    quoting: bool | None = Field(None, description='CSV and TSV: whether "…" quotes a field; by default in CSV, not in TSV')
    text_column: Column = "text"
    text_pair_column: Column | None = None
    label_column: Column = Field("label", description="When the data has it, metrics are computed; never needed")
    tokens_column: Column = "tokens"
    batch_size: int = Field(64, ge=1)


class PredictResult(BaseModel):
    """What the flow `predict` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    export: str = Field(description="Absolute path of the exported folder")
    output: str = Field(description="Absolute path of the predictions file: one row for each input row, in order")
    rows: int
    metrics: dict[str, float] = Field(description="Against the data's labels; empty when it has none")
    notes: list[str] = Field(description="What a person should know, such as labels that are not in the export's label map")
    seconds: float


AnySettings = TypeVar("AnySettings", bound=BaseModel)


def parse_settings(model: type[AnySettings], values: object, source: str = "settings") -> AnySettings:
    """Validate `values` as `model`, reporting every fault at once with a suggestion for misspelt names.

    Raises:
        SettingsError: naming `source` and, for each fault, the setting, what was found and what is expected.
    """
    if not isinstance(values, dict):
        raise SettingsError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"  - {_fault(model, fault)}" for fault in error.errors())
        raise SettingsError(f"{source}: {error.error_count()} setting(s) are wrong\n{faults}") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """Values of a YAML or JSON settings file, not yet validated; relative paths in it are relative to the working directory.

    Raises:
        SettingsError: when the file is missing, is not YAML or JSON, or is not a mapping.
    """
    path = Path(path)
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: settings cannot be read ({error}); expected a YAML or JSON file") from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def load_settings(model: type[AnySettings], path: str | Path) -> AnySettings:
    """Settings of a YAML or JSON file.

    Raises:
        SettingsError: when the file cannot be read, or naming every fault in it.
    """
    return parse_settings(model, read_settings(path), str(path))


def with_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Copy of `values` with `a.b=value` entries put in; each value is read as YAML.

    Raises:
        SettingsError: when an entry has no name or no `=`, goes below something that is not a mapping, or is not YAML.
    """
    result = copy.deepcopy(values)
    for entry in overrides:
        name, equals, text = entry.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"--set {entry}: expected NAME=VALUE, for example train.epochs=2")
        *parents, last = name.strip().split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise SettingsError(f"--set {entry}: {parent} is not a group of settings")
        place[last] = _yaml_value(entry, text)
    return result


def _yaml_value(entry: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {entry}: {text!r} is no YAML value; quote it, as in NAME='\"text\"'") from error


def close_name(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` most likely means."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def _fault(model: type[BaseModel], fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    name = ".".join(location) or "settings"
    if fault["type"] == "extra_forbidden":
        known = _known_names(model, location[:-1])
        close = close_name(location[-1], known)
        hint = f"did you mean {close!r}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{name}: unknown setting; {hint}"
    if fault["type"] == "missing":
        return f"{name}: is required"
    if fault["type"] == "model_type":
        group = ", ".join(_known_names(model, location))
        return f"{name}: expected a group of settings ({group}), found {fault['input']!r}"
    message = fault["msg"].removeprefix("Value error, ")
    if isinstance(fault["input"], dict):
        return f"{name}: {message}"
    return f"{name}: {message} (found {fault['input']!r})"


def _known_names(model: type[BaseModel], parents: list[str]) -> list[str]:
    for parent in parents:
        field = model.model_fields.get(parent)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
