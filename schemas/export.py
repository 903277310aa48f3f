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
        description="Of matrix products where the export predicts; bfloat16 is for text modules and CPUs that have it",
    )
    onnx: bool = Field(False, description="Write program.onnx too, verified through onnxruntime; needs the extra `onnx`")
    latency_rounds: int = Field(
        20, ge=3, description="Timed runs at batch 1 and at 32; fewer where 5 s are over, never below 3"
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
    widened: bool = Field(False, description="Whether the batch has one token of padding more than it needs")


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
    rows: int
    length: int | None = Field(description="Tokens of each row, padding included; None of images")
    max_abs_difference: float = Field(description="Of probabilities, trained against exported")


class VerifiedMetric(BaseModel):
    """A metric of the split by both programs."""

    model_config = ConfigDict(frozen=True)
    name: str
    trained: float
    exported: float
    tolerance: float
    differing_labels: int = Field(description="Rows, or words of sequences, that the two programs label differently")


class Latency(BaseModel):
    """Milliseconds of a batch, encoded rows to probabilities."""

    model_config = ConfigDict(frozen=True)
    median: float
    p95: float
    rounds: int
    length: int | None = Field(description="Tokens of each row, padding included; None of images")


class Trial(BaseModel):
    """What one program gave, held to what the trained one gives."""

    model_config = ConfigDict(frozen=True)
    max_abs_difference: float = Field(description="Largest of all probes")
    tolerance: float
    probes: tuple[VerifiedProbe, ...]
    metric: VerifiedMetric
    latency_ms: dict[str, Latency] = Field(description="By rows of the batch")
    size_bytes: int = Field(description="Program and weights")


class OnnxTrial(Trial):
    """What `program.onnx` gave through onnxruntime."""

    opset: int


class Verification(Trial):
    """What a fresh process found of the exported program: `verification.json` of the export."""

    split: Literal["train", "dev", "test"]
    rows: int = Field(description="Rows of the split that the metric is over")
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int
    cpu: str
    peak_memory_bytes: int = Field(
        description="Resident at most while probes and timed batches ran; Python and Paddle included"
    )
    imports_memory_bytes: int = Field(description="Of that, resident before the program was loaded")
    seconds: float = Field(description="That verification took, from the fresh process's question to its answer")
    onnx: OnnxTrial | None = Field(None, description="Of `program.onnx`, where there is one")
