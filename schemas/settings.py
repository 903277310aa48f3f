"""Settings of a fine-tune: frozen pydantic models, the same from YAML, JSON, keyword arguments and deployments."""

import itertools
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hubflow.errors import SettingsError
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.evaluation import CUSTOM_METRIC
from hubflow.schemas.export import ExportSettings
from hubflow.schemas.labels import TagScheme
from hubflow.schemas.parsing import Colour, Fraction, Settings
from hubflow.schemas.tasks import BUILT_IN, TaskName, find_task_type
from hubflow.schemas.training import HostsSettings, TrainSettings
from hubflow.schemas.urls import ExportAddress, InputPath, LinkBase, OutputPath, PathOrName, StoreAddress


class SliceSettings(Settings):
    """Parts that a split is cut into, each evaluated by itself."""

    columns: tuple[str, ...] = Field((), description="Further columns of the data; each of their values is a slice")
    max_values: int = Field(
        20,
        ge=2,
        description="Slices of a column, or by label; of more values the rarest share one, of more numbers four ranges",
    )
    length: bool = Field(True, description="By length: characters of a text, words of a sentence; images have none")
    length_edges: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Longest length of each slice but the last, rising; the split's quartiles when not given"
    )
    labels: bool = Field(True, description="By true label; of sentences by the types of entities that are in them")

    @field_validator("length_edges")
    @classmethod
    def _rising(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        if any(left >= right for left, right in itertools.pairwise(edges)):
            raise ValueError(f"edges must rise, found {list(edges)}")
        return edges


class BootstrapSettings(Settings):
    """Confidence intervals of the metrics: percentiles of a bootstrap over the split's rows (Efron 1979)."""

    resamples: int = Field(1000, ge=0, description="Number of times the rows are drawn; 0 computes no intervals")
    confidence: float = Field(0.95, gt=0, lt=1, description="Confidence level of the intervals, above 0 and below 1")
    seed: int = Field(0, ge=0, description="Seed of the draws")


class EvaluateSettings(Settings):
    """How the best weights are evaluated."""

    batch_size: int = Field(64, ge=1, description="Rows that are predicted together")
    stride: int | None = Field(
        None,
        ge=0,
        description="Sequence labelling: read sentences longer than max_seq_len in windows that share at least so many tokens, "
        "as predict does; when not given they are cut, and words cut off count as O",
    )
    worst_mistakes: int = Field(
        20, ge=0, description="Number of wrong rows, those with the largest loss, that are listed and shown"
    )
    top_k: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (3, 5), description="For each k below the number of labels: how often the true label is among the k most probable"
    )
    calibration_bins: int = Field(
        15, ge=1, description="Number of bins of equal width for the expected calibration error (Naeini et al. 2015)"
    )
    scheme: TagScheme = Field(
        "auto", description="Scheme of the tags for strict entity scores; auto reads it from labels and true tags"
    )
    slices: SliceSettings = Field(SliceSettings(), description="Slices of each split that are evaluated by themselves")
    bootstrap: BootstrapSettings = Field(BootstrapSettings(), description="How confidence intervals are computed")
    metrics: tuple[Annotated[str, Field(pattern=CUSTOM_METRIC)], ...] = Field(
        (), description="Your own metrics, each as package.module:function"
    )


class ReportSettings(Settings):
    """What the report shows, and where it is read."""

    explained_mistakes: int = Field(
        5,
        ge=0,
        description="Text classification: in how many mistakes the words that led to them are marked; costs up to 33 "
        "predictions each",
    )
    base_url: LinkBase | None = Field(
        None,
        description="Where the store's folder is served, so that Prefect's link to the report can be followed",
    )


class RunnerSettings(Settings):
    """What runs the shards of a prediction in the flow."""

    kind: Literal["flow", "dask", "ray"] = Field(
        "flow", description="flow: the flow's own task runner, which is threads; dask, ray: a cluster (extras `dask`, `ray`)"
    )
    workers: int = Field(2, ge=1, description="Number of processes of a cluster that is started here; they share the cores")
    address: str | None = Field(None, description="Address of a running cluster, whose workers must see the same files")


