"""Damaged files, a few hundred for each reader: each ends in a result or in an error of hubflow's. `run.py` reads more."""

import pytest
from readers import READERS, Reader
from run import fuzz

from hubflow.errors import HubflowError

pytestmark = pytest.mark.slow

EXECUTIONS = 300


@pytest.mark.parametrize("name", READERS)
def test_every_damaged_file_ends_as_it_should(name: str) -> None:
    found = fuzz(READERS[name], seed=1, executions=EXECUTIONS)
    assert found.executions == EXECUTIONS
    assert 0 < found.refused
    assert not found.faults, {fault: data[:200] for fault, data in found.faults.items()}


def _read(data: bytes, _: object) -> object:
    """A reader with every kind of fault, each for inputs of its own."""
    kind = sum(data) % 50
    if kind == 0:
        raise ValueError("a fault")
    if kind == 1:
        raise HubflowError("refused")
    if kind == 2:
        raise HubflowError("refused") from MemoryError()
    if kind == 3:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)
    return kind


def test_faults_are_found_and_an_input_of_each_is_kept() -> None:
    found = fuzz(Reader("faulty", lambda: [b"some bytes"], _read), seed=1, executions=400)
    kinds = {fault.split()[0]: sum(data) % 50 for fault, data in found.faults.items()}
    assert kinds == {"ValueError": 0, "memory:": 2, "crash:": 3}
    assert found.executions == 400
    assert found.refused > 0


def test_an_input_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes, _: object) -> object:
        while len(data) % 3 == 1:
            pass
        return len(data)

    monkeypatch.setattr("run.SECONDS", 0.2)
    found = fuzz(Reader("endless", lambda: [b"abc"], read), seed=2, executions=12)
    assert [fault.split()[0] for fault in found.faults] == ["hang:"]
    assert found.executions == 12
