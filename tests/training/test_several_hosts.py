"""Training on several hosts gives what one gives; hosts may be lost, come back, or stay away; strangers are sent away."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, network_of_hosts
from object_storage import ObjectStorage, s3_server
from process_tree import wait_for, workers_of
from small_training import STEPS, Job, require_alike
from typer.testing import CliRunner

from hubflow.cli.main import app
from hubflow.errors import ContractError, RendezvousError, SettingsError
from hubflow.schemas.references import CheckpointRef
from hubflow.schemas.training import HostsSettings
from hubflow.stages.fine_tune import fine_tune
from hubflow.store.store import Store
from hubflow.training.callbacks import Callback
from hubflow.workers.hosts import KEY, Hosts, interface_of
from hubflow.workers.joining import join
from hubflow.workers.processes import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces of Linux")


class Onlooker(Callback):
    """A callback of one's own."""


SECRET = "a key for tests alone"
LEAD = "import sys; from test_several_hosts import lead; lead(*sys.argv[1:])"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)


def settings_of(port: int, count: int = 2, **others: Any) -> HostsSettings:
    return HostsSettings(**{"address": "127.0.0.1", "port": port, "count": count, "wait_seconds": 60, **others})


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


def lead(folder: str, hosts: str, steps: str, store: str) -> None:
    """Train on several hosts, as the one that leads, and write down which weights that gave."""
    logging.basicConfig(format="%(asctime)s %(message)s", force=True)
    logging.getLogger("hubflow").setLevel(logging.INFO)
    job = Job(Path(folder), checkpoints={"every_steps": 1}, max_steps=int(steps))
    task, encoded = job.prepare(store)
    found = fine_tune.fn(task, encoded, job.settings.train, store, 0, "cpu", hosts=HostsSettings(**json.loads(hosts)))
    (Path(folder) / "found.json").write_text(found.model_dump_json(), encoding="utf-8")


@contextmanager
def leader(
    folder: Path, hosts: HostsSettings, host: Host | None = None, store: str = ""
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", LEAD, str(folder), hosts.model_dump_json(), str(STEPS), store or str(folder / "several")]
    with running(command, folder / "leader.log", host) as process:
        yield process


@contextmanager
def joined(address: str, port: int, log: Path, host: Host | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    command = [str(Path(sys.executable).with_name("hubflow")), "join", f"{address}:{port}", "--wait", "90"]
    with running(command, log, host) as process:
        yield process


@contextmanager
def running(command: list[str], log: Path, host: Host | None) -> Iterator["subprocess.Popen[bytes]"]:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*(host.within if host else []), *command], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_checkpoint(folder: Path, first: "subprocess.Popen[bytes]") -> None:
    """Until the leading host has kept its second step, or has ended."""
    training = folder / "several" / "training"
    wait_for(lambda: list(training.glob("*/last-*2")) or first.poll() is not None, 200)


@contextmanager
def training_pair(port: int, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]]:
    """The process that leads and the one that has joined it, on loopback, after the second step."""
    with joined("127.0.0.1", port, folder / "joined.log") as other, leader(folder, settings_of(port)) as first:
        wait_for_checkpoint(folder, first)
        yield first, other


def require_same_as_one(folder: Path, store: Path | str = "") -> dict[str, Any]:
    """What the hosts trained is what one process trains; the facts that were kept of it."""
    store = store or folder / "several"
    found = CheckpointRef.model_validate_json((folder / "found.json").read_bytes())
    require_alike(folder / "one", Job(folder, checkpoints={"every_steps": 1}).run(folder / "one", 1), store, found)
    return dict(Store(store).open(found).facts)


@pytest.mark.slow
def test_two_hosts_give_what_one_gives(port: int, tmp_path: Path) -> None:
    with joined("127.0.0.1", port, tmp_path / "joined.log") as other, leader(tmp_path, settings_of(port)) as first:
        assert first.wait(200) == 0, (tmp_path / "leader.log").read_text()
        assert other.wait(20) == 0, (tmp_path / "joined.log").read_text()
    assert require_same_as_one(tmp_path)["num_processes"] == 2
    assert "the run of 127.0.0.1" in (tmp_path / "joined.log").read_text()


