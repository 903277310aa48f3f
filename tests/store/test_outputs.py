"""Outputs over other people's files: links, other users, modes, limits of place, two writers, and values that are formulas."""

import csv
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_lines import as_user
from pydantic import ValidationError
from runs import Run, write_reviews
from typer.testing import CliRunner

from hubflow.cli.check import check
from hubflow.cli.main import app
from hubflow.data.quarantine import read_quarantine
from hubflow.errors import HubflowError, SettingsError, StoreError
from hubflow.schemas.settings import DatasetSpec, PredictSettings
from hubflow.stages.evaluate import evaluate
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.predict import predict
from hubflow.store.manifest import atomic_file, atomic_folder, locked, write_atomically
from hubflow.store.outputs import Output
from hubflow.store.store import Store
from hubflow.training.callbacks import HistoryFile, TrainState
from hubflow.training.checkpoints import save_weights
from hubflow.training.trackers.tensorboard import TensorBoardTracker

ONLY_ROOT = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be other users")
BAD = "text\na fine film\n \na dull film\n"


def run_predict(run: Run, data: object, output: Path | str | None, **more: Any) -> Path:
    given = {
        "export": str(Path(run.settings.store, run.export.path)),
        "data": str(data),
        "output": None if output is None else str(output),
    }
    return Path(predict.fn(PredictSettings.model_validate({**given, **more})).output)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_reviews(tmp_path / "rows.tsv", 4)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# What is there already


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_file_that_hubflow_did_not_write_is_not_replaced(ending: str, text_run: Run, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / f"salaries.{ending}"
    output.write_text("secret\n")
    output.chmod(0o600)
    with pytest.raises(SettingsError, match=rf"output: .*salaries\.{ending} is there already, and no run of this user's"):
        run_predict(text_run, rows, output)
    assert (output.read_text(), mode_of(output)) == ("secret\n", 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.tsv", output.name]
    run_predict(text_run, rows, output, overwrite=True)
    assert output.read_bytes() != b"secret\n"
    assert mode_of(output) == 0o600
    run_predict(text_run, rows, output)
    assert mode_of(output) == 0o600


def test_an_output_of_hubflow_is_replaced_until_somebody_changes_it(text_run: Run, rows: Path, tmp_path: Path) -> None:
    output = run_predict(text_run, rows, tmp_path / "out.csv")
    first = output.read_bytes()
    run_predict(text_run, rows, output)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (output, tmp_path / ".out.csv.hubflow"):
        path.rename(moved / path.name)
    run_predict(text_run, rows, moved / "out.csv")
    with (moved / "out.csv").open("ab") as stream:
        stream.write(b"my own line\n")
    with pytest.raises(SettingsError, match="or it was changed since"):
        run_predict(text_run, rows, moved / "out.csv")
    assert (moved / "out.csv").read_bytes() == first + b"my own line\n"


def test_a_run_that_is_killed_around_the_renaming_knows_its_output_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output.named(str(tmp_path / "out.csv"), "output")
    with output.write() as stream:
        stream.write(b"first")
    replace = os.replace

    def killed(source: str | Path, target: str | Path) -> None:
        if Path(target) == output.path:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), output.write() as stream:
        stream.write(b"the second")
    monkeypatch.undo()
    assert output.path.read_bytes() == b"first"
    with output.write() as stream:
        stream.write(b"third")
    assert output.path.read_bytes() == b"third"


def test_the_draft_of_a_killed_run_goes_with_the_next_output(tmp_path: Path) -> None:
    old, young, other = (
        tmp_path / name for name in (f".out.csv.{'0' * 16}.draft", f".out.csv.{'1' * 16}.draft", ".notes.draft")
    )
    for path in (old, young, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (0, 0))
    with Output.named(str(tmp_path / "out.csv"), "output").write() as stream:
        stream.write(b"whole")
    assert [path.exists() for path in (old, young, other)] == [False, True, True]


def test_a_quarantine_that_hubflow_did_not_write_is_neither_replaced_nor_removed(
    text_run: Run, rows: Path, tmp_path: Path
) -> None:
    other = tmp_path / "out.parquet.quarantine.parquet"
    other.write_text("mine")
    with pytest.raises(SettingsError, match=r"out\.parquet\.quarantine\.parquet is there already"):
        run_predict(text_run, rows, tmp_path / "out.parquet")
    assert other.read_text() == "mine"
    other.unlink()
    (tmp_path / "bad.tsv").write_text(BAD)
    run_predict(text_run, tmp_path / "bad.tsv", tmp_path / "out.parquet")
    assert read_quarantine(other)["row"].tolist() == [3]
    run_predict(text_run, rows, tmp_path / "out.parquet")
    assert not other.exists()


def test_an_output_over_a_link_a_folder_or_a_device_is_refused(text_run: Run, rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("mine")
    (tmp_path / "link.csv").symlink_to(other)
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nothing.csv")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.csv"))
    named = {
        "link": "is a link to",
        "dangling": "is a link to",
        "folder": "is a folder",
        "pipe": "a pipe",
        "socket": "a socket",
    }
    for name, fault in named.items():
        for more in ({}, {"overwrite": True}):
            with pytest.raises(
                SettingsError, match=rf"output: .*{name}\.csv {'is ' if name in ('pipe', 'socket') else ''}.*{fault}"
            ):
                run_predict(text_run, rows, tmp_path / f"{name}.csv", **more)
    assert other.read_text() == "mine"
    assert not (tmp_path / "nothing.csv").exists()


