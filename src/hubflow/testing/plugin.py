"""A pytest plugin, found by pytest where hubflow is installed: fixtures for tests of flows, imported when they are used."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hubflow.testing.modules import TinyModule
    from hubflow.testing.stores import FilledStore

STARTED_WITHIN_SECONDS = 120
"""Prefect's own test harness waits 30 s for its server, which a busy machine does not meet."""


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """A Prefect server with a temporary database, for the whole session: its API's address, which this process uses too."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=STARTED_WITHIN_SECONDS):
        yield str(get_current_settings().api.url)


@pytest.fixture
def hubflow_store(tmp_path: Path) -> str:
    """Path of an empty store."""
    return str(tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_text_module(tmp_path_factory: pytest.TempPathFactory) -> "TinyModule":
    """A BERT of 2 layers, and settings by which it learns in seconds. Read only."""
    from hubflow.testing.modules import make_tiny_text_module

    return make_tiny_text_module(tmp_path_factory.mktemp("hubflow") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_image_module() -> "TinyModule":
    """A network for images of 8 by 8 pixels, and settings by which it learns in seconds."""
    from hubflow.testing.modules import make_tiny_image_module

    return make_tiny_image_module()


@pytest.fixture(scope="session")
def _filled_once(tiny_text_module: "TinyModule", tmp_path_factory: pytest.TempPathFactory) -> "FilledStore":
    from hubflow.testing.stores import fill_store

    return fill_store(tmp_path_factory.mktemp("hubflow") / "store", tiny_text_module)


@pytest.fixture
def filled_store(_filled_once: "FilledStore", tmp_path: Path) -> "FilledStore":
    """A store of this test in which every stage of a fine-tune has left its result: made once a session, and copied."""
    folder = tmp_path / "filled-store"
    shutil.rmtree(folder, ignore_errors=True)
    return _filled_once.copy_to(folder)


@pytest.fixture
def without_verification() -> Iterator[None]:
    """Exports of this test are not tried by a fresh process, which saves a second each; see `hubflow.testing`."""
    from hubflow.inference.verification import without_verification as switched_off

    with switched_off():
        yield


@pytest.fixture
def replace_stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    """`replace_stage("fine_tune", function)` has hubflow's flows call `function` in place of one stage, in this test."""

    def replace(name: str, function: Callable[..., Any]) -> None:
        from prefect import Task, task

        from hubflow import stages

        if name not in stages.__all__:
            raise ValueError(f"hubflow has no stage {name!r}; its stages are {', '.join(stages.__all__)}")
        replacement = function if isinstance(function, Task) else task(name=name, persist_result=False)(function)
        monkeypatch.setattr(stages, name, replacement)

    return replace
