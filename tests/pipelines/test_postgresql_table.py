"""A table of a real PostgreSQL becomes a model, and predictions become a table: whole, once for each key, or not at all."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from example_programs import load_example
from reviews import reviews

from hubflow.testing import fake_export
from hubflow.testing.modules import TinyModule

pytestmark = [pytest.mark.soak, pytest.mark.integration]

BAD, GOOD = "an awful product", "a great product"


@pytest.fixture
def database(postgres: dict[str, str]) -> Iterator[Any]:
    """A connection to the tables that dbt builds in the example: labelled reviews, and new ones."""
    with psycopg.connect(autocommit=True) as connection:
        for table, more in (("labelled_reviews", ", verdict text"), ("new_reviews", "")):
            connection.execute(f"CREATE TABLE {table} (review_id bigint PRIMARY KEY, body text{more})")
        labelled = [(one["id"], one["text"], one["label"]) for one in reviews()]
        connection.cursor().executemany("INSERT INTO labelled_reviews VALUES (%s, %s, %s)", labelled)
        new = [(2**40 + 1, GOOD), (2**40 + 2, BAD), (2**40 + 3, None)]
        connection.cursor().executemany("INSERT INTO new_reviews VALUES (%s, %s)", new)
        yield connection


@pytest.fixture
def table() -> ModuleType:
    return load_example("pipelines/postgresql_table")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An exported folder that gives known answers."""
    store = str(tmp_path_factory.mktemp("exported") / "store")
    return f"{store}/{fake_export(store, ['bad', 'good'], {GOOD: 'good', BAD: 'bad'}).path}"


def predictions(database: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = database.execute("SELECT review_id, label FROM review_predictions ORDER BY 1").fetchall()
    return found


def test_rows_of_a_table_become_a_model_and_its_labels_a_table(
    database: Any, table: ModuleType, hubflow_store: str, tiny_text_module: TinyModule
) -> None:
    export = table.fine_tune(tiny_text_module.spec, tiny_text_module.train, hubflow_store)
    assert (Path(export) / "manifest.json").exists()
    assert table.predict(export) == 2
    assert predictions(database) == [(2**40 + 1, "good"), (2**40 + 2, "bad")]  # the one without text has none


def test_a_second_run_replaces_the_predictions(database: Any, table: ModuleType, export: str) -> None:
    assert table.predict(export) == 2
    database.execute("DELETE FROM new_reviews WHERE review_id = %s", [2**40 + 1])
    database.execute("INSERT INTO new_reviews VALUES (7, %s)", [GOOD])
    assert table.predict(export) == 2
    assert predictions(database) == [(7, "good"), (2**40 + 2, "bad")]
    database.execute("DELETE FROM new_reviews")
    assert table.predict(export) == 0
    assert predictions(database) == []


def test_nothing_is_left_half_written(database: Any, table: ModuleType, export: str) -> None:
    table.predict(export)
    before = predictions(database)
    broken = [
        {"review_id": 1, "predicted": "good", "probability": 0.9},
        {"review_id": 1, "predicted": "bad", "probability": 0.8},
    ]
    with pytest.raises(psycopg.errors.UniqueViolation):
        table.replace_table(broken)
    assert predictions(database) == before


def test_readers_see_the_old_rows_until_the_new_ones_are_whole(database: Any, table: ModuleType, export: str) -> None:
    table.predict(export)
    before, seen = predictions(database), []

    class Rows(list[dict[str, Any]]):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield {"review_id": 5, "predicted": "good", "probability": 0.9}
            seen.append(predictions(database))
            yield {"review_id": 6, "predicted": "bad", "probability": 0.9}

    table.replace_table(Rows())
    assert seen == [before]
    assert predictions(database) == [(5, "good"), (6, "bad")]


def test_two_runs_at_once_both_end_and_leave_whole_rows(database: Any, table: ModuleType, export: str) -> None:
    table.predict(export)
    rows = [{"review_id": number, "predicted": "good", "probability": 0.5} for number in range(2000)]
    errors: list[BaseException] = []

    def replace() -> None:
        try:
            table.replace_table(rows)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=replace) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(predictions(database)) == 2000