@pytest.mark.parametrize("output", ["/dev/null", "/dev/stdout", "out", "out.csv/", "~/"])
def test_an_output_that_is_no_file_of_a_known_ending_is_refused(output: str, text_run: Run, rows: Path, tmp_path: Path) -> None:
    given = str(tmp_path / output) if output.startswith("out") else output
    with pytest.raises(SettingsError, match=r"output.*(expected an ending of \.parquet|ends with a slash)"):
        run_predict(text_run, rows, f"{given}{'/' if output.endswith('/') else ''}")


def test_another_name_of_an_output_keeps_its_content(text_run: Run, rows: Path, tmp_path: Path) -> None:
    output = run_predict(text_run, rows, tmp_path / "out.csv")
    os.link(output, tmp_path / "kept.csv")
    before = output.read_bytes()
    run_predict(text_run, rows, output, top_k=1)
    assert (tmp_path / "kept.csv").read_bytes() == before != output.read_bytes()


@pytest.mark.parametrize("kind", ["itself", "link", "hard link", "glob"])
def test_the_data_is_no_output(kind: str, text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.csv", 4, ",")
    folder, source, output = tmp_path / "folder", str(data), data
    before = data.read_bytes()
    if kind == "link":
        folder.symlink_to(tmp_path)
        output = folder / "rows.csv"
    elif kind == "hard link":
        output = tmp_path / "again.csv"
        os.link(data, output)
    elif kind == "glob":
        source = str(tmp_path / "*.csv")
    with pytest.raises(HubflowError, match=r"which is read|matches no file but the predictions"):
        run_predict(text_run, source, output, overwrite=True)
    assert data.read_bytes() == before


@pytest.mark.parametrize("inside", ["", "deep"])
def test_an_output_in_an_artifact_is_refused(inside: str, text_run: Run, rows: Path) -> None:
    folder = text_run.export_folder
    with pytest.raises(SettingsError, match="a folder of hubflow's own"):
        run_predict(text_run, rows, folder / inside / "out.csv", overwrite=True)
    assert not (folder / inside / "out.csv").exists()


def test_a_planted_record_of_another_user_does_not_make_a_file_ones_own(tmp_path: Path) -> None:
    output = Output.named(str(tmp_path / "out.csv"), "output")
    with output.write() as stream:
        stream.write(b"x")
    record, elsewhere = output.record, tmp_path / "elsewhere"
    record.rename(elsewhere)
    record.symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="no run of this user's wrote it"):
        output.require_replaceable()
    record.unlink()
    for content in (b"", b"[]", b"{", b'{"written": [{}]}', b'{"written": 7}', b"[" * 60000, b"\xff"):
        record.write_bytes(content)
        with pytest.raises(SettingsError, match="no run of this user's wrote it"):
            output.require_replaceable()
    record.unlink()
    os.mkfifo(record)  # which nobody writes to
    with pytest.raises(SettingsError, match="no run of this user's wrote it"):
        output.require_replaceable()


