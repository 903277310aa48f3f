"""Details of an evaluation: what is known of a split beyond its flat metrics, as `details.json` holds it. No Paddle here."""

from pydantic import BaseModel, ConfigDict, Field

DETAILS = "details.json"


class Detail(BaseModel):
    """Base of all parts of the details."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassScore(Detail):
    """Precision, recall and F1 of one label, or type of entity; 0 where they are not defined."""

    precision: float
    recall: float
    f1: float
    support: int = Field(description="Rows (words, entities) that truly have it")
    predicted: int = Field(description="Rows (words, entities) of which it was predicted")
    roc_auc: float | None = Field(None, description="Of this label against all others; None where it is not defined")


class Confused(Detail):
    """How often one label was predicted in place of another."""

    label: str
    predicted: str
    count: int


class Confusion(Detail):
    """Which labels were taken for which, of rows, or of words."""

    labels: list[str] | None = Field(
        description="Of rows and columns of `counts`; None of more labels than a matrix is kept of"
    )
    counts: list[list[int]] | None = Field(description="`[true][predicted]`; None of more labels than a matrix is kept of")
    pairs: list[Confused] = Field(description="The most frequent mistakes, most frequent first")
    left_out: int = Field(description="How many more pairs of labels were confused than `pairs` has")


class SplitDetails(Detail):
    """What is known of one split beyond its flat metrics."""

    rows: int = Field(description="Rows that were judged")
    per_class: dict[str, ClassScore] = Field(description="By label; of sequences by type of entity, in seqeval's default mode")
    confusion: Confusion
    notes: list[str] = Field([], description="What was left out, and why")
