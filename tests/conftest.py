"""Fixtures shared by all tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Folder of a real data set; skips, naming the folder, where it is absent."""
    root = Path(os.environ.get("HUBFLOW_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def folder_of(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.skip(f"no test data at {folder}")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with a database of its own, for the whole session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Module folder of a BERT of two layers: config.json, seeded weights and a WordPiece vocabulary. Read only."""
    from small_modules import write_tiny_bert

    return write_tiny_bert(tmp_path_factory.mktemp("modules") / "tiny-bert")


@pytest.fixture(scope="session")
def digits_module() -> Path:
    """Module folder of the small image network that ships with hubflow. Read only."""
    from hubflow.stages.hub.download import resolve_module

    return resolve_module("digits")


@pytest.fixture(scope="session")
def tiny_exports(tiny_bert: Path, digits_module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A `small_exports.Exported` by kind: `text`, `token` and `image`. Read only."""
    from small_exports import KINDS, export

    return {kind: export(tmp_path_factory.mktemp(kind), kind, tiny_bert, digits_module) for kind in KINDS}
