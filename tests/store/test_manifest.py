"""Sealed folders: whole or not there, and every file held to its manifest."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubflow.errors import StoreError
from hubflow.schemas.settings import HeadSettings
from hubflow.store.manifest import (
    LEFT_OVER_AFTER_SECONDS,
    MANIFEST,
    atomic_folder,
    jsonable,
    remove_leftovers,
    seal,
    verify_folder,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "kind" / "key"


def write(target: Path, text: str) -> None:
    with atomic_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "deep" / "b.txt").write_text(text)
        seal(folder, "test", {"text": text})


def text_of(target: Path) -> str:
    return (target / "a.txt").read_text()


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_folder_appears_whole(target: Path) -> None:
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("1")
        assert not target.exists()
        assert folder.parent == target.parent
    assert text_of(target) == "1"
    assert beside(target) == ["key"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_failure_in_the_block_leaves_what_was_there(target: Path) -> None:
    write(target, "old")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "a.txt").write_text("half")
        raise RuntimeError
    assert text_of(target) == "old"
    verify_folder(target)
    assert beside(target) == ["key"]


def test_a_failure_in_the_block_leaves_nothing_where_nothing_was(target: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as folder:
        (folder / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert beside(target) == []


def test_a_later_folder_takes_the_place_of_an_earlier_one(target: Path) -> None:
    write(target, "old")
    write(target, "new")
    assert verify_folder(target).facts == {"text": "new"}
    assert beside(target) == ["key"]


def test_a_full_disk_is_a_store_error_that_says_nothing_was_harmed(target: Path) -> None:
    write(target, "old")
    with pytest.raises(StoreError, match=r"could not be written .*No space left.*unharmed"), atomic_folder(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert text_of(target) == "old"


def test_a_disk_that_is_full_while_a_file_is_copied_is_a_store_error(target: Path, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(20_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StoreError, match=r"key could not be written .*File too large"), atomic_folder(target) as folder:
            shutil.copy2(tmp_path / "large", folder / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert beside(target) == []


def test_errors_about_other_files_pass_as_they_are(target: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(target):
        (tmp_path / "not-there").read_text()


def test_what_was_there_comes_back_when_it_cannot_be_replaced(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(target, "old")
    rename = os.rename

    def failing(source: str | Path, destination: str | Path) -> None:
        if Path(destination) == target and not target.exists() and not Path(source).parent.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(StoreError, match="unharmed"):
        write(target, "new")
    assert text_of(target) == "old"
    assert beside(target) == ["key"]


def test_a_parent_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written"), atomic_folder(tmp_path / "file" / "key"):
        pass


def test_a_parent_that_is_gone_when_the_folder_is_to_take_its_place_is_a_store_error(target: Path) -> None:
    with pytest.raises(StoreError, match=r"key could not be written .*No such file"), atomic_folder(target):
        shutil.rmtree(target.parent)


def test_leftovers_of_killed_writers_are_removed_and_what_they_put_aside_comes_back(target: Path) -> None:
    write(target, "old")
    write(target.with_name("other.key"), "new")
    number = "0123456789abcdef"
    aside, other = target.with_name(f".key.{number}.old"), target.with_name(f".other.key.{number}.old")
    for name in (f".key.{number}.draft", aside.name, other.name, ".lock", f"key.{number}.draft"):
        target.with_name(name).mkdir()
    target.with_name(f".file.{number}.draft").write_text("")
    target.rename(aside / "0")
    shutil.copytree(aside / "0", other / "0")
    remove_leftovers(target.parent)
    assert beside(target) == [".lock", "key", f"key.{number}.draft", "other.key"]
    assert (text_of(target), text_of(target.with_name("other.key"))) == ("old", "new")


def test_hidden_files_of_others_are_no_leftovers(target: Path) -> None:
    target.parent.mkdir()
    names = [".vim.settings", ".my.project1", ".x.0123456789abcdef", ".draft", ".a.0123456789abcdeg.draft"]
    for name in names:
        target.with_name(name).write_text("mine")
    write(target, "new")
    age(target.parent, 10 * LEFT_OVER_AFTER_SECONDS)
    write(target, "newer")
    assert beside(target) == sorted([*names, "key"])


def killed_while_writing(target: Path) -> str:
    """Have another process killed in the middle of a folder, and one in the middle of a file; the name of the folder."""
    program = f"""
