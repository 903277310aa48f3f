"""The store: artefacts found by content, verified on every read, written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubflow.schemas.references import Reference
from hubflow.store.store import Artifact, Store, StoreError, content_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make(store: Store, text: str = "x", key: str = "k") -> Artifact:
    with store.create("things", key) as draft:
        (draft.folder / "a.txt").write_text(text)
        draft.facts["text"] = text
    return store.load("things", key)


def reference(artifact: Artifact) -> Reference:
    return Reference(path=artifact.path, sha256=artifact.sha256)


def test_what_was_made_is_found_and_opened(store: Store) -> None:
    made = make(store)
    found, opened = store.find("things", "k"), store.open(reference(made))
    assert found is not None
    assert (made.reused, found.reused, opened.reused) == (False, True, True)
    assert made.facts == found.facts == opened.facts == {"text": "x"}
    assert made.path == "things/k"
    assert store.find("things", "other") is None


def test_a_failure_while_writing_leaves_nothing_to_find(store: Store) -> None:
    with pytest.raises(RuntimeError), store.create("things", "k") as draft:
        (draft.folder / "a.txt").write_text("half")
        raise RuntimeError
    assert store.find("things", "k") is None
    assert list((store.root / "things").iterdir()) == []


def test_a_failure_while_writing_leaves_what_was_there(store: Store) -> None:
    make(store, "old")
    with pytest.raises(RuntimeError), store.create("things", "k") as draft:
        (draft.folder / "a.txt").write_text("half")
        raise RuntimeError
    found = store.find("things", "k")
    assert found is not None
    assert found.facts == {"text": "old"}


def test_a_process_that_dies_while_writing_leaves_nothing_to_find(store: Store) -> None:
    script = f"""
import os
from hubflow.store.store import Store
with Store({str(store.root)!r}).create("things", "k") as draft:
    (draft.folder / "a.txt").write_text("half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 9
    assert store.find("things", "k") is None
    assert make(store).facts == {"text": "x"}


def test_an_altered_artefact_is_not_found_and_not_opened(store: Store) -> None:
    made = make(store)
    (made.folder / "a.txt").write_text("y")
    assert store.find("things", "k") is None
    with pytest.raises(StoreError, match=r"altered since they were written: a\.txt"):
        store.open(reference(made))
    assert make(store).facts == {"text": "x"}


def test_a_manifest_without_facts_is_not_found(store: Store) -> None:
    made = make(store)
    (made.folder / "manifest.json").write_text('{"files": {}}')
    assert store.find("things", "k") is None


def test_a_reference_to_what_has_been_replaced_is_refused(store: Store) -> None:
    old = reference(make(store, "old"))
    make(store, "new")
    with pytest.raises(StoreError, match=r"the reference is to manifest .*, found .*; run the stage that makes it again"):
        store.open(old)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "things/../../elsewhere", "link/elsewhere"])
def test_a_path_out_of_the_store_is_refused(path: str, store: Store, tmp_path: Path) -> None:
    (store.root / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.open(Reference(path=path, sha256="0" * 64))


def test_a_root_that_cannot_be_made_or_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store", Path("/proc/store")):
        with pytest.raises(StoreError, match=r"cannot be written .*; choose another `store` or free it"):
            Store(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_root_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="choose another `store`"):
        Store(tmp_path)


def test_two_writers_of_one_key_leave_one_whole_artefact(store: Store) -> None:
    with store.create("things", "k") as first:
        (first.folder / "a.txt").write_text("first")
        first.facts["text"] = "first"
        make(store, "second")
    found = store.find("things", "k")
    assert found is not None
    assert found.facts["text"] == (found.folder / "a.txt").read_text() == "first"
    assert [path.name for path in (store.root / "things").iterdir()] == ["k"]


def test_a_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/store").root == (tmp_path / "store").resolve()


def test_keys_depend_on_content_and_its_places_alone() -> None:
    assert content_key("a", {"x": 1, "y": 2}) == content_key("a", {"y": 2, "x": 1})
    keys = [content_key(*parts) for parts in (("a", "b"), ("ab",), ("b", "a"), (["a", "b"],), ("a", "b", None), ("a", 1))]
    assert len(set(keys)) == len(keys)
    assert content_key("\ud800") != content_key("\ud801")
    assert content_key(Path("a/b")) == content_key("a/b")
