"""The shop's flow on a real Prefect server, with a module that learns in seconds."""

import sqlite3
from pathlib import Path

import pytest
from flows.reviews import train_reviews

from hubflow.errors import ContractError
from hubflow.testing import assert_promoted, assert_rejected, fake_verdict, read_quarantine


@pytest.fixture
def database(tmp_path: Path) -> str:
    rows = [(f"{('an awful', 'a great')[n % 2]} product, order {n}", 1 + 4 * (n % 2)) for n in range(60)]
    with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
        connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, body TEXT, stars INTEGER)")
        connection.executemany("INSERT INTO reviews (body, stars) VALUES (?, ?)", rows)
    return str(tmp_path / "reviews.sqlite")


def test_a_good_model_is_promoted(prefect_server, database, hubflow_store, tiny_text_module) -> None:
    train_reviews(database, tiny_text_module.spec, tiny_text_module.train, hubflow_store)
    assert_promoted(hubflow_store, "reviews")


def test_a_rejected_model_is_not_put_in_use(prefect_server, database, hubflow_store, tiny_text_module, replace_stage) -> None:
    replace_stage("gate", lambda export, *_: fake_verdict("rejected", hubflow_store, export, "reviews"))
    train_reviews(database, tiny_text_module.spec, tiny_text_module.train, hubflow_store)
    assert_rejected(hubflow_store, "reviews")


def test_six_stars_are_quarantined(prefect_server, database, hubflow_store, tiny_text_module) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE reviews SET stars = 6 WHERE id = 2")
    with pytest.raises(ContractError) as error:
        train_reviews(database, tiny_text_module.spec, tiny_text_module.train, hubflow_store)
    assert read_quarantine(hubflow_store, error.value)["row"].tolist() == [2]