@ONLY_ROOT
def test_the_output_of_another_user_is_not_replaced(text_run: Run) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as public:
        os.chmod(public, 0o777)  # noqa: S103  # for all
        output = Output.named(f"{public}/out.csv", "output")

        def write() -> str:
            with output.write() as stream:
                stream.write(str(os.geteuid()).encode())
            return output.path.read_text()

        assert as_user(2001, 0o022, write) == ("done", "2001")
        assert as_user(2001, 0o022, write) == ("done", "2001")
        outcome, message = as_user(2002, 0o022, write)
        assert (outcome, output.path.read_text()) == ("SettingsError", "2001"), message
        os.chmod(public, 0o1777)  # noqa: S103
        mine = Output.named(str(output.path), "output", overwrite=True)
        outcome, message = as_user(2002, 0o022, lambda: str(mine.require_replaceable()))
        assert (outcome, "sticky bit" in message) == ("SettingsError", True), message


def test_a_file_in_the_place_of_a_lock_or_a_record_is_kept(text_run: Run, rows: Path, tmp_path: Path) -> None:
    lock, record = tmp_path / ".out.csv.lock", tmp_path / ".out.csv.hubflow"
    lock.write_text("my own notes")
    with pytest.raises(StoreError, match=r"\.out\.csv\.lock: not a lock of hubflow's"):
        run_predict(text_run, rows, tmp_path / "out.csv")
    assert lock.read_text() == "my own notes"
    lock.unlink()
    run_predict(text_run, rows, tmp_path / "out.csv")
    record.unlink()
    record.mkdir()
    with pytest.raises(SettingsError, match=r"\.out\.csv\.hubflow is no file"):
        run_predict(text_run, rows, tmp_path / "out.csv", overwrite=True)


