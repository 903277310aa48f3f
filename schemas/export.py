"""Settings of the export, and the verification that it gives what was trained."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hubflow.schemas.parsing import Settings

VERIFICATION = "verification.json"
LATENCY_BATCHES = (1, 32)


class ExportSettings(Settings):
    """How the exported program is written, and what is measured of it. That it is verified is no setting."""

    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of matrix products where the export predicts; bfloat16 is for text modules and CPUs that "
        "have it",
    )
    onnx: bool = Field(False, description="Write program.onnx too, verified through onnxruntime; needs the extra `onnx`")
    latency_rounds: int = Field(
        20, ge=3, description="Number of timed runs at batch 1 and at 32; fewer where they take more than 5 s, never below 3"
    )

    @model_validator(mode="after")
    def _onnx_is_of_float32(self) -> Self:
        if self.onnx and self.precision != "float32":
            raise ValueError("onnx is written of the float32 program; leave out onnx or precision")
        return self


class Probe(BaseModel):
    """Rows of the split that are run as one batch, by the trained program and by the exported one."""

    model_config = ConfigDict(frozen=True)
    rows: tuple[int, ...] = Field(description="Positions in the encoded split")
    longer_padding: bool = Field(False, description="Whether the batch has one token of padding more than it needs")


class VerificationRequest(BaseModel):
    """What the fresh process is asked."""

    model_config = ConfigDict(frozen=True)
    export: str = Field(description="The exported folder, not yet sealed")
    rows: str = Field(description="Arrow file of the encoded split")
    probes: tuple[Probe, ...]
    evaluated: int = Field(description="How many rows, from the first, are predicted for the metric")
    timed: dict[int, tuple[int, ...]] = Field(description="Rows by size of the batch that is timed")
    rounds: int
    batch_size: int
    onnx: bool = Field(description="Whether to write program.onnx, and try it too")
    answer: str = Field(description="Folder for what it finds")


class VerifiedProbe(BaseModel):
    """What one batch gave."""

    model_config = ConfigDict(frozen=True)
    rows: int = Field(description="Rows of the batch")
    length: int | None = Field(description="Tokens of each row, padding included; None of images")
    max_abs_difference: float = Field(description="Largest absolute difference of a probability, trained against exported")


class VerifiedMetric(BaseModel):
    """A metric of the split by both programs."""

    model_config = ConfigDict(frozen=True)
    name: str = Field(description="Name of the metric")
    trained: float = Field(description="Value by the trained program")
    exported: float = Field(description="Value by the exported program")
    tolerance: float = Field(description="Largest difference that is accepted")
    differing_labels: int = Field(description="Rows, or words of sequences, that the two programs label differently")


class Latency(BaseModel):
    """Milliseconds of a batch, encoded rows to probabilities."""

    model_config = ConfigDict(frozen=True)
    median: float = Field(description="Median of the timed runs, in milliseconds")
    p95: float = Field(description="95th percentile of the timed runs, in milliseconds")
    rounds: int = Field(description="Number of timed runs")
    length: int | None = Field(description="Tokens of each row, padding included; None of images")


class Trial(BaseModel):
    """What one program gave, held to what the trained one gives."""

    model_config = ConfigDict(frozen=True)
    max_abs_difference: float = Field(description="Largest absolute difference of a probability over all probes")
    tolerance: float = Field(description="Largest difference that is accepted")
    probes: tuple[VerifiedProbe, ...] = Field(description="What each probe gave")
    metric: VerifiedMetric = Field(description="Metric of the split by both programs")
    latency_ms: dict[str, Latency] = Field(description="Milliseconds of a batch, by its number of rows")
    size_bytes: int = Field(description="Size of program and weights, in bytes")


class OnnxTrial(Trial):
    """What `program.onnx` gave through onnxruntime."""

    opset: int = Field(description="Version of ONNX's set of operators")


class Verification(Trial):
    """What a fresh process found of the exported program: `verification.json` of the export."""

    split: Literal["train", "dev", "test"] = Field(description="Split that both programs were run on")
    rows: int = Field(description="Rows of the split that the metric is over")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Precision of matrix products of the export")
    threads: int = Field(description="Number of threads that the program used")
    cpu: str = Field(description="Name of the CPU")
    peak_memory_bytes: int = Field(
        description="Largest resident memory while probes and timed batches ran, in bytes; Python and Paddle are included"
    )
    imports_memory_bytes: int = Field(
        description="Part of that memory, in bytes, that was resident before the program was loaded"
    )
    seconds: float = Field(description="Seconds from the fresh process's question to its answer")
    onnx: OnnxTrial | None = Field(None, description="What `program.onnx` gave, where there is one")