import os, signal
from pathlib import Path
from hubflow.store import manifest as folders
target = Path({str(target)!r})
if os.fork():
    os.wait()
    with folders.atomic_folder(target) as draft:
        (draft / "half").write_text("half")
        print(draft.name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
folders.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
folders.write_atomically(target.with_name("loose.json"), b"half")
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stdout.strip()


def age(folder: Path, seconds: float) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_the_next_writer_removes_what_a_killed_one_left_an_hour_ago(target: Path) -> None:
    name = killed_while_writing(target)
    left = beside(target)
    assert name in left
    assert [one for one in left if one.startswith(".loose.json.")]
    write(target, "new")
    assert beside(target) == [*left, "key"], "it may be of a process that has just made it and not yet marked it"
    age(target.parent, LEFT_OVER_AFTER_SECONDS + 60)
    write(target, "newer")
    assert beside(target) == ["key"]
    assert text_of(target) == "newer"


def test_what_a_process_that_is_alive_writes_is_no_leftover_however_old(target: Path) -> None:
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("1")
        age(target.parent, 10 * LEFT_OVER_AFTER_SECONDS)
        assert remove_leftovers(target.parent) == []
        write(target.with_name("other"), "2")
    assert text_of(target) == "1"
    assert beside(target) == ["key", "other"]


def test_leftovers_in_a_folder_that_cannot_be_read_are_a_store_error(target: Path) -> None:
    with pytest.raises(StoreError, match=r"kind: what a killed run left behind cannot be removed"):
        remove_leftovers(target.parent)


def test_many_writers_of_one_folder_leave_one_whole(target: Path) -> None:
    faults: list[BaseException] = []

    def keep_writing(name: str) -> None:
        try:
            for number in range(25):
                write(target, f"{name}{number}")
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=keep_writing, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert verify_folder(target).facts["text"] == text_of(target)
    assert beside(target) == ["key"]


def _alter(target: Path) -> None:
    (target / "deep" / "b.txt").write_text("same length"[:3])


def _grow(target: Path) -> None:
    (target / "deep" / "b.txt").write_text("longer")


def _remove(target: Path) -> None:
    (target / "deep" / "b.txt").unlink()


@pytest.mark.parametrize("harm", [_alter, _grow, _remove])
def test_an_altered_or_missing_file_is_named(harm: Callable[[Path], None], target: Path) -> None:
    write(target, "old")
    harm(target)
    with pytest.raises(StoreError, match=r"1 file\(s\) missing or altered since they were written: deep/b\.txt; make it again"):
        verify_folder(target)


def test_a_manifest_in_a_subfolder_is_a_file_like_any_other(target: Path) -> None:
    with atomic_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / MANIFEST).write_text("{}")
        seal(folder, "test", {})
    (target / "deep" / MANIFEST).write_text("[]")
    with pytest.raises(StoreError, match=r"deep/manifest.json"):
        verify_folder(target)


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "{}", '{"files": []}', '{"files": {"a.txt": {}}}', '{"files": {"a.txt": 7}, "facts": {}}', '{"files": {}}'],
)
def test_a_manifest_that_is_none_is_refused(manifest: str, target: Path) -> None:
    write(target, "old")
    (target / MANIFEST).write_text(manifest)
    with pytest.raises(StoreError, match="manifest"):
        verify_folder(target)


def test_a_folder_without_a_manifest_is_refused(target: Path) -> None:
    write(target, "old")
    (target / MANIFEST).unlink()
    with pytest.raises(StoreError, match="no readable manifest"):
        verify_folder(target)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "deep/../../outside.txt"])