def test_predictions_of_one_name_have_a_quarantine_each(text_run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(BAD)
    run_predict(text_run, bad, tmp_path / "out.csv", max_invalid_fraction=0.5)
    good = write_reviews(tmp_path / "good.tsv", 4)
    run_predict(text_run, good, tmp_path / "out.parquet")
    assert (tmp_path / "out.csv.quarantine.parquet").is_file()


@pytest.mark.slow
def test_the_umask_decides_about_locks_and_a_wait_for_one_is_said(
    umask: Callable[[int], int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    umask(0o077)
    lock = tmp_path / "one.lock"
    with locked(lock):
        assert mode_of(lock) == 0o600
        waits = threading.Thread(target=lambda: locked(lock).__enter__(), daemon=True)
        waits.start()
        waits.join(3)
        assert waits.is_alive()
    waits.join(10)
    assert not waits.is_alive()
    assert f"{lock} is held by another process" in caplog.text


@pytest.mark.parametrize("path", ["a\x00b.csv", "~nosuchuser/x.csv"])
def test_a_path_that_is_none_is_refused_with_the_settings(path: str) -> None:
    for given in ({"export": "x", "data": "y", "output": path}, {"export": path, "data": "y"}):
        with pytest.raises(ValidationError, match=r"null character|no user of this machine"):
            PredictSettings.model_validate(given)
    for given in ({"store": path}, {"train": {"tracking": {"history": path}}}):
        report = check({"task": "text_classification", "data": {"format": "tsv", "train": "/nowhere"}, **given}, "run.yaml")
        assert any("null character" in fault or "no user of this machine" in fault for fault in report.faults), report.faults


def test_a_check_tells_of_a_history_that_may_not_be_replaced(tmp_path: Path) -> None:
    history = tmp_path / "mine.csv"
    history.write_text("mine")
    values = {
        "task": "text_classification",
        "data": {"format": "tsv", "train": "/nowhere"},
        "train": {"tracking": {"history": str(history)}},
    }
    assert any("mine.csv is there already" in fault for fault in check(values, "run.yaml").faults)


def test_the_command_has_an_option_to_overwrite(text_run: Run, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("mine")
    command = ["predict", str(text_run.export_folder), str(rows), "--output", str(output)]
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, output.read_text()) == (2, "mine")
    assert "--overwrite" in refused.output
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert output.read_text() != "mine"


def test_a_history_replaces_its_own_file_alone(tmp_path: Path) -> None:
    state = TrainState()
    tracker = HistoryFile(tmp_path / "history.csv")
    tracker.on_train_begin(state, 1)
    tracker.on_train_end(state)
    HistoryFile(tmp_path / "history.csv").on_train_begin(state, 1)  # of a run that goes on
    (tmp_path / "other.csv").write_text("mine")
    with pytest.raises(SettingsError, match=r"tracking\.history: .*other\.csv is there .* set tracking\.overwrite: true"):
        HistoryFile(tmp_path / "other.csv")
    HistoryFile(tmp_path / "other.csv", overwrite=True).on_train_begin(state, 1)
    (tmp_path / "link.csv").symlink_to(tmp_path / "other.csv")
    with pytest.raises(SettingsError, match="is a link to"):
        HistoryFile(tmp_path / "link.csv")
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


# The working folder, and names of drafts


def test_a_planted_link_or_file_in_the_place_of_the_parts_is_refused(text_run: Run, rows: Path, tmp_path: Path) -> None:
    target, planted = tmp_path / "target", tmp_path / ".out.csv.parts"
    target.mkdir()
    (target / "precious.rows.parquet").write_text("mine")
    planted.symlink_to(target)
    with pytest.raises(StoreError, match=r"\.out\.csv\.parts: is a link to .*target"):
        run_predict(text_run, rows, tmp_path / "out.csv")
    assert [path.name for path in target.iterdir()] == ["precious.rows.parquet"]
    planted.unlink()
    planted.write_text("mine")
    with pytest.raises(StoreError, match="or no folder"):
        run_predict(text_run, rows, tmp_path / "out.csv")
    assert planted.read_text() == "mine"


def test_a_planted_link_in_the_place_of_the_lock_is_not_followed(text_run: Run, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".out.csv.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(HubflowError):
        run_predict(text_run, rows, tmp_path / "out.csv")
    assert (tmp_path / "mine").read_text() == "mine"


@ONLY_ROOT
def test_another_user_in_a_folder_for_all_can_neither_lead_nor_be_led(text_run: Run, rows: Path) -> None:
    """What is planted below a sticky folder by one user, as /tmp is, for the predictions of another."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        public = Path(name)
        public.chmod(0o1777)
        planted = public / ".out.csv.parts"

        def plant() -> str:
            planted.mkdir(0o777)
            planted.chmod(0o777)
            return ""

        assert as_user(2001, 0o022, plant) == ("done", "")
        with pytest.raises(StoreError, match="is another user's"):
            run_predict(text_run, rows, public / "out.csv")
        assert list(planted.iterdir()) == []
        planted.rmdir()

        foreign = public / "out.csv"
        assert as_user(2001, 0o022, lambda: str(foreign.write_text("mine"))) == ("done", "4")

        def overwrite() -> str:
            with Output.named(str(foreign), "output", overwrite=True).write() as stream:
                stream.write(b"x")
            return ""

        outcome, message = as_user(2002, 0o022, overwrite)
        assert (outcome, "its sticky bit is set" in message) == ("SettingsError", True)
        assert foreign.read_text() == "mine"
        assert sorted(path.name for path in public.iterdir()) == ["out.csv"]
        assert (
            as_user(2002, 0o022, lambda: str(Output.named(str(foreign), "output").require_replaceable()))[0] == "SettingsError"
        )

        def plant_record() -> str:
            with Output.named(str(public / "other.csv"), "output").write() as stream:
                stream.write(b"mine")
            record = public / ".other.csv.hubflow"
            content = record.read_bytes()
            record.unlink()
            return content.decode()

        _, record = as_user(2001, 0o022, plant_record)
        assert as_user(2002, 0o022, lambda: str((public / ".other.csv.hubflow").write_text(record)))[0] == "done"
        with pytest.raises(SettingsError, match="no run of this user's wrote it"):
            Output.named(str(public / "other.csv"), "output").require_replaceable()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as public:
            os.chmod(public, 0o555)  # noqa: S103
            outcome, message = as_user(2001, 0o022, lambda: str(write_atomically(Path(public, "out.csv"), b"x")))
        assert (outcome, "out.csv could not be written" in message) == ("StoreError", True)
    else:
        tmp_path.chmod(0o555)
        with pytest.raises(StoreError, match=r"out\.csv could not be written"):
            write_atomically(tmp_path / "out.csv", b"x")


def test_names_of_drafts_cannot_be_guessed_and_are_new_entries(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        with atomic_file(tmp_path / "out.csv") as stream:
            (draft,) = (path.name for path in tmp_path.iterdir() if path.name != "out.csv")
            seen.add(draft)
            stream.write(b"x")
    assert len(seen) == 20
    assert all(str(os.getpid()) not in name or len(name) > 20 for name in seen)
    opened: list[int] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watching and str(arguments[0]).startswith(str(tmp_path)) and arguments[2] & os.O_CREAT:
            opened.append(arguments[2])

    watching = True
    sys.addaudithook(audit)
    write_atomically(tmp_path / "out.csv", b"x")
    watching = False
    assert opened
    assert all(flags & os.O_EXCL and flags & os.O_NOFOLLOW for flags in opened)


def test_two_writers_of_one_file_leave_one_whole(tmp_path: Path) -> None:
    output, faults = tmp_path / "out.bin", []

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                write_atomically(output, letter * 100_000)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = output.read_bytes()
    assert faults == []
    assert content in [letter * 100_000 for letter in (b"a", b"b", b"c")]
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'é' * 125}.json"
    write_atomically(path, b"{}")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


# Modes


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_the_umask_decides(mask: int, file: int, folder: int, umask: Callable[[int], int], tmp_path: Path) -> None:
    umask(mask)
    write_atomically(tmp_path / "a" / "file", b"x")
    with atomic_folder(tmp_path / "b" / "folder") as draft:
        save_weights(draft / "weights", {})
        (draft / "deep").mkdir()
    assert [mode_of(tmp_path / name) for name in ("a/file", "b/folder/weights")] == [file] * 2
    assert [mode_of(tmp_path / name) for name in ("a", "b/folder", "b/folder/deep")] == [folder] * 3


def test_the_folder_of_a_group_hands_its_group_down(umask: Callable[[int], int], tmp_path: Path) -> None:
    umask(0o002)
    tmp_path.chmod(0o2775)
    with atomic_folder(tmp_path / "folder"):
        pass
    assert mode_of(tmp_path / "folder") == 0o2775


@pytest.mark.parametrize(
    ("source", "expected"), [(0o600, 0o600), (0o644, 0o644), (0o444, 0o644), (0o640, 0o640), (0o400, 0o600)]
)
def test_predictions_and_their_quarantine_are_read_by_those_who_read_the_data(
    source: int, expected: int, text_run: Run, umask: Callable[[int], int], tmp_path: Path
) -> None:
    umask(0o022)
    data = tmp_path / "rows.tsv"
    data.write_text(BAD)
    data.chmod(source)
    output = run_predict(text_run, data, tmp_path / "out.csv")
    assert [mode_of(path) for path in (output, tmp_path / "out.csv.quarantine.parquet")] == [expected] * 2


@ONLY_ROOT
def test_data_of_another_group_is_not_given_to_ones_own(umask: Callable[[int], int], tmp_path: Path) -> None:
    umask(0o022)
    data = tmp_path / "rows.tsv"
    data.write_text("x")
    os.chown(data, 0, 3000)
    data.chmod(0o640)
    write_atomically(tmp_path / "copy", b"x", holds=[data])
    assert mode_of(tmp_path / "copy") == 0o600
    data.chmod(0o644)
    write_atomically(tmp_path / "copy", b"x", holds=[data])
    assert mode_of(tmp_path / "copy") == 0o644


def test_the_store_keeps_rows_for_those_who_may_read_them(umask: Callable[[int], int], text_run: Run, tmp_path: Path) -> None:
    umask(0o022)
    lines = ["text\tlabel", *(f"a {'fine' if n % 2 else 'dull'} film\t{n % 2}" for n in range(20)), " \t1"]
    data, store = tmp_path / "rows.tsv", tmp_path / "store"
    data.write_text("\n".join(lines) + "\n")
    spec = DatasetSpec.model_validate({"format": "tsv", "train": str(data), "max_invalid_fraction": 0.5})
    for mode, expected in ((0o600, 0o700), (0o644, 0o755)):
        data.chmod(mode)
        data.write_text(f"{data.read_text()}a fine film\t1\n")
        dataset = load_dataset.fn(spec, "text_classification", str(store))
        key = Path(dataset.path).name
        assert mode_of(store / dataset.path) == mode_of(store / "data-reports" / key) == expected
        assert mode_of(store / "quarantine" / key / "train.parquet") == expected & 0o666


def test_what_is_made_of_private_rows_is_private(umask: Callable[[int], int], text_run: Run, tmp_path: Path) -> None:
    umask(0o022)
    home = text_run.store
    dataset = home.open(text_run.dataset).folder
    before = mode_of(dataset)
    dataset.chmod(0o700)
    try:
        evaluation = evaluate.fn(
            text_run.checkpoint, text_run.encoded, text_run.settings.evaluate, str(home.root), "cpu", False
        )
        assert mode_of(home.root / evaluation.path) == 0o700
    finally:
        dataset.chmod(before)


@pytest.mark.slow
def test_a_profile_is_as_private_as_its_rows(umask: Callable[[int], int], rows: Path, tmp_path: Path) -> None:
    umask(0o022)
    for mode in (0o600, 0o644):
        rows.chmod(mode)
        store = tmp_path / f"store-{mode:o}"
        load_dataset(DatasetSpec(format="tsv", train=str(rows), dev_fraction=0), "text_classification", str(store))
        assert [mode_of(path) for path in (store / "profiles").glob("*/*.json")] == [mode]


# The output root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "allowed"
    root.mkdir()
    monkeypatch.setenv("HUBFLOW_TRUST_OUTPUT_ROOT", str(root))
    return root


def test_outputs_and_stores_outside_of_the_output_root_are_refused(
    text_run: Run, rows: Path, root: Path, tmp_path: Path
) -> None:
    (root / "link").symlink_to(tmp_path)
    outside = [tmp_path / "out.csv", root / ".." / "out.csv", root / "link" / "out.csv", Path(f"{root}-else") / "out.csv"]
    for output in outside:
        with pytest.raises(SettingsError, match=r"output: .*is outside of .*trust\.output_root"):
            run_predict(text_run, rows, output)
        with pytest.raises(SettingsError, match=r"tracking\.history: .*trust\.output_root"):
            HistoryFile(output)
        with pytest.raises(SettingsError, match=r"tracking\.tensorboard: .*trust\.output_root"):
            TensorBoardTracker(output.parent)
        with pytest.raises(SettingsError, match=r"store: .*trust\.output_root"):
            Store(output.parent)
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(SettingsError, match="output"):  # beside the data
        run_predict(text_run, rows, None)
    assert run_predict(text_run, rows, root / "deep" / "out.csv").is_file()
    assert Store(root / "store").root == root / "store"


def test_a_check_works_in_the_output_root(root: Path) -> None:
    report = check({"data": {"format": "tsv", "train": "/nowhere.tsv"}, "task": "text_classification"}, "here")
    assert not [fault for fault in report.faults if "hubflow-check" in fault]
    assert list(root.iterdir()) == []


# Formulas

FORMULAS = ['=HYPERLINK("http://x","y")', "+1+1", "-a", "@x", "\t=1", "\r=1", "＝1", "\ufeff=1", "\u200b+a"]
SAFE = ("a=1", "", "'=1", "-5", "+1.5e-3")
CELLS = [*FORMULAS, *SAFE]


def test_formulas_are_escaped_when_asked_and_stay_else(text_run: Run, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"text": ["a film"] * len(CELLS), "=note": CELLS, "number": [-1.5] * len(CELLS), "whole": [-7] * len(CELLS)}
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    plain = run_predict(text_run, tmp_path / "rows.parquet", tmp_path / "plain.csv")
    safe = run_predict(text_run, tmp_path / "rows.parquet", tmp_path / "safe.csv", escape_formulas=True)

    def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
        with path.open(encoding="utf-8", newline="") as stream:
            found = csv.DictReader(stream)
            return list(found.fieldnames or ()), list(found)

    (names, known), (safe_names, escaped) = read(plain), read(safe)
    assert [row["=note"] for row in known] == CELLS
    assert [name for name in names if name not in safe_names] == ["=note"]
    assert [row["'=note"] for row in escaped] == [cell if cell in SAFE else f"'{cell}" for cell in CELLS]
    for one, other in zip(known, escaped, strict=True):
        assert {name: value for name, value in one.items() if name != "=note"} == {
            name: value for name, value in other.items() if name != "'=note"
        }
