"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path

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
