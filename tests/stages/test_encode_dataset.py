"""encode_dataset: a row encoded for each row accepted, and kinds that fit."""

import pyarrow as pa
import pytest
from runs import Run

from hubflow.schemas.errors import SettingsError
from hubflow.stages.encode_dataset import encode_dataset


def test_every_row_is_encoded_in_order(text_run: Run) -> None:
    folder = text_run.store.open(text_run.encoded).folder
    for split, rows in text_run.dataset.rows.items():
        table = pa.ipc.open_file(str(folder / f"{split}.arrow")).read_all()
        assert table["row"].to_pylist() == list(range(2, rows + 2))
        assert max(map(len, table["input_ids"].to_pylist())) <= 16


def test_images_are_encoded_at_the_modules_size(digits_run: Run) -> None:
    assert digits_run.encoded.image_size == digits_run.module.image_size == 32


def test_rows_of_another_kind_than_the_module_are_refused(text_run: Run, digits_run: Run) -> None:
    with pytest.raises(SettingsError, match="rows of kind image cannot be encoded for the text module"):
        encode_dataset(digits_run.dataset, text_run.module, text_run.settings.module, digits_run.settings.store)