@pytest.mark.slow
def test_a_host_that_is_lost_and_comes_back_goes_on_from_the_weights_of_the_one_that_leads(port: int, tmp_path: Path) -> None:
    """Also where all have one address, as in tests: the checkpoint is on the host that leads alone."""
    with training_pair(port, tmp_path) as (first, other):
        os.killpg(other.pid, signal.SIGKILL)
        with joined("127.0.0.1", port, tmp_path / "again.log"):
            assert first.wait(200) == 0, (tmp_path / "leader.log").read_text()
    log = (tmp_path / "leader.log").read_text()
    assert "was lost: it cannot be reached any more" in log
    assert "going on after step" in log
    require_same_as_one(tmp_path)


@pytest.mark.soak
def test_a_rank_may_stand_still_for_longer_than_a_sum_waits(port: int, tmp_path: Path) -> None:
    """Where the others wait in a sum they begin again after 30 seconds; where they wait for an answer, they wait."""
    with training_pair(port, tmp_path) as (first, other):
        (rank,) = workers_of(other.pid)
        os.kill(rank, signal.SIGSTOP)
        time.sleep(40)
        with contextlib.suppress(ProcessLookupError):  # it was ended meanwhile
            os.kill(rank, signal.SIGCONT)
        assert first.wait(200) == 0, (tmp_path / "leader.log").read_text()
        assert other.wait(20) == 0, (tmp_path / "joined.log").read_text()
    require_same_as_one(tmp_path)


