"""Settings of training: optimizer, schedule, what is frozen, when to evaluate and stop."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from hubflow.schemas.parsing import Fraction, Settings
from hubflow.schemas.urls import OutputPath, TrackingUri

Precision = Literal["float32", "bfloat16", "float16"]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Epsilon = Annotated[float, Field(gt=0.0)]


class Sgd(Settings):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"


class Momentum(Settings):
    """Gradient descent with momentum (Polyak 1964; Nesterov 1983)."""

    name: Literal["momentum"] = "momentum"
    momentum: Beta = 0.9
    nesterov: bool = False


class Adam(Settings):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    name: Literal["adam"] = "adam"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Epsilon = 1e-8


class AdamW(Settings):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""

    name: Literal["adamw"] = "adamw"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Epsilon = 1e-8


class Adamax(Settings):
    """Adam over the infinity norm (arXiv:1412.6980, section 7)."""

    name: Literal["adamax"] = "adamax"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Epsilon = 1e-8


class Adagrad(Settings):
    """Adagrad (Duchi, Hazan and Singer 2011)."""

    name: Literal["adagrad"] = "adagrad"
    epsilon: Epsilon = 1e-6
    initial_accumulator_value: float = Field(0.0, ge=0)


class RmsProp(Settings):
    """RMSProp (Tieleman and Hinton 2012); `centered` subtracts the mean gradient (Graves, arXiv:1308.0850)."""

    name: Literal["rmsprop"] = "rmsprop"
    rho: Beta = 0.95
    epsilon: Epsilon = 1e-6
    momentum: Beta = 0.0
    centered: bool = False


class Lamb(Settings):
    """Layer-wise adaptive rates for large batches (You et al., arXiv:1904.00962)."""

    name: Literal["lamb"] = "lamb"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Epsilon = 1e-6


class Constant(Settings):
    """The peak rate to the end."""

    name: Literal["constant"] = "constant"


class Linear(Settings):
    """A straight line from the peak to 0."""

    name: Literal["linear"] = "linear"


class Cosine(Settings):
    """Half a cosine from the peak to 0 (arXiv:1608.03983, without restarts)."""

    name: Literal["cosine"] = "cosine"


class Polynomial(Settings):
    """From the peak to `end_factor` times the peak, as the remaining share of steps to the power `power`."""

    name: Literal["polynomial"] = "polynomial"
    power: float = Field(2.0, gt=0)
    end_factor: float = Field(0.0, ge=0, le=1)


class Noam(Settings):
    """Falls with the inverse square root of the step (Vaswani et al., arXiv:1706.03762, eq. 3, scaled to its peak)."""

    name: Literal["noam"] = "noam"


class SlantedTriangular(Settings):
    """From peak/ratio up to the peak over the warm-up, then straight down to peak/ratio (ULMFiT, arXiv:1801.06146, eq. 3)."""

    name: Literal["slanted_triangular"] = "slanted_triangular"
    ratio: float = Field(32.0, ge=1)


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


AnyOptimizer = Sgd | Momentum | Adam | AdamW | Adamax | Adagrad | RmsProp | Lamb
AnySchedule = Constant | Linear | Cosine | Polynomial | Noam | SlantedTriangular
OptimizerName = Literal["sgd", "momentum", "adam", "adamw", "adamax", "adagrad", "rmsprop", "lamb"]
ScheduleName = Literal["constant", "linear", "cosine", "polynomial", "noam", "slanted_triangular"]
_ByOptimizer = Annotated[AnyOptimizer, Field(discriminator="name")]
_BySchedule = Annotated[AnySchedule, Field(discriminator="name")]
OptimizerSettings = Annotated[_ByOptimizer, BeforeValidator(_by_name, json_schema_input_type=_ByOptimizer | OptimizerName)]
ScheduleSettings = Annotated[_BySchedule, BeforeValidator(_by_name, json_schema_input_type=_BySchedule | ScheduleName)]


class EarlyStopping(Settings):
    """When to stop before the end."""

    patience: int = Field(ge=1, description="Stop after so many evaluations in a row without a better best_metric")
    min_delta: float = Field(0.0, ge=0, description="By how much best_metric must change to count as better")


class CheckpointSettings(Settings):
    """What a run that is stopped goes on from. Nothing here changes a result."""

    every_steps: int | None = Field(None, ge=1, description="Write one after every so many steps; always after an evaluation")
    keep: int = Field(2, ge=1, description="How many of the last are kept: when the newest is damaged, the one before serves")
    resume: Literal["auto", "required"] = Field(
        "auto", description="auto: go on where a run with the same data and settings stopped; required: fail if there is none"
    )


HistoryPath = Annotated[OutputPath, StringConstraints(pattern=r"\.(csv|parquet)$")]


class TrackingSettings(Settings):
    """Where the history is written to while training runs, beside the store. Nothing here changes a result."""

    history: HistoryPath | None = Field(None, description="File (.csv or .parquet) of this run's logged steps and evaluations")
    overwrite: bool = Field(False, description="Replace a file in the place of `history` that hubflow did not write")
    tensorboard: OutputPath | None = Field(
        None,
        description="Folder in which each run has one of TensorBoard events; needs hubflow[tensorboard]",
    )
    mlflow: TrackingUri | None = Field(
        None,
        description="Tracking URI of MLflow, such as sqlite:////data/mlflow.db, or one that trust.tracking_uris allows; needs "
        "hubflow[mlflow]",
    )
    experiment: str = Field("hubflow", min_length=1, description="MLflow: name of the experiment")

    @property
    def is_asked(self) -> bool:
        """Whether the history goes anywhere."""
        return any((self.history, self.tensorboard, self.mlflow))


class TrainSettings(Settings):
    """How the weights are fine-tuned."""

    epochs: int = Field(3, ge=1)
    max_steps: int | None = Field(None, ge=1, description="Number of updates; when given, it takes the place of epochs")
    batch_size: int = Field(
        32, ge=1, description="Rows of one update, whatever the number of processes; for sequences on average: as many tokens"
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="Parts that the rows of an update are computed in, one after the other: less memory, same result"
    )
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate")
    optimizer: OptimizerSettings = Field(AdamW(), description="A name, or a name with its own arguments")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled from the gradient; norms and biases are left out")
    l2: float = Field(0.0, ge=0, description="Times a pretrained weight, added to its gradient; norms and biases are left out")
    l2_sp: float = Field(
        0.0, ge=0, description="L2-SP (arXiv:1802.01483): as l2, on the distance of a pretrained weight from where it started"
    )
    schedule: ScheduleSettings = Field(Linear(), description="After warm-up; a name, or a name with its own arguments")
    warmup_proportion: Fraction = Field(0.1, description="Fraction of all steps over which the learning rate rises")
    warmup_steps: int | None = Field(None, ge=0, description="Number of steps instead of a share; fewer than the run has")
    layerwise_lr_decay: float = Field(
        1.0, gt=0, le=1, description="Discriminative rates: each block learns at so much of the rate of the block above it"
    )
    freeze_blocks: int = Field(
        0, ge=0, description="The module's first N blocks stay as they are; embeddings or stem are the first"
    )
    unfreeze_every_epochs: int | None = Field(
        None, ge=1, description="Gradual unfreezing: the head alone at first, one block more after every so many epochs"
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="Clip of the gradients' global norm; none when null")
    max_grad_value: float | None = Field(None, gt=0, description="Clip of each element of the gradients to ±value")
    label_smoothing: Fraction = Field(0.0, description="Fraction of each label's weight that is spread over all classes")
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="Weight of each label's rows (or tokens) in the loss; balanced: n / (classes * n of the label)"
    )
    precision: Precision = Field(
        "float32", description="Of matrix products; bfloat16 on a GPU or a CPU that has it, float16 with loss scaling on a GPU"
    )
    evaluate_every_steps: int | None = Field(None, ge=1, description="Judge dev after so many steps; each epoch when null")
    best_metric: str | None = Field(
        None, description="Metric on dev that picks the best weights; accuracy, or entity f1 for sequences"
    )
    early_stopping: EarlyStopping | None = None
    log_every_steps: int = Field(10, ge=1)
    random_flip: bool = Field(False, description="Images: mirror half of the training rows, by seed")
    preflight: bool = Field(True, description="Try one batch through every part, export included, before the long work")
    checkpoints: CheckpointSettings = CheckpointSettings()
    tracking: TrackingSettings = TrackingSettings()

    @field_validator("class_weights", mode="before")
    @classmethod
    def _word_or_weights(cls, value: Any) -> Any:
        if isinstance(value, dict):  # YAML reads a label such as 5 as a number
            return {str(key) if isinstance(key, int) and not isinstance(key, bool) else key: one for key, one in value.items()}
        if value is None or value == "balanced":
            return value
        raise ValueError("expected 'balanced', or a weight for each label, as in {positive: 2.0}")

    @model_validator(mode="before")
    @classmethod
    def _no_share_beside_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("warmup_steps") is not None:
            return {"warmup_proportion": 0.0, **values}  # so that settings written out can be read again
        return values

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_proportion > 0:
            raise ValueError("give warmup_proportion or warmup_steps, not both")
        return self

    def result_settings(self) -> dict[str, Any]:
        """The settings that the trained weights are a function of: all but how a run is watched and kept."""
        return self.model_dump(exclude={"preflight", "checkpoints", "tracking"})
