"""Marks of the flows' tests."""

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Every test here runs a flow, most of them on a real Prefect server."""
    item.add_marker(pytest.mark.slow)
    item.add_marker(pytest.mark.integration)
