"""Settings of the checks of a data set, and of its comparison with the last accepted one."""

from typing import Self

from pydantic import Field, model_validator

from hubflow.schemas.parsing import Fraction, Policy, Settings


class DriftLimits(Settings):
    """From which value on a change is a warning, and from which it makes the stage fail."""

    warn: float | None = Field(None, ge=0, description="From this value on, a change is a warning; null never warns")
    fail: float | None = Field(None, ge=0, description="From this value on, a change makes the stage fail; null never fails")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn is not None and self.fail is not None and self.fail < self.warn:
            raise ValueError("fail must not be below warn: what fails is a warning already")
        return self


class DriftSettings(Settings):
    """How much a data set may differ from the last other one that was accepted from the same sources.

    Nothing fails by default: new rows that differ from the last ones may be a change of the world as well as a fault, and only
    who knows the data can say how much is too much.
    """

    psi: DriftLimits = Field(
        DriftLimits(warn=0.1),
        description="Population stability index of lengths, characters and images (Siddiqi, Credit Risk Scorecards, 2006: "
        "below 0.1 no change, 0.1 to 0.25 one to look at, above 0.25 a shift)",
    )
    labels: DriftLimits = Field(
        DriftLimits(warn=0.1),
        description="Jensen-Shannon distance of the label shares, base 2: 0 is the same, 1 has no label in common (Endres and "
        "Schindelin 2003); 0.1 is about 62% of one of two labels where it was 50%",
    )
    rows: DriftLimits = Field(
        DriftLimits(warn=2.0), description="How many times as many rows a split has, or had: 2 is twice as many or half as many"
    )
    series: str | None = Field(
        None,
        min_length=1,
        description="Data sets of one series are compared; by default those with the same task, sources and columns. Needed "
        "where the sources' names change from run to run, as dated files do",
    )


class DataChecks(Settings):
    """What is done about faults that no single row shows.

    Each check has a policy: `ignore` (it is not computed), `warn` or `fail`. The defaults warn, because published data sets
    have some of these faults and a nightly run must not stop at them unasked; they fail where the settings themselves say
    that it must not be.
    """

    same_text_across_splits: Policy = Field(
        "warn", description="The same text, pair, words or image file in two splits: scores on it measure memory"
    )
    same_normalised_text_across_splits: Policy = Field(
        "warn",
        description="The same but for case, width (NFKC), white space and punctuation at the ends; few such rows are common",
    )
    duplicates_within_split: Policy = Field(
        "warn", description="The same text, pair, words or image file twice in a split: it weighs twice; at times that is meant"
    )
    conflicting_labels: Policy = Field(
        "warn", description="One text, pair, word list or image file with two labels: no model can get both right"
    )
    similar_labels: Policy = Field(
        "warn",
        description="Labels that differ only in case, width, Unicode form (NFKC), invisible characters or in how a number is "
        "written: each is a class of its own; outer white space is taken off before",
    )
    open_quotes: Policy = Field(
        "warn",
        description="CSV: quoted fields of several lines, each of which has the file's number of fields: a quote that was left "
        "open has swallowed rows",
    )
    kept_quotes: Policy = Field(
        "warn",
        description="CSV and TSV: columns whose every field is in quotes, or fields with doubled quotes, where quotes are "
        "read as text",
    )
    same_group_across_splits: Policy = Field(
        "fail", description="The same value of `group_column` in two splits: naming the column says that it must not happen"
    )
    labels_missing_from_train: Policy = Field(
        "warn",
        description="Labels of dev or test that train lacks: never predicted, but samples and label lists have such; without a "
        "label_list train names the labels, and such rows break their contract",
    )
    labels_missing_from_dev: Policy = Field(
        "warn", description="Labels of train that dev lacks: the choice of the best weights does not see them"
    )
    no_outside_tag: Policy = Field(
        "warn", description="Tags of entities of which none is O: every word, of o or 0 too, counts as part of an entity"
    )
    numbered_tokens: Policy = Field(
        "warn", description="Tokens that are 1, 2, 3 …: a column of positions was taken for that of the words"
    )
    class_imbalance: Policy = Field("warn", description="Largest class of train over the smallest above max_imbalance_ratio")
    max_imbalance_ratio: float = Field(
        20.0,
        ge=1,
        description="Largest ratio of rows (tokens, without O) of the largest class of train to those of its smallest class",
    )
    truncated_rows: Policy = Field("warn", description="Rows that max_seq_len cuts, above max_truncated_fraction of a split")
    max_truncated_fraction: Fraction = Field(
        0.0, description="Fraction of a split's rows that max_seq_len may cut before the check reports it"
    )
    lost_words: Policy = Field("warn", description="Words that max_seq_len cuts off, above max_lost_fraction; they count as O")
    lost_entities: Policy = Field("warn", description="Entities that lose a word to max_seq_len, above max_lost_fraction")
    max_lost_fraction: Fraction = Field(
        0.0, description="Fraction of a split's words, or entities, that may be lost before the checks report it"
    )
    near_duplicate_images: Policy = Field(
        "warn",
        description="Images of two splits that look the same though their files differ; a perceptual hash can err, and sides "
        "under 32 pixels are not compared",
    )
    near_duplicate_distance: int = Field(
        6, ge=0, le=15, description="Bits of 64 in which the perceptual hashes of near-duplicates may differ"
    )
    skipped_files: Policy = Field(
        "warn",
        description="Files and links in an image folder that are no rows: of another type, beside the class folders, broken; "
        "hidden ones are counted only",
    )
    drift: DriftSettings = Field(DriftSettings(), description="How much the rows may differ from the last other data set")
