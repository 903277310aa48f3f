"""A store on object storage: what one machine made another opens, whole or not at all, and no secret is told."""

import sys
import threading
from pathlib import Path

import pytest
from fsspec.registry import _registry
from object_storage import KEY, SECRET, ObjectStorage
from s3fs import S3FileSystem

from hubflow.schemas.references import Reference
from hubflow.store import remote
from hubflow.store.store import Artifact, Store, StoreError, local_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def make(store: Store, text: str = "x", key: str = "k") -> Artifact:
    with store.create("things", key) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "a.txt").write_text(text)
        (draft.folder / "deep" / "b.txt").write_text(text * 3)
        draft.facts["text"] = text
    return store.load("things", key)


def reference(artifact: Artifact) -> Reference:
    return Reference(path=artifact.path, sha256=artifact.sha256)


def test_what_one_machine_made_another_finds_and_opens(s3: ObjectStorage) -> None:
    made = make(Store(s3.url))
    assert sorted(s3.objects()) == ["things/k/a.txt", "things/k/deep/b.txt", "things/k/manifest.json"]
    s3.be("two")
    second = Store(s3.url)
    assert second.root != made.folder.parents[1]
    opened = second.open(reference(made))
    assert (opened.folder / "deep" / "b.txt").read_text() == "xxx"
    found = second.find("things", "k")
    assert found is not None
    assert (found.folder, found.sha256, found.facts) == (opened.folder, made.sha256, {"text": "x"})
    assert second.find("things", "other") is None
    assert local_folder(f"{s3.url}/things/k") == opened.folder


def test_what_is_here_is_opened_without_the_network(s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(Store(s3.url))
    s3.delete("things/k/manifest.json")
    assert Store(s3.url).open(reference(made)).sha256 == made.sha256


def test_the_manifest_is_sent_last_and_the_same_folder_once(s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    upload, write = remote.Remote.upload, remote.Remote.write
    monkeypatch.setattr(remote.Remote, "upload", lambda self, file, path: (sent.append(path), upload(self, file, path)))
    monkeypatch.setattr(remote.Remote, "write", lambda self, path, data: (sent.append(path), write(self, path, data)))
    store = Store(s3.url)
    store.require_writable()
    sent.clear()
    make(store)
    assert sent == ["things/k/a.txt", "things/k/deep/b.txt", "things/k/manifest.json"]
    make(store)
    assert len(sent) == 3


def test_a_folder_without_its_manifest_is_not_found(s3: ObjectStorage) -> None:
    made = make(Store(s3.url))
    s3.delete("things/k/manifest.json")
    s3.be("two")
    assert Store(s3.url).find("things", "k") is None
    with pytest.raises(StoreError, match=r"things/k: no such folder"):
        Store(s3.url).open(reference(made))


def test_what_was_made_but_not_sent_is_sent_when_it_is_found(s3: ObjectStorage) -> None:
    make(Store(s3.url))
    for path in s3.objects():
        s3.delete(path)
    assert Store(s3.url).find("things", "k") is not None
    assert len(s3.objects("things/k")) == 3


@pytest.mark.parametrize("harm", ["altered", "missing"])
def test_damage_on_the_storage_is_not_found_not_opened_and_mended_by_making_it_again(s3: ObjectStorage, harm: str) -> None:
    made = make(Store(s3.url))
    if harm == "altered":
        s3.put("things/k/a.txt", b"y")
    else:
        s3.delete("things/k/a.txt")
    s3.be("two")
    second = Store(s3.url)
    with pytest.raises(StoreError, match=rf"^s3://{s3.bucket}/store/things/k: .*missing.*a\.txt"):
        second.open(reference(made))
    assert second.find("things", "k") is None
    assert not (second.root / "things" / "k").exists()
    make(second)
    assert s3.read("things/k/a.txt") == b"x"
    s3.be("three")
    assert Store(s3.url).open(reference(made)).facts == {"text": "x"}


def test_an_altered_copy_here_is_fetched_again(s3: ObjectStorage) -> None:
    made = make(Store(s3.url))
    (made.folder / "a.txt").write_text("y")
    assert (Store(s3.url).open(reference(made)).folder / "a.txt").read_text() == "x"
    (made.folder / "a.txt").unlink()
    found = Store(s3.url).find("things", "k")
    assert found is not None
    assert (found.folder / "a.txt").read_text() == "x"


def test_another_version_replaces_the_first_whole(s3: ObjectStorage) -> None:
    first = make(Store(s3.url))
    s3.be("two")
    store = Store(s3.url)
    with store.create("things", "k") as draft:
        (draft.folder / "c.txt").write_text("new")
    second = store.load("things", "k")
    assert sorted(s3.objects()) == ["things/k/c.txt", "things/k/manifest.json"]
    with pytest.raises(StoreError, match=f"the reference is to manifest {first.sha256[:12]}"):
        store.open(reference(first))
    s3.be("three")
    assert Store(s3.url).open(reference(second)).path == "things/k"


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "deep/../../outside.txt"])
def test_a_manifest_that_leads_out_of_its_folder_writes_nothing(name: str, s3: ObjectStorage) -> None:
    content = b'{"facts": {}, "files": {"%s": {"sha256": "00", "bytes": 1}}}' % name.encode()
    s3.put("things/k/manifest.json", content)
    s3.put("things/outside.txt", b"z")
    store = Store(s3.url)
    assert store.find("things", "k") is None
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
    for path in ("../elsewhere", "/etc"):
        with pytest.raises(StoreError, match="leads out of the store"):
            store.read_bytes(path)