def test_an_error_of_another_host_names_the_host(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with joined("127.0.0.1", port, tmp_path / "joined.log") as other, Hosts(settings_of(port)) as hosts:
        hosts.gather()
        host = rf"host {re.escape(socket.gethostname())} \(127\.0\.0\.1\)"
        with pytest.raises(ContractError, match=rf"^{host}: row 3: expected a label, found nothing"):
            run("worker_targets:refuse_elsewhere", {"path": "x"}, hosts=hosts)
        assert hosts.seats
        wait_for(lambda: "part of the run failed: row 3" in (tmp_path / "joined.log").read_text(), 10)
        other.terminate()
        assert other.wait(20) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("hubflow-join-*"))


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "refused"},
        {"kind": "welcome"},
        {"kind": "welcome", "facts": {}, "proof": "é"},
        {"kind": "refused", "message": "go away"},
    ],
)
def test_who_stays_is_not_ended_by_what_answers_at_the_address(answer: dict[str, Any], port: int, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("hubflow")), "join", f"127.0.0.1:{port}", "--stay"]
    with socket.create_server(("127.0.0.1", port)) as stranger, running(command, tmp_path / "joined.log", None) as process:
        for _ in range(2):  # it comes again
            peer, _ = stranger.accept()
            with peer:
                peer.sendall(b'{"kind": "challenge", "nonce": "00"}\n')
                peer.recv(1 << 16)
                peer.sendall(json.dumps(answer).encode() + b"\n")
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_hosts_that_share_a_bucket_alone_train_together(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as address, ExitStack() as stack:
        bucket = ObjectStorage.prepared(address, tmp_path, monkeypatch)
        first = stack.enter_context(leader(tmp_path, settings_of(port), store=bucket.url))
        bucket.be("two")
        other = stack.enter_context(joined("127.0.0.1", port, tmp_path / "joined.log"))
        assert first.wait(200) == 0, (tmp_path / "leader.log").read_text()
        assert other.wait(20) == 0, (tmp_path / "joined.log").read_text()
        fetched = {path.name for path in Store(bucket.url).root.iterdir() if path.is_dir()}
        assert {"encoded", "modules", "tasks"} <= fetched
        assert not fetched & {"training", "checkpoints"}, "the host that leads writes alone"
        bucket.be("three")
        assert require_same_as_one(tmp_path, bucket.url)["num_processes"] == 2


@pytest.mark.parametrize(
    ("theirs", "versions", "said"),
    [("another key of theirs", {}, "is not the one"), (SECRET, {"hubflow": "0"}, "versions differ")],
)
def test_who_has_another_key_or_other_versions_cannot_join(
    theirs: str, versions: dict[str, str], said: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_gather(settings_of(port, wait_seconds=4)) as errors:
        monkeypatch.setenv(KEY, theirs)
        if versions:
            monkeypatch.setattr("hubflow.workers.joining.versions_here", lambda: versions)
        with pytest.raises(RendezvousError, match=said):
            join("127.0.0.1", port, wait_seconds=10)
    assert "1 of 2 hosts came together" in errors[0]


def test_who_joins_trusts_nobody_without_the_key(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as stranger:

        def answer() -> None:
            peer, _ = stranger.accept()
            with peer:
                peer.sendall(b'{"kind": "challenge", "nonce": "00"}\n')
                peer.recv(1 << 16)
                peer.sendall(b'{"kind": "welcome", "facts": {"ranks": 1}, "proof": "00"}\n')
                peer.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(RendezvousError, match="does not hold this host's key"):
            join("127.0.0.1", port, wait_seconds=5)
        thread.join(10)


@pytest.mark.parametrize(
    "said",
    [b"[" * 60_000 + b"\n", b"", b"GET / HTTP/1.1\r\n\r\n", b'{"kind": "hello"}\n', b'{"kind": 1, "nonce": [], "facts": 3}\n'],
)
def test_strangers_at_the_port_are_sent_away(said: bytes, port: int, caplog: pytest.LogCaptureFixture) -> None:
    with running_gather(settings_of(port, wait_seconds=3)) as errors:
        wait_for(lambda: _is_open(port), 5)
        with socket.create_connection(("127.0.0.1", port), 5) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1 << 16):
                pass
    assert "was sent away" in caplog.text
    assert "1 of 2 hosts came together" in errors[0]
    assert not _is_open(port)


def test_the_port_is_open_at_the_address_alone_while_hosts_are_waited_for(port: int) -> None:
    with running_gather(settings_of(port, wait_seconds=3)):
        wait_for(lambda: _is_open(port), 5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 1)
    assert not _is_open(port)


def test_too_few_hosts_and_wrong_settings_are_named(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RendezvousError, match=r"203\.0\.113\.9 is no address of this host; it has 127\.0\.0\.1 \(lo\)"):
        Hosts(settings_of(port, address="203.0.113.9"))
    with pytest.raises(RendezvousError, match=r"hosts\.address 'no\.such\.host\.invalid' has no IPv4 address"):
        Hosts(settings_of(port, address="no.such.host.invalid"))
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RendezvousError, match=rf"127\.0\.0\.1:{port} \(Address already"),
    ):
        Hosts(settings_of(port)).gather()
    with pytest.raises(RendezvousError, match="no run could be joined"):
        join("127.0.0.1", port, wait_seconds=0)
    job, store = Job(tmp_path), str(tmp_path / "store")
    task, encoded = job.prepare(Path(store))

    def train(device: str = "cpu", **others: Any) -> None:
        fine_tune.fn(task, encoded, job.settings.train, store, 0, device, hosts=settings_of(port), **others)

    with pytest.raises(SettingsError, match="each host trains in one process"):
        train(num_processes=2)
    with pytest.raises(SettingsError, match="found device 'auto'"):
        train("auto")
    with pytest.raises(SettingsError, match="a run of 2 hosts"):
        train(callbacks=(Onlooker(),))
    monkeypatch.setenv(KEY, "short")
    with pytest.raises(SettingsError, match=f"{KEY} has 5 characters"):
        Hosts(settings_of(port))
    monkeypatch.delenv(KEY)
    said = CliRunner().invoke(app, ["join", f"127.0.0.1:{port}"])
    assert said.exit_code == 2
    assert f"{KEY} is not set" in said.output
    assert CliRunner().invoke(app, ["join", "10.0.0.1:http"]).exit_code == 2


def test_a_run_begins_with_fewer_hosts_where_they_are_enough(port: int) -> None:
    hosts = Hosts(settings_of(port, min_count=1, wait_seconds=0.5))
    hosts.gather()
    assert hosts.seats == []
    assert interface_of("127.0.0.1") == "lo"


