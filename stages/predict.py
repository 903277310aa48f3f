"""Stage predict: label the rows of files, or the images of folders, with an exported folder and nothing else."""

from hubflow.inference.batch.prediction import Mapped, predict_files
from hubflow.orchestration.tasks import stage
from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.text import markdown_text


def _describe(result: PredictResult) -> str:
    """The lines printed about a prediction."""
    return "\n\n".join([f"{result.rows} rows: {result.output}", *map(markdown_text, result.notes)])


@stage(_describe)
def predict(settings: PredictSettings, mapped: Mapped | None = None) -> PredictResult:
    """Label the rows of files, or the images of folders, with an exported folder and nothing else.

    The output (contract `Predictions`, or `TokenPredictions` of sentences) has one row for each sound input row, in order:
    `row`, the input's columns, `predicted` and `probability`, of texts `num_truncated_tokens` and of sentences
    `num_truncated_words` (what `max_seq_len` cut off), and for classification `probability_<label>` for each label, or
    with `top_k` the lists `top_labels` and `top_probabilities`; of several files, `file` comes first. A column of the input
    with one of these names is called `source_<name>`. Rows that break their contract, and images that do not decode, are
    quarantined in `<output>.quarantine.parquet`, with all that is wrong with each.

    Memory does not grow with the rows: they are read, predicted and kept in shards. A run that was stopped resumes with the
    shards that were not done. The output takes its place only when it is complete.

    Args:
        settings: what to predict on, with what, and where the predictions go.
        mapped: predicts the shards and gives their records in order; threads of this process when not given.

    Returns:
        Absolute path of the predictions file, the number of rows, what was quarantined, and metrics where the data has labels.

    Raises:
        StoreError: when the export is incomplete or altered, or the output cannot be written.
        SignatureError: when `trust.keys` is set, and none of them has signed the export.
        DataError: when the data cannot be read.
        ContractError: when too many rows are quarantined, or all.
        SettingsError: when the format does not fit the export's task, or the output's ending is not known.
    """
    return predict_files(settings, mapped)