def test_loose_files_are_the_same_on_every_machine(s3: ObjectStorage) -> None:
    store = Store(s3.url)
    assert store.read_bytes("notes/a.json") is None
    store.write_bytes("notes/a.json", b"1")
    (store.root / "runs" / "r").mkdir(parents=True)
    for name in ("report.html", "run.json"):
        (store.root / "runs" / "r" / name).write_text(name)
    store.sync("runs/r")
    assert store.display_path("runs/r/report.html") == f"{s3.url}/runs/r/report.html"
    s3.be("two")
    second = Store(s3.url)
    assert second.read_bytes("notes/a.json") == b"1"
    assert second.names("runs/r") == ["report.html", "run.json"]
    assert second.names("absent") == []
    second.discard("notes/a.json")
    assert store.names("notes") == []
    (store.root / "runs" / "r" / "run.json").unlink()
    store.sync("runs/r")
    assert second.names("runs/r") == ["report.html"]


def test_a_discarded_folder_is_gone_here_and_there(s3: ObjectStorage) -> None:
    store = Store(s3.url)
    make(store)
    make(store, key="kept")
    store.discard("things/k")
    assert store.names("things") == ["kept"]
    assert store.find("things", "k") is None


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_of_several_that_swap_at_once_one_wins(kind: str, s3: ObjectStorage, tmp_path: Path) -> None:
    place = s3.url if kind == "s3" else str(tmp_path / "store")
    stores, won = [Store(place) for _ in range(6)], []
    for expected in (None, b"first"):
        start = threading.Barrier(len(stores))

        def swap(store: Store, number: int) -> None:
            start.wait()  # noqa: B023
            if store.compare_and_swap("deployed/a.json", expected, b"first" if expected is None else b"%d" % number):  # noqa: B023
                won.append(number)

        threads = [threading.Thread(target=swap, args=(store, number)) for number, store in enumerate(stores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(won) == 2
    assert stores[0].read_bytes("deployed/a.json") == b"%d" % won[1]
    assert stores[0].compare_and_swap("deployed/a.json", b"stale", b"z") is False


@pytest.mark.slow
def test_storage_that_refuses_or_is_absent_is_told_before_work_and_never_taken_for_empty(
    s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_bucket = Store("s3://bucket-that-is-not-there/store")
    with pytest.raises(StoreError, match=r"s3://bucket-that-is-not-there/store/.* cannot be written"):
        no_bucket.require_writable()
    with pytest.raises(StoreError, match="cannot be written"), no_bucket.create("things", "k"):
        raise AssertionError
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote.use_options(s3.url, {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}})
    with pytest.raises(StoreError, match="cannot be read"):
        Store(s3.url).find("things", "k")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hush@bucket/x",
        "s3://bucket/x?secret=hush",
        "s3://bucket/../x",
        "s3://bucket::file://x",
        "s3:///x",
        "nope://b/x",
    ],
)
def test_a_url_with_a_secret_or_none_of_a_store_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(StoreError) as refused:
        Store(url)
    assert "hush" not in str(refused.value)


@pytest.mark.slow
def test_errors_show_no_credentials(s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_LIMITS_STORAGE_TIMEOUT_SECONDS", "1")
    options = {"key": KEY, "secret": "\n" + SECRET, "endpoint_url": s3.endpoint, "client_kwargs": {"verify": "hush-file"}}
    remote.use_options(s3.url, options)
    with pytest.raises(StoreError) as told:
        Store(s3.url).require_writable()
    assert SECRET not in str(told.value)
    assert told.value.__cause__ is None


def test_options_are_of_one_url(s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(S3FileSystem, "_cache", {})  # of instances, which other tests' environment was for
    remote.use_options(f"{s3.url}/", {"key": KEY, "secret": SECRET, "endpoint_url": s3.endpoint})
    make(Store(s3.url))
    with pytest.raises(StoreError, match="cannot be written"):
        Store(f"s3://{s3.bucket}/other").require_writable()
    assert len(s3.objects()) == 3


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r"needs a package that is not here .* install the extra `s3`"):
        Store("s3://bucket/store")


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/KEY", "s3://bucket/a/../exports/KEY"])
def test_an_address_of_no_folder_in_a_store_is_refused(address: str) -> None:
    with pytest.raises(StoreError, match=r"expected s3://bucket/prefix/exports/KEY"):
        local_folder(address)


def test_an_address_of_a_folder_that_is_not_there_is_refused(s3: ObjectStorage) -> None:
    with pytest.raises(StoreError, match=rf"{s3.bucket}/store/exports/none: no such folder"):
        local_folder(f"{s3.url}/exports/none")