@contextmanager
def running_gather(settings: HostsSettings) -> Iterator[list[str]]:
    """Wait for hosts in another thread; the error that it ends with is in the list afterwards."""
    errors: list[str] = []
    with Hosts(settings) as hosts:

        def gather() -> None:
            try:
                hosts.gather()
            except RendezvousError as error:
                errors.append(str(error))

        thread = threading.Thread(target=gather, daemon=True)
        thread.start()
        yield errors
        thread.join(30)


def _is_open(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 3])
def test_hosts_in_a_network_give_what_one_gives_and_no_other_can_reach_them(count: int, tmp_path: Path) -> None:
    with network_of_hosts(count + 1) as hosts, ExitStack() as stack:
        *members, stranger = hosts
        address = members[0].address
        settings = settings_of(29500, count, address=address)
        for host in members[1:]:
            stack.enter_context(joined(address, 29500, tmp_path / "joined.log", host))
        first = stack.enter_context(leader(tmp_path, settings, members[0]))
        seen: set[str] = set()
        while first.poll() is None:
            seen |= _listening(members[0])
            time.sleep(0.02)
        assert first.returncode == 0, (tmp_path / "leader.log").read_text()
        assert stranger.address not in (tmp_path / "leader.log").read_text()
    open_to = {place.rpartition(":")[0] for place in seen}
    assert open_to <= {address, f"0.0.0.0%{members[0].device}", "0.0.0.0", "127.0.0.1"}, seen  # noqa: S104
    assert f"0.0.0.0%{members[0].device}" in open_to, "the store of Paddle is held to the network of the hosts"
    assert require_same_as_one(tmp_path)["num_processes"] == count


@pytest.mark.soak
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_host_that_is_lost_comes_back_or_the_run_goes_on_with_fewer(comes_back: bool, tmp_path: Path) -> None:
    with network_of_hosts(3) as hosts, ExitStack() as stack:
        address = hosts[0].address
        settings = settings_of(
            29500, 3, address=address, min_count=3 if comes_back else 2, wait_seconds=60 if comes_back else 15
        )
        others = [stack.enter_context(joined(address, 29500, tmp_path / "joined.log", host)) for host in hosts[1:]]
        first = stack.enter_context(leader(tmp_path, settings, hosts[0]))
        wait_for_checkpoint(tmp_path, first)
        os.killpg(others[1].pid, signal.SIGKILL)
        if comes_back:
            stack.enter_context(joined(address, 29500, tmp_path / "again.log", hosts[2]))
        assert first.wait(300) == 0, (tmp_path / "leader.log").read_text()
        assert others[0].wait(30) == 0, (tmp_path / "joined.log").read_text()
    log = (tmp_path / "leader.log").read_text()
    assert "was lost: it cannot be reached any more" in log
    assert "going on after step" in log
    assert require_same_as_one(tmp_path)["num_processes"] == (3 if comes_back else 2)


@pytest.mark.soak
def test_a_host_whose_cable_is_pulled_counts_as_lost(tmp_path: Path) -> None:
    with network_of_hosts(2) as hosts, ExitStack() as stack:
        address = hosts[0].address
        settings = settings_of(29500, 2, address=address, min_count=1, wait_seconds=20)
        stack.enter_context(joined(address, 29500, tmp_path / "joined.log", hosts[1]))
        first = stack.enter_context(leader(tmp_path, settings, hosts[0]))
        wait_for_checkpoint(tmp_path, first)
        subprocess.run([*hosts[1].within, "ip", "link", "set", hosts[1].device, "down"], check=True)
        assert first.wait(300) == 0, (tmp_path / "leader.log").read_text()
    assert "was lost: it cannot be reached any more" in (tmp_path / "leader.log").read_text()
    assert require_same_as_one(tmp_path)["num_processes"] == 1


def _listening(host: Host) -> set[str]:
    listed = subprocess.run([*host.within, "ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
    return {line.split()[3] for line in listed.splitlines()}