DataFormat = Literal["csv", "tsv", "jsonl", "parquet", "image_folder", "image_list", "conll", "msra", "digits"]
Column = str | int
Character = Annotated[
    str,
    BeforeValidator(lambda value: "\t" if value == "\\t" else value),
    Field(min_length=1, max_length=1, pattern=r"^[^\r\n]$"),
]
"""One character; a tab may be written as a backslash and a t."""
DELIMITER = "CSV and TSV: character that separates fields; a comma in CSV and a tab in TSV when not given"
QUOTE = 'CSV and TSV: character that quotes a field, " when not given; to name one turns quoting on'
ESCAPE = "CSV and TSV: character, such as a backslash, after which the next one is plain text; none when not given"
BLOCK_NAME = r"^[a-z0-9-]+$"  # as Prefect has it: a name with a slash would lead to a block of another type
Projection = Literal["query", "key", "value", "output"]


class LoraSettings(Settings):
    """Low-rank adapters on the attention projections (Hu et al., arXiv:2106.09685): they and the head are all that trains.

    Example:
        >>> LoraSettings(rank=8, alpha=16).scale
        2.0
    """

    rank: int = Field(8, ge=1, description="Inner size of each adapter")
    alpha: float = Field(16.0, gt=0, description="Scale: what an adapter adds is multiplied by alpha / rank")
    dropout: Fraction = Field(0.0, description="Dropout rate of an adapter's input, in training")
    targets: tuple[Projection, ...] = Field(("query", "value"), min_length=1, description="Projections with an adapter")

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[Projection, ...]) -> tuple[Projection, ...]:
        return tuple(name for name in get_args(Projection) if name in targets)

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied with."""
        return self.alpha / self.rank


class ModuleSpec(Settings):
    """Which pretrained module, and how its context is built."""

    name: PathOrName = Field(
        description="A folder, a short name of `hubflow modules`, or hf://org/name@revision",
        examples=["all-MiniLM-L6-v2", "hf://org/name@main", "/models/bert-base"],
    )
    revision: str | None = Field(None, description="Revision of a hub module: a branch, a tag or a commit")
    pretrained: bool = Field(True, description="False builds the same network with fresh weights")
    trainable: bool = Field(True, description="False freezes every parameter of the module")
    max_seq_len: int = Field(128, ge=1, description="Text: longest sequence in tokens, special tokens included")
    image_size: int | None = Field(None, ge=8, description="Images: side in pixels; the module's own when not given")
    background: Colour = Field(
        "white",
        description="Images: colour that transparent parts show: a colour's name, '#rrggbb' or three numbers from 0 to 255",
    )
    dropout: Fraction | None = Field(
        None, description="Text: dropout rate of the module's hidden vectors; the module's own when not given"
    )
    attention_dropout: Fraction | None = Field(
        None, description="Text: dropout rate of attention weights; the module's own when not given"
    )
    lora: LoraSettings | None = Field(
        None, description="Text: train low-rank adapters, merged at export, in place of the module's weights"
    )

    @model_validator(mode="after")
    def _adapters_train(self) -> Self:
        if self.lora is not None and not self.trainable:
            raise ValueError("lora trains adapters in the module, trainable: false trains nothing in it; leave one out")
        return self


class DatasetSpec(Settings):
    """Where the rows are and how they are written.

    Example:
        >>> DatasetSpec(format="tsv", train="train.tsv", text_column="sentence", test_fraction=0.1).label_column
        'label'
    """

    format: DataFormat = Field(description="How the rows are written; docs/how-to/data-formats.md has the formats of each task")
    train: InputPath | None = Field(
        None,
        description="File or folder of the training rows, or a glob of files of rows",
        examples=["/data/train.csv", "/data/2026-*/rows.parquet"],
    )
    dev: InputPath | None = Field(
        None, description="File, folder or glob of the development rows; made from train by dev_fraction when not given"
    )
    test: InputPath | None = Field(
        None, description="File, folder or glob of the test rows; none, or made from train by test_fraction, when not given"
    )
    encoding: str = Field("utf-8", description="Character encoding of text files; a UTF-8 byte-order mark is accepted")
    header: bool = Field(True, description="CSV and TSV: whether the first line names the columns")
    quoting: bool | None = Field(None, description='CSV and TSV: whether "…" quotes a field; by default in CSV, not in TSV')
    delimiter: Character | None = Field(None, description=DELIMITER)
    quote: Character | None = Field(None, description=QUOTE)
    escape: Character | None = Field(None, description=ESCAPE)
    text_column: Column = Field("text", description="Name, or 0-based position without a header")
    text_pair_column: Column | None = Field(
        None, description="Column of the second text of a pair; rows are single texts when not given"
    )
    label_column: Column = Field(
        "label",
        description="Name, or 0-based position; for CoNLL that of the tag, from the end where negative, the last by default",
    )
    tokens_column: Column = Field(
        "tokens",
        description="JSON lines and Parquet token rows: column of the token lists; for CoNLL that of the token by position, "
        "from the end where negative, or by name (CoNLL-U's, or of `# global.columns`), the first by default",
    )
    label_list: InputPath | None = Field(
        None,
        description="File with one label a line, in order; from train when not given. It names labels that are numbers. For "
        "image lists `0 cat` lines too",
    )
    tag_scheme: TagScheme = Field(
        "auto",
        description="Sequence labelling: scheme of the tags; `plain` when each tag but O is a type of its own. When auto, the "
        "tags tell it, and are refused where they can be read in two ways",
    )
    image_root: InputPath | None = Field(
        None, description="Image lists: folder that paths are relative to; the list's own when not given"
    )
    dev_fraction: Fraction = Field(
        0.1, description="Fraction of train that becomes dev when there is none, stratified by label"
    )
    test_fraction: Fraction = Field(
        0.0, description="Fraction of train that becomes test when there is none, stratified by label"
    )
    max_rows: int | None = Field(
        None, ge=1, description="Largest number of rows that are used of each split, drawn by split_seed"
    )
    split_seed: int = Field(0, ge=0, description="Seed of the splits made here")
    digits: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(tuple(range(10)), description="Format digits: which classes")
    max_invalid_fraction: Fraction = Field(
        0.0,
        description="Fraction of a split's rows that may break their contract and be quarantined; with more the stage fails",
    )
    contract: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$",
        description="package.module:ClassName of your own contract: a subclass of the one of these rows, or a model of "
        "pandera for Polars or Arrow",
        examples=["my_project.schemas.reviews:ReviewRows"],
    )
    checks: DataChecks = Field(DataChecks(), description="What is done about faults that no single row shows")
    group_column: str | None = Field(
        None,
        min_length=1,
        description="Column whose values, such as a patient or author, should not be in two splits; splits made here keep the "
        "rows of a value together, and their shares are of the values",
    )

    split_by: str | None = Field(
        None,
        min_length=1,
        description="Column of a key, such as an order number, whose hash decides which split a row goes to: the same one "
        "every time, whatever rows come later; the shares are of the keys",
    )

    @model_validator(mode="after")
    def _paths(self) -> Self:
        if self.format != "digits" and self.train is None:
            raise ValueError("train: a file or folder of training rows is needed")
        if self.image_root is not None and self.format != "image_list":
            raise ValueError(f"image_root is for format image_list, this is {self.format}; leave it out")
        if self.split_by is not None and self.group_column is not None:
            raise ValueError("split_by and group_column: a group's hash decides its split already; leave split_by out")
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError("dev_fraction and test_fraction together must leave rows to train on")
        _require_distinct(self.delimiter, self.quote, self.escape)
        return self


class HeadSettings(Settings):
    """The layers put on top of the module."""

    hidden_units: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Units of each hidden fully connected layer with ReLU, from the module to the output"
    )
    num_classes: int | None = Field(
        None, ge=2, description="Number of classes; checked against the labels when given, taken from them otherwise"
    )
    dropout: Fraction | None = Field(
        None,
        description="Dropout rate of the module's output before the head's layers; 0.1 for text classification and 0 for "
        "others when not given",
    )


class FineTuneSettings(Settings):
    """All that one fine-tune needs: the parameter of the flow `fine-tune`.

    Example:
        >>> settings = FineTuneSettings(
        ...     task="text_classification",
        ...     module=ModuleSpec(name="hf://org/name", max_seq_len=64),
        ...     data=DatasetSpec(format="csv", train="train.csv"),
        ... )
        >>> settings.train.epochs, settings.device
        (3, 'auto')
    """

    name: str = Field(
        "fine-tune", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run, and of its folder in the store"
    )
    task: TaskName = Field(
        description="What is predicted: image_classification, text_classification, sequence_labelling, or "
        "package.module:ClassName of a task type of your own",
        examples=["image_classification", "text_classification", "sequence_labelling"],
    )
    module: ModuleSpec = Field(description="Which pretrained module is fine-tuned")
    data: DatasetSpec = Field(description="Where the rows are, how they are written, and how they are checked")
    head: HeadSettings = Field(HeadSettings(), description="Layers that are put on top of the module")
    train: TrainSettings = Field(TrainSettings(), description="How the weights are fine-tuned")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="How the best weights are evaluated")
    export: ExportSettings = Field(ExportSettings(), description="How the inference program is exported")
    report: ReportSettings = Field(ReportSettings(), description="What the report shows")
    store: StoreAddress = Field(
        "hubflow-store",
        description="Folder under which everything is kept, or URL on object storage (s3://…)",
        examples=["/srv/hubflow-store", "s3://bucket/prefix"],
    )
    store_block: str | None = Field(
        None,
        pattern=BLOCK_NAME,
        description="Prefect block of the type Hubflow Store: credentials for a store at a URL, and the store itself where "
        "none is given",
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|gpu(:\d+(,\d+)*)?)$", description="auto, cpu, gpu, gpu:N, or gpu:N,M to train on several"
    )
    num_processes: int = Field(1, ge=1, description="Processes that train together on CPU; on GPUs it is one for each of them")
    hosts: HostsSettings | None = Field(None, description="Other hosts that train together with this one")
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of what is random in training: the head's weights, the order of the rows, dropout"
    )
    reuse: bool = Field(True, description="Take what the store already holds for the same content and settings")

    @model_validator(mode="after")
    def _fits_task(self) -> Self:
        # A task type of the user's own is code, which reading settings does not run: flows ask `require_fitting_task`.
        if self.task in BUILT_IN and (faults := self._task_faults()):
            raise ValueError("\n  - settings: ".join(faults))
        return self

    def require_fitting_task(self) -> None:
        """Refuse data and metrics that the task type, which may be a user's own, does not have.

        Raises:
            SettingsError: saying what does not fit, and what does; or that the task type cannot be imported, or is none.
        """
        if faults := self._task_faults():
            raise SettingsError("\n".join(faults))

    def _task_faults(self) -> list[str]:
        known, best = find_task_type(self.task), self.train.best_metric
        faults = []
        if self.data.format not in known.formats:
            fitting = ", ".join(known.formats)
            faults.append(f"data.format {self.data.format!r} holds no rows for {self.task}; use one of {fitting}")
        if best is not None and best not in known.metrics:
            measured = ", ".join(known.metrics)
            faults.append(f"train.best_metric {best!r} is not measured for {self.task}; use one of {measured}")
        return faults


class PredictSettings(Settings):
    """All that one batch prediction needs: the parameter of the flow `predict`."""

    export: ExportAddress = Field(description="Exported folder, or its URL (s3://…/exports/KEY)")
    store_block: str | None = Field(
        None, pattern=BLOCK_NAME, description="Prefect block of the type Hubflow Store, for an export at a URL"
    )
    data: InputPath | tuple[InputPath, ...] = Field(
        description="File of rows, image, folder of images, or a glob of these, or several; labels are not needed"
    )
    format: DataFormat | None = Field(None, description="How the rows are written; by default the file's ending decides")
    output: OutputPath | None = Field(
        None,
        description="Predictions file (.parquet, .csv or .jsonl); beside the data when not given, needed for several files",
    )
    overwrite: bool = Field(False, description="Replace a file in the output's place that hubflow did not write")
    escape_formulas: bool = Field(
        False,
        description="CSV output: put ' before texts that begin with =, +, -, @, a tab or a line end: formulas of spreadsheets",
    )
    encoding: str = Field("utf-8", description="Character encoding of text files")
    header: bool = Field(True, description="CSV and TSV: whether the first line names the columns")
    quoting: bool | None = Field(None, description='CSV and TSV: whether "…" quotes a field; by default in CSV, not in TSV')
    delimiter: Character | None = Field(None, description=DELIMITER)
    quote: Character | None = Field(None, description=QUOTE)
    escape: Character | None = Field(None, description=ESCAPE)
    text_column: Column = Field("text", description="Column of the texts: name, or 0-based position without a header")
    text_pair_column: Column | None = Field(
        None, description="Column of the second texts; needed where the export was trained on pairs"
    )
    label_column: Column = Field("label", description="Column of the labels; where the data has it, metrics are computed")
    tokens_column: Column = Field(
        "tokens", description="Column of the token lists; for CoNLL that of the token by position, or by name"
    )
    image_root: InputPath | None = Field(
        None, description="Image lists: folder that paths are relative to; the list's own when not given"
    )
    label_list: InputPath | None = Field(None, description="Labels that are numbers: file with the label of each, from 0")
    batch_size: int = Field(
        64, ge=1, description="Largest number of rows that are predicted together; long texts share a batch with fewer"
    )
    top_k: int | None = Field(
        None, ge=1, description="Classification: the most probable labels as lists, in place of a column for each label"
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="Sequence labelling: read sentences longer than max_seq_len in windows that share at least so many tokens, "
        "and score each word once, where it is furthest from a cut end; when not given they are cut",
    )
    max_invalid_fraction: float = Field(
        1.0, ge=0, le=1, description="Fraction of the rows that may be quarantined; with more, or no row left, the stage fails"
    )
    rows_per_shard: int = Field(4096, ge=1, description="Rows of one shard, which is predicted, kept and resumed as a whole")
    runner: RunnerSettings = Field(RunnerSettings(), description="What the shards are mapped over, in the flow alone")

    @model_validator(mode="after")
    def _characters(self) -> Self:
        _require_distinct(self.delimiter, self.quote, self.escape)
        return self


def _require_distinct(delimiter: str | None, quote: str | None, escape: str | None) -> None:
    """Refuse one character in two roles; quotes that are doubled within a field need no `escape`."""
    given = [character for character in (delimiter, quote, escape) if character is not None]
    if len(set(given)) < len(given):
        raise ValueError("delimiter, quote and escape must be different characters; doubled quotes need no escape")


class PredictResult(BaseModel):
    """What the flow `predict` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    export: str = Field(description="Absolute path of the exported folder")
    output: str = Field(description="Absolute path of the predictions file: one row for each sound input row, in order")
    rows: int = Field(description="Number of rows that were predicted")
    invalid_rows: int = Field(0, description="Number of rows that were quarantined")
    quarantine: str | None = Field(None, description="File of the rows that were quarantined, with all that is wrong with each")
    metrics: dict[str, float] = Field(description="Metrics against the data's labels, by name; empty when it has none")
    notes: list[str] = Field(description="What a person should know, such as labels that are not in the export's label map")
    seconds: float = Field(description="Seconds that the prediction took")