def test_a_manifest_that_names_files_elsewhere_is_refused(name: str, target: Path) -> None:
    write(target, "old")
    (target.parent / "outside.txt").write_text("old")
    manifest = json.loads((target / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"]["a.txt"]
    (target / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="altered"):
        verify_folder(target)


def test_models_and_paths_can_be_facts(target: Path) -> None:
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("1")
        seal(folder, "test", {"settings": HeadSettings(hidden_units=(3,)), "where": Path("a/b"), "text": "é中"})
    facts = verify_folder(target).facts
    assert facts == {"settings": {"hidden_units": [3], "num_classes": None, "dropout": None}, "where": "a/b", "text": "é中"}
    with pytest.raises(TypeError, match="set is not JSON-serialisable"):
        jsonable({1})


def _link(target: Path) -> None:
    (target / "deep" / "b.txt").unlink()
    (target / "deep" / "b.txt").symlink_to(target / "a.txt")


def _link_out(target: Path) -> None:
    (target.parent / "outside.txt").write_text("old")
    (target / "a.txt").unlink()
    (target / "a.txt").symlink_to("../outside.txt")


def _linked_folder(target: Path) -> None:
    (target / "deep").rename(target.parent / "elsewhere")
    (target / "deep").symlink_to(target.parent / "elsewhere")


def _link_beside(target: Path) -> None:
    (target / "passwd").symlink_to("/etc/passwd")


def _pipe(target: Path) -> None:
    (target / "a.txt").unlink()
    os.mkfifo(target / "a.txt")


def _linked_manifest(target: Path) -> None:
    (target / MANIFEST).rename(target.parent / "manifest")
    (target / MANIFEST).symlink_to("../manifest")


@pytest.mark.parametrize("harm", [_link, _link_out, _linked_folder, _link_beside, _pipe])
def test_links_and_special_files_are_refused(harm: Callable[[Path], None], target: Path) -> None:
    """Also where what they lead to has the content that the manifest has."""
    write(target, "old")
    harm(target)
    with pytest.raises(StoreError, match=r"1 link\(s\) or special file\(s\), expected regular files alone"):
        verify_folder(target)


def test_a_linked_manifest_is_refused(target: Path) -> None:
    write(target, "old")
    _linked_manifest(target)
    with pytest.raises(StoreError, match="no readable manifest"):
        verify_folder(target)


def test_a_link_to_a_sealed_folder_is_followed(target: Path) -> None:
    write(target, "old")
    (target.parent / "current").symlink_to(target)
    assert verify_folder(target.parent / "current").facts == {"text": "old"}


def _without_files(manifest: dict[str, Any]) -> None:
    manifest["files"] = {}


def _of_the_future(manifest: dict[str, Any]) -> None:
    manifest["format_version"] = 3


def _with_another_hash(manifest: dict[str, Any]) -> None:
    manifest["files"]["a.txt"]["sha256"] = "0"


def _with_a_size_below_0(manifest: dict[str, Any]) -> None:
    manifest["files"]["a.txt"]["bytes"] = -1


def _with_a_text_as_size(manifest: dict[str, Any]) -> None:
    manifest["files"]["a.txt"]["bytes"] = "3"


def _with_facts_that_are_none(manifest: dict[str, Any]) -> None:
    manifest["facts"] = [["text", "old"]]


def _without_a_kind(manifest: dict[str, Any]) -> None:
    del manifest["kind"]


def _with_a_name_that_is_none(manifest: dict[str, Any]) -> None:
    manifest["files"]["a\0b"] = manifest["files"]["a.txt"]


@pytest.mark.parametrize(
    "harm",
    [
        _without_files, _of_the_future, _with_another_hash, _with_a_size_below_0, _with_a_text_as_size,
        _with_facts_that_are_none, _without_a_kind, _with_a_name_that_is_none,
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_as_hubflow_writes_it_is_refused(harm: Callable[[Any], None], target: Path) -> None:
    write(target, "old")
    manifest = json.loads((target / MANIFEST).read_text())
    harm(manifest)
    (target / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"manifest\.json|missing or altered"):
        verify_folder(target)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[" * 200_000, b'{"files": ' + b"9" * 5000 + b"}"])
def test_a_manifest_that_cannot_be_parsed_is_refused(content: bytes, target: Path) -> None:
    write(target, "old")
    (target / MANIFEST).write_bytes(content)
    with pytest.raises(StoreError, match="no readable manifest"):
        verify_folder(target)


def test_a_file_is_read_as_it_was_verified_or_not_at_all(target: Path) -> None:
    write(target, "old")
    sealed = verify_folder(target)
    assert sealed.read("deep/b.txt") == b"old"
    (target / "deep" / "b.txt").write_text("new")
    with pytest.raises(StoreError, match="altered"):
        sealed.read("deep/b.txt")
    (target / "more.txt").write_text("old")
    with pytest.raises(StoreError, match="not in the manifest"):
        sealed.read("more.txt")
