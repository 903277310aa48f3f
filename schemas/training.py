"""Settings of training: optimizer, schedule, what is frozen, when to evaluate and stop."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from hubflow.schemas.parsing import Fraction, Settings
from hubflow.schemas.urls import OutputPath, TrackingUri

Precision = Literal["float32", "bfloat16", "float16"]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Epsilon = Annotated[float, Field(gt=0.0)]


class Sgd(Settings):
    """Stochastic gradient descent (Robbins and Monro 1951)."""

    name: Literal["sgd"] = Field("sgd", description="Name of the optimizer")


class Momentum(Settings):
    """Gradient descent with momentum (Polyak 1964; Nesterov 1983)."""

    name: Literal["momentum"] = Field("momentum", description="Name of the optimizer")
    momentum: Beta = Field(0.9, description="Fraction of the last step that is added to the next one")
    nesterov: bool = Field(False, description="Take the gradient ahead of the step (Nesterov 1983)")


class Adam(Settings):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    name: Literal["adam"] = Field("adam", description="Name of the optimizer")
    beta1: Beta = Field(0.9, description="Decay rate of the running mean of the gradients")
    beta2: Beta = Field(0.999, description="Decay rate of the running mean of the squared gradients")
    epsilon: Epsilon = Field(1e-8, description="Added to the denominator, against a division by zero")


class AdamW(Settings):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""

    name: Literal["adamw"] = Field("adamw", description="Name of the optimizer")
    beta1: Beta = Field(0.9, description="Decay rate of the running mean of the gradients")
    beta2: Beta = Field(0.999, description="Decay rate of the running mean of the squared gradients")
    epsilon: Epsilon = Field(1e-8, description="Added to the denominator, against a division by zero")


class Adamax(Settings):
    """Adam over the infinity norm (arXiv:1412.6980, section 7)."""

    name: Literal["adamax"] = Field("adamax", description="Name of the optimizer")
    beta1: Beta = Field(0.9, description="Decay rate of the running mean of the gradients")
    beta2: Beta = Field(0.999, description="Decay rate of the running maximum of the gradients' absolute values")
    epsilon: Epsilon = Field(1e-8, description="Added to the denominator, against a division by zero")


class Adagrad(Settings):
    """Adagrad (Duchi, Hazan and Singer 2011)."""

    name: Literal["adagrad"] = Field("adagrad", description="Name of the optimizer")
    epsilon: Epsilon = Field(1e-6, description="Added to the denominator, against a division by zero")
    initial_accumulator_value: float = Field(0.0, ge=0, description="Value that the sum of squared gradients begins with")


class RmsProp(Settings):
    """RMSProp (Tieleman and Hinton 2012); `centered` subtracts the mean gradient (Graves, arXiv:1308.0850)."""

    name: Literal["rmsprop"] = Field("rmsprop", description="Name of the optimizer")
    rho: Beta = Field(0.95, description="Decay rate of the running mean of the squared gradients")
    epsilon: Epsilon = Field(1e-6, description="Added to the denominator, against a division by zero")
    momentum: Beta = Field(0.0, description="Fraction of the last step that is added to the next one")
    centered: bool = Field(
        False, description="Subtract the squared mean gradient, so that the step is divided by the standard deviation"
    )


class Lamb(Settings):
    """Layer-wise adaptive rates for large batches (You et al., arXiv:1904.00962)."""

    name: Literal["lamb"] = Field("lamb", description="Name of the optimizer")
    beta1: Beta = Field(0.9, description="Decay rate of the running mean of the gradients")
    beta2: Beta = Field(0.999, description="Decay rate of the running mean of the squared gradients")
    epsilon: Epsilon = Field(1e-6, description="Added to the denominator, against a division by zero")


class Constant(Settings):
    """The learning rate stays at the peak after the warm-up."""

    name: Literal["constant"] = Field("constant", description="Name of the schedule")


class Linear(Settings):
    """The learning rate falls on a straight line: `peak * left`; `left` is the fraction of the decay's steps that remain."""

    name: Literal["linear"] = Field("linear", description="Name of the schedule")


