"""Fixtures shared by all tests."""

import ctypes
import gc
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from object_storage import ObjectStorage
    from runs import Run

MOST_PROCESSES = 4


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests by their fixtures: `integration` with a server, `slow` with Prefect's, which takes long to start.

    Those that are slow for nothing but a run of all stages that they look at are a `whole_run` too.
    """
    fixtures = set(getattr(item, "fixturenames", ()))
    if fixtures & {"prefect_server", "s3_server", "postgres"}:
        item.add_marker(pytest.mark.integration)
    if "prefect_server" in fixtures or item.get_closest_marker("soak"):
        item.add_marker(pytest.mark.slow)
    if fixtures & {"digits_run", "text_run", "filled_store"} and not item.get_closest_marker("slow"):
        item.add_marker(pytest.mark.whole_run)
        item.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers() -> int:
    """Processes of `-n auto`: one more than cores, since many tests wait for other processes; of 2.5 GB each, so few."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that take long come first, so that several processes (`-n`) end at about the same time."""
    rank = {item.path: 2 for item in items}
    for item in items:
        own = 0 if item.get_closest_marker("integration") else 1 if item.get_closest_marker("slow") else 2
        rank[item.path] = min(rank[item.path], own)
    items.sort(key=lambda item: rank[item.path])


@pytest.fixture(scope="session")
def kept() -> dict[str, float]:
    """How many megabytes this process had when it last handed back what it could."""
    return {"megabytes": resident_megabytes()}


@pytest.fixture(autouse=True)
def memory_is_handed_back(kept: dict[str, float]) -> Iterator[None]:
    """After a test that took much: Paddle's executors lie in cycles, with their programs, and Arrow keeps what it has freed."""
    yield
    if resident_megabytes() > kept["megabytes"] + 100:  # looking for cycles takes a third of a second
        gc.collect()
        if "pyarrow" in sys.modules:
            sys.modules["pyarrow"].default_memory_pool().release_unused()
        ctypes.CDLL(None).malloc_trim(0)
        kept["megabytes"] = resident_megabytes()


def resident_megabytes() -> float:
    """Memory of this process; 0 elsewhere than on Linux, where none is handed back."""
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Folder of a real data set; skips, naming the folder, where it is absent."""
    return _folders("data", "HUBFLOW_TEST_DATA")


@pytest.fixture(scope="session")
def shared_case() -> Callable[[str], Path]:
    """Folder of a small input on which tools of this kind go wrong; skips, naming the folder, where it is absent."""
    return _folders("cases", "HUBFLOW_TEST_CASES")


def _folders(kind: str, variable: str) -> Callable[[str], Path]:
    root = Path(os.environ.get(variable) or Path(__file__).parents[2] / "shared" / kind)

    def folder_of(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.skip(f"no test {kind} at {folder}")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """Every stage run on a few digits; what it left behind is for reading only."""
    from runs import digits_settings

    return _run_once("digits", tmp_path_factory, digits_settings)


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """Every stage run on a few texts with a tiny BERT; what it left behind is for reading only."""
    from runs import WORDS, text_settings
    from small_modules import make_tiny_bert

    return _run_once("text", tmp_path_factory, lambda folder: text_settings(folder, make_tiny_bert(folder / "bert", WORDS)))


def _run_once(name: str, factory: pytest.TempPathFactory, settings: Callable[[Path], dict[str, Any]]) -> "Run":
    """The run of these settings, made by whichever process of the test run (`-n`) is first to need it."""
    from filelock import FileLock
    from runs import run_stages

    from hubflow.schemas.settings import FineTuneSettings

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}-run"
    kept = folder / "run.pickle"  # of this test run's own, which nobody else writes
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not kept.exists():
            run = run_stages(FineTuneSettings.model_validate(settings(folder)))
            kept.write_bytes(pickle.dumps(run))
        found: Run = pickle.loads(kept.read_bytes())  # noqa: S301
    return found


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Module folder of a BERT of two layers: config.json, seeded weights and a WordPiece vocabulary. Read only."""
    from small_modules import write_tiny_bert

    return write_tiny_bert(tmp_path_factory.mktemp("modules") / "tiny-bert")


@pytest.fixture(scope="session")
def digits_module() -> Path:
    """Module folder of the small image network that ships with hubflow. Read only."""
    from hubflow.modules.download import resolve_module

    return resolve_module("digits")


@pytest.fixture(scope="session")
def tiny_exports(tiny_bert: Path, digits_module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A `small_exports.Exported` by kind: `text`, `token` and `image`. Read only."""
    from small_exports import KINDS, export

    return {kind: export(tmp_path_factory.mktemp(kind), kind, tiny_bert, digits_module) for kind in KINDS}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a server on loopback that speaks S3."""
    from object_storage import s3_server as served

    with served() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[int]:
    """Port of a PostgreSQL cluster on loopback; skips, or fails where it is required, without PostgreSQL's programs."""
    from postgres import PASSWORD, cluster, require_postgres

    require_postgres()
    with cluster(PASSWORD) as port:
        yield port


@pytest.fixture
def postgres(postgres_cluster: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty database: libpq's variables, which this process has in its environment too."""
    from postgres import new_database

    variables = new_database(postgres_cluster)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "ObjectStorage":
    """An empty bucket, with this process's credentials for it and a cache of its own."""
    from object_storage import ObjectStorage

    return ObjectStorage.prepared(s3_server, tmp_path, monkeypatch)
