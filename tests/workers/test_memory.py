"""Memory of a process in which stages run again and again, and of the one that starts its workers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as arrow
import pytest
from process_tree import children_of, wait_until_idle, workers_of
from runs import WORDS, text_settings
from small_modules import make_tiny_bert

from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module

pytestmark = pytest.mark.slow

MOST_GROWTH = 1.05


@pytest.fixture
def full_pools() -> Iterator[None]:
    """Pools of pyarrow that one thread fills: others are added whenever work happens to wait."""
    counts = arrow.cpu_count(), arrow.io_thread_count()
    arrow.set_cpu_count(1)
    arrow.set_io_thread_count(1)
    yield
    arrow.set_cpu_count(counts[0])
    arrow.set_io_thread_count(counts[1])


@pytest.mark.soak
@pytest.mark.usefixtures("full_pools")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_runs_one_after_another_take_no_more_memory(tmp_path: Path) -> None:
    settings = FineTuneSettings.model_validate(text_settings(tmp_path, make_tiny_bert(tmp_path / "bert", WORDS)))
    store = settings.store
    dataset, module = load_dataset.fn(settings.data, settings.task, store), load_module.fn(settings.module, store)
    encoded = encode_dataset.fn(dataset, module, settings.module, store)
    task = build_head.fn(settings.task, module, dataset, settings.module, settings.head, store)
    (server,) = [child for child in children_of() if "workers.server" in Path(f"/proc/{child}/cmdline").read_text()]
    wait_until_idle(server)  # it imports ahead what the work after training needs
    taken: list[list[int]] = []
    for _ in range(12):
        checkpoint = fine_tune.fn(task, encoded, settings.train, store, settings.seed, "cpu", reuse=False)
        evaluation = evaluate.fn(checkpoint, encoded, settings.evaluate, store, "cpu", reuse=False)
        export_inference_program.fn(checkpoint, encoded, evaluation, store, reuse=False)
        assert workers_of() == []
        taken.append([_resident("self"), _resident(server), _threads("self"), _threads(server)])
    (ours, servers, our_threads, its_threads), last = taken[2], taken[-1]
    assert last[0] < MOST_GROWTH * ours, taken
    assert last[1] < MOST_GROWTH * servers, taken
    assert last[2] <= our_threads, taken  # those of earlier tests may end meanwhile
    assert last[3] <= its_threads, taken


def _resident(process: int | str) -> int:
    """Kilobytes in memory."""
    return _status(process, "VmRSS")


def _threads(process: int | str) -> int:
    return _status(process, "Threads")


def _status(process: int | str, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))