class Cosine(Settings):
    """The learning rate falls on half a cosine: `peak * (1 + cos(pi * (1 - left))) / 2`.

    `left` is the fraction of the decay's steps that remain. Source: Loshchilov and Hutter, arXiv:1608.03983, without restarts.
    """

    name: Literal["cosine"] = Field("cosine", description="Name of the schedule")


class Polynomial(Settings):
    """The learning rate falls from the peak to `end = end_factor * peak`: `end + (peak - end) * left ** power`.

    `left` is the fraction of the decay's steps that remain.
    """

    name: Literal["polynomial"] = Field("polynomial", description="Name of the schedule")
    power: float = Field(2.0, gt=0, description="Exponent of the fraction of steps that remain")
    end_factor: float = Field(0.0, ge=0, le=1, description="Learning rate at the end, as a fraction of the peak")


class Noam(Settings):
    """The learning rate falls with the inverse square root of the step, from the peak.

    Source: Vaswani et al., arXiv:1706.03762, eq. 3, scaled so that its highest rate is `learning_rate`.
    """

    name: Literal["noam"] = Field("noam", description="Name of the schedule")


class SlantedTriangular(Settings):
    """The learning rate rises from peak/ratio to the peak over the warm-up, then falls straight back to peak/ratio.

    Source: ULMFiT (Howard and Ruder, arXiv:1801.06146, eq. 3).
    """

    name: Literal["slanted_triangular"] = Field("slanted_triangular", description="Name of the schedule")
    ratio: float = Field(32.0, ge=1, description="The peak divided by the first, and by the last, learning rate")


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
    """When training stops before the last epoch."""

    patience: int = Field(ge=1, description="Stop after this many evaluations in a row without a better best_metric")
    min_delta: float = Field(
        0.0, ge=0, description="Smallest change of best_metric that counts as better, in the metric's own unit"
    )


class CheckpointSettings(Settings):
    """What a stopped run resumes from. Nothing here changes a result."""

    every_steps: int | None = Field(
        None, ge=1, description="Write a checkpoint after every N steps; one is always written after an evaluation"
    )
    keep: int = Field(
        2,
        ge=1,
        description="Number of the newest checkpoints that are kept: when the newest is damaged, training resumes from "
        "the one before",
    )
    resume: Literal["auto", "required"] = Field(
        "auto", description="auto: resume a stopped run with the same data and settings; required: fail where there is none"
    )


HistoryPath = Annotated[OutputPath, StringConstraints(pattern=r"\.(csv|parquet)$")]


class TrackingSettings(Settings):
    """Where the history is written to while training runs, beside the store. Nothing here changes a result."""

    history: HistoryPath | None = Field(None, description="File (.csv or .parquet) for this run's logged steps and evaluations")
    overwrite: bool = Field(False, description="Replace a file at `history` that hubflow did not write")
    tensorboard: OutputPath | None = Field(
        None, description="Folder in which each run has its own folder of TensorBoard events; needs hubflow[tensorboard]"
    )
    mlflow: TrackingUri | None = Field(
        None,
        description="Tracking URI of MLflow, such as sqlite:////data/mlflow.db, or one that trust.tracking_uris allows; "
        "needs hubflow[mlflow]",
    )
    experiment: str = Field("hubflow", min_length=1, description="Name of the MLflow experiment")

    @property
    def is_asked(self) -> bool:
        """Whether the history goes anywhere."""
        return any((self.history, self.tensorboard, self.mlflow))


