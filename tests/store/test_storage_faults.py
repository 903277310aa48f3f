"""A store on object storage whose network fails: nothing is lost, nothing is half, each run ends, and the next one goes on."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_storage import KEY, SECRET, Fault, FaultyProxy, ObjectStorage, faulty_proxy
from s3fs import S3FileSystem

from hubflow.schemas.references import Reference
from hubflow.store import remote
from hubflow.store.store import Artifact, Store, StoreError

TIMEOUT = 1.0
PASSING: list[Fault] = ["reset", "half", "short", "stall", "silence", 500, 503]
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.slow]


@pytest.fixture
def proxy(s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A network to the bucket that fails when it is told to. hubflow uses it, the test itself looks past it."""
    monkeypatch.setenv("HUBFLOW_LIMITS_STORAGE_TIMEOUT_SECONDS", str(TIMEOUT))
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    with faulty_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def make(store: Store, text: str = "x" * 999) -> Artifact:
    with store.create("things", "k") as draft:
        (draft.folder / "a.txt").write_text(text)
        (draft.folder / "b.txt").write_text(text * 2)
    return store.load("things", "k")


def is_whole(s3: ObjectStorage, machine: str) -> bool:
    """Whether a machine that sees the storage itself finds the folder; what it finds is intact, or this fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        patch.setattr(S3FileSystem, "_cache", {})
        patch.setenv(remote.CACHE_VARIABLE, str(s3.caches / machine))
        manifest = "things/k/manifest.json" in s3.objects("things/k/")
        found = Store(s3.url).find("things", "k")
        assert (found is not None) == manifest
        assert found is None or (found.folder / "b.txt").read_text() == "x" * 999 * 2
        return found is not None


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again_when_a_folder_is_fetched(s3: ObjectStorage, proxy: FaultyProxy, fault: Fault) -> None:
    made = make(Store(s3.url))
    s3.be("two")
    proxy.requests.clear()
    proxy.fault = lambda method, path, times: fault if "things/k" in path and method == "GET" and times == 0 else None
    found = Store(s3.url).open(Reference(path=made.path, sha256=made.sha256))
    assert (found.folder / "a.txt").read_text() == "x" * 999
    assert len([asked for asked in proxy.requests if asked == ("GET", f"/{s3.bucket}/store/things/k/a.txt")]) >= 2


@pytest.mark.parametrize("fault", ["reset", "silence", "lost answer", 500, 503])
def test_what_passes_is_tried_again_when_a_folder_is_sent(s3: ObjectStorage, proxy: FaultyProxy, fault: Fault) -> None:
    proxy.fault = lambda method, _path, times: fault if method in ("PUT", "DELETE") and times == 0 else None
    make(Store(s3.url))
    assert is_whole(s3, "two")
    assert not [path for path in s3.objects() if "probe" in path]


@pytest.mark.parametrize("fault", [*PASSING, "lost answer"])
def test_what_lasts_ends_with_an_error_and_leaves_nothing_half(s3: ObjectStorage, proxy: FaultyProxy, fault: Fault) -> None:
    """A silent server held a run for 400 seconds, and half a body of a length that fits was taken for damage: trained again."""
    made = make(Store(s3.url))
    s3.be("two")
    proxy.fault = lambda method, path, _times: fault if "b.txt" in path and method == "GET" else None
    started = time.monotonic()
    with pytest.raises(StoreError, match=rf"{s3.bucket}/store/things/k/b.txt cannot be read .*check the URL, the network"):
        Store(s3.url).find("things", "k")
    assert time.monotonic() - started < 60 * TIMEOUT
    assert [path for path in Store(s3.url).root.rglob("*") if path.is_file()] == []
    proxy.fault = lambda _method, _path, _times: None
    assert Store(s3.url).open(Reference(path=made.path, sha256=made.sha256)).sha256 == made.sha256


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["reset", "silence"])
def test_a_network_that_stops_at_any_request_loses_nothing(s3: ObjectStorage, proxy: FaultyProxy, fault: Fault) -> None:
    """Sending stops at each request in turn: others see the folder whole or not at all, and the next run sends it."""
    Store(s3.url).require_writable()
    stopped, ended = 0, False
    while not ended:
        machine = f"{fault}-{stopped}"
        s3.be(machine)
        for path in s3.objects():
            s3.delete(path)
        before, proxy.fault = len(proxy.requests) + stopped, lambda _method, _path, _times: None
        proxy.fault = lambda _method, _path, _times: fault if len(proxy.requests) > before else None  # noqa: B023
        try:
            make(Store(s3.url))
            ended = len(proxy.requests) <= before
        except StoreError as error:
            assert "check the URL, the network and the credentials" in str(error)
        proxy.fault = lambda _method, _path, _times: None
        is_whole(s3, f"other-{machine}")
        found = Store(s3.url).find("things", "k")
        if found is None:  # it ended before anything was made
            make(Store(s3.url))
        assert is_whole(s3, f"third-{machine}")
        stopped += 1
    assert stopped > 5


@pytest.mark.parametrize("fault", ["lost answer", "reset", 500, 503, "silence"])
@pytest.mark.parametrize("expected", [None, b"before"])
def test_a_swap_whose_answer_is_lost_is_known_by_what_is_there(
    s3: ObjectStorage, proxy: FaultyProxy, fault: Fault, expected: bytes | None
) -> None:
    """It was reported as lost to another, although it was done: a promotion then failed, and had taken place."""
    if expected is not None:
        s3.put("deployed/a.json", expected)
    proxy.fault = lambda method, _path, times: fault if method == "PUT" and times == 0 else None
    assert Store(s3.url).compare_and_swap("deployed/a.json", expected, b"mine") is True
    assert s3.read("deployed/a.json") == b"mine"


def test_a_swap_that_another_takes_back_meanwhile_is_lost(s3: ObjectStorage, proxy: FaultyProxy) -> None:
    def fault(method: str, _path: str, times: int) -> Fault | None:
        if method == "PUT" and times == 0:
            return "lost answer"
        if method == "HEAD":
            s3.put("deployed/a.json", b"of another")
        return None

    store = Store(s3.url)
    assert store.compare_and_swap("deployed/a.json", None, b"first") is True
    proxy.requests.clear()
    proxy.fault = lambda method, path, times: fault(method, path, times) if ("PUT", path) in proxy.requests else None
    assert store.compare_and_swap("deployed/a.json", b"first", b"mine") is False
    assert s3.read("deployed/a.json") == b"of another"


def test_a_swap_that_cannot_be_done_changes_nothing(s3: ObjectStorage, proxy: FaultyProxy) -> None:
    s3.put("deployed/a.json", b"before")
    proxy.fault = lambda method, _path, _times: 500 if method == "PUT" else None
    with pytest.raises(StoreError, match=r"deployed/a.json cannot be written .*InternalError"):
        Store(s3.url).compare_and_swap("deployed/a.json", b"before", b"mine")
    assert s3.read("deployed/a.json") == b"before"


def test_of_several_that_swap_over_a_failing_network_one_wins(s3: ObjectStorage, proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, _path, times: ("lost answer", 503, "reset", None)[times % 4] if method == "PUT" else None
    stores, won = [Store(s3.url) for _ in range(4)], []
    threads = [
        threading.Thread(
            target=lambda number=number, store=store: (
                won.append(number) if store.compare_and_swap("deployed/a.json", None, b"%d" % number) else None
            )
        )
        for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert s3.read("deployed/a.json") == b"%d" % won[0]


@pytest.mark.parametrize("fault", ["half", "reset", "stall", 503])
def test_files_that_come_in_ranges_are_tried_again_too(s3: ObjectStorage, proxy: FaultyProxy, fault: Fault) -> None:
    """Of a file of more than a block s3fs reads several ranges at once, and does not repeat one that fails."""
    options = {"key": KEY, "secret": SECRET, "endpoint_url": proxy.endpoint, "default_block_size": 300}
    remote.use_options(s3.url, options)
    made = make(Store(s3.url))
    s3.be("two")
    proxy.requests.clear()
    proxy.fault = lambda method, path, times: fault if "a.txt" in path and method == "GET" and times == 1 else None
    assert (Store(s3.url).open(Reference(path=made.path, sha256=made.sha256)).folder / "a.txt").read_text() == "x" * 999


def test_a_disk_that_is_full_is_no_fault_of_the_network(s3: ObjectStorage, proxy: FaultyProxy, tmp_path: Path) -> None:
    s3.put("things/a.txt", b"x" * 10)
    far = remote.Remote(s3.url)
    with pytest.raises(OSError, match="No space left on device"):
        far.download("things/a.txt", Path("/dev/full"))
    assert len([asked for asked in proxy.requests if asked[0] == "GET"]) == 1