class TrainSettings(Settings):
    """How the weights are fine-tuned.

    Example:
        >>> settings = TrainSettings(epochs=2, optimizer="sgd", schedule={"name": "polynomial", "power": 1.0})
        >>> settings.optimizer, settings.schedule
        (Sgd(name='sgd'), Polynomial(name='polynomial', power=1.0, end_factor=0.0))
        >>> TrainSettings(warmup_steps=100).warmup_proportion  # given one way or the other
        0.0
    """

    epochs: int = Field(3, ge=1, description="Number of passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="Number of updates; when given, it takes the place of `epochs`")
    batch_size: int = Field(
        32, ge=1, description="Rows of one update, whatever the number of processes; for sequences on average: as many tokens"
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        description="Number of micro-batches that the rows of one update are computed in, one after the other: less "
        "memory, same result",
    )
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate")
    optimizer: OptimizerSettings = Field(AdamW(), description="A name, or a name with its own arguments")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled from the gradient; norms and biases are left out")
    l2: float = Field(
        0.0,
        ge=0,
        description="L2 penalty: this times a pretrained weight is added to its gradient; norms and biases are left out",
    )
    l2_sp: float = Field(
        0.0, ge=0, description="L2-SP (arXiv:1802.01483): as l2, on the distance of a pretrained weight from where it started"
    )
    schedule: ScheduleSettings = Field(Linear(), description="After warm-up; a name, or a name with its own arguments")
    warmup_proportion: Fraction = Field(0.1, description="Fraction of all steps over which the learning rate rises")
    warmup_steps: int | None = Field(
        None, ge=0, description="Number of warm-up steps, in place of warmup_proportion; fewer than the run has"
    )
    layerwise_lr_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Discriminative rates (ULMFiT, arXiv:1801.06146): each block learns at this fraction of the rate of "
        "the block above it",
    )
    freeze_blocks: int = Field(
        0,
        ge=0,
        description="Number of the module's lowest blocks that stay as they are; embeddings or stem are the first block",
    )
    unfreeze_every_epochs: int | None = Field(
        None,
        ge=1,
        description="Gradual unfreezing (ULMFiT, arXiv:1801.06146): the head alone at first, then one more block after "
        "every N epochs",
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Largest global norm of the gradients: larger ones are scaled down to it; null does not clip"
    )
    max_grad_value: float | None = Field(
        None, gt=0, description="Clip each element of the gradients to plus or minus this value; null does not clip"
    )
    label_smoothing: Fraction = Field(
        0.0, description="Label smoothing (arXiv:1512.00567): fraction of each label's weight that is spread over all classes"
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="Weight in the loss of the rows (or tokens) of each label; balanced: n / (classes * n of the label)"
    )
    precision: Precision = Field(
        "float32",
        description="Precision of matrix products: float32; bfloat16 on a GPU or a CPU that has it; float16 with loss "
        "scaling on a GPU",
    )
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="Evaluate dev after every N steps; after each epoch when null"
    )
    best_metric: str | None = Field(
        None, description="Metric on dev that picks the best weights; accuracy by default, or entity f1 for sequences"
    )
    early_stopping: EarlyStopping | None = Field(None, description="When to stop before the last epoch; null trains to the end")
    log_every_steps: int = Field(10, ge=1, description="Log loss, learning rate and gradient norm after every N steps")
    random_flip: bool = Field(
        False, description="Images: mirror half of the training rows from left to right, drawn by the seed"
    )
    preflight: bool = Field(
        True, description="Try one batch through every step of the run, export included, before training begins"
    )
    checkpoints: CheckpointSettings = Field(CheckpointSettings(), description="What a stopped run resumes from")
    tracking: TrackingSettings = Field(TrackingSettings(), description="Where the history is written to while training runs")

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


class HostsSettings(Settings):
    """Hosts that train together: the one that runs the flow leads, and the others join it (`hubflow join`)."""

    address: str = Field(
        min_length=1,
        description="Of the leading host in the hosts' network: an IPv4 address, or a name that has one",
        examples=["10.0.0.1"],
    )
    port: int = Field(
        29500, ge=1, le=65535, description="Where the others join; it is open at the address alone, while they do"
    )
    count: int = Field(ge=2, description="Hosts that train together, the leading one included")
    min_count: int | None = Field(
        None, ge=1, description="With so many training begins where no more have joined in time; all of them when not given"
    )
    wait_seconds: float = Field(
        600.0, gt=0, description="How long the others are waited for, at the beginning and when a host was lost"
    )
    max_restarts: int = Field(
        3,
        ge=0,
        description="How often a training that lost a host, or a process of one, goes on from its last checkpoint",
    )

    @model_validator(mode="after")
    def _has_enough(self) -> Self:
        if self.min_count is not None and self.min_count > self.count:
            raise ValueError(f"min_count is {self.min_count}, more than count, {self.count}")
        return self
