"""Kills or disturbs whole nightly runs at any moment, runs them again until they end, and checks what they leave.

    uv run python tests/night_faults.py --runs 200 --store local --seed 7
    uv run python tests/night_faults.py --runs 200 --store s3 --seed 7
    uv run python tests/night_faults.py --runs 20 --fault disk

A series is of several nights with changing data over one store: models are promoted and rejected, rows are quarantined. A place
and an occurrence of it, or a moment of the night, is drawn, and the fault comes there:

- `kill`: SIGKILL to all processes of the night at once, or to one of them.
- `stop`: SIGSTOP to all processes, and SIGCONT some seconds later.
- `files`: few files can be open from the beginning.
- `memory`: little memory from the beginning, by a cgroup (version 2) where one can be made, else by address space.
- `clock`: the clock is set back for the night's processes alone, once or several times.
- `disk`: the store's disk becomes full (a tmpfs, which only root can mount).
- `s3-500`: the storage answers 500 or 503, or half a body, or does what it is asked and does not answer.
- `network`: the storage does not answer any more.

After each start the store must hold nothing half-written that counts as whole, the deployed pointer must be the one before the
night or the one after it, no process may be alive and no lock held; an error must be one of hubflow's. When the night has ended
without a fault, every artifact, the pointer and the histories must equal those of the undisturbed series; only times and what
is derived from times may differ. At the end an unchanged night is skipped, and pruning leaves no temporary file.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "helpers"))

import own_clock
from faulty_storage import BUSY, HALF, INTERNAL, LOST, NAMES, PASS, SILENT, FaultyStorage
from night_runs import (
    AFTER,
    ANY_MOMENT,
    BEFORE,
    DURING,
    FINISHED,
    KILLED,
    PLACES,
    REFUSED,
    REMOTE_PLACES,
    STEP,
    Ending,
    Start,
    Strike,
    descendants,
    parent_of,
    send_signal,
)
from night_stores import NAME, Home, compared, faults_in_store, leftovers, state_of

TREE, MAIN, WORKER, SERVER = "all processes", "the main process", "a worker", "the worker server"
VICTIMS = (TREE, TREE, TREE, TREE, TREE, MAIN, MAIN, WORKER, SERVER)
ANY_MOMENT_FRACTION = 0.25
GONE_WITHIN_SECONDS = 15
MOST_STARTS = 8
OPEN_FILES = 64
LONG = 1_000_000
LONGEST_SECONDS = {"network": 1200.0}
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class NightlyRun:
    """The data and the gate of one night of a series."""

    train: int
    dev: int
    test: int
    damaged: int
    min_gain: float
    outcome: str

    def __str__(self) -> str:
        return f"the night of {self.train} rows"


NIGHTS = (
    NightlyRun(train=60, dev=20, test=31, damaged=1, min_gain=-1.0, outcome="promoted"),
    NightlyRun(train=72, dev=22, test=31, damaged=0, min_gain=-1.0, outcome="promoted"),
    NightlyRun(train=64, dev=20, test=33, damaged=2, min_gain=0.9, outcome="rejected"),
    NightlyRun(train=80, dev=24, test=35, damaged=1, min_gain=-1.0, outcome="promoted"),
)


def write_data(folder: Path, night: NightlyRun) -> None:
    """The night's tables, in the same places every night."""
    from runs import write_reviews

    for split, rows in (("train", night.train), ("dev", night.dev), ("test", night.test)):
        path = write_reviews(folder / f"{split}.tsv", rows)
        if split == "train":
            with path.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{900 + number}\t\t1\n" for number in range(night.damaged))


def settings_of(home: Home, data: Path, module: Path, night: NightlyRun) -> dict[str, Any]:
    """Settings of the night."""
    return {
        "name": NAME,
        "task": "text_classification",
        "module": {"name": str(module), "max_seq_len": 16},
        "data": {
            "format": "tsv",
            **{split: str(data / f"{split}.tsv") for split in ("train", "dev", "test")},
            "max_invalid_fraction": 0.5,
        },
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "checkpoints": {"every_steps": 2}},
        "store": home.address,
        "device": "cpu",
        "sample_rows": 5,
        "gate": {"min_gain": night.min_gain, "resamples": 200},
    }


@dataclass(frozen=True)
class Disturbance:
    """What is done to one start of a night.

    Attributes:
        told: in words.
        strike: when; None for what is there from the beginning.
        act: what the parent does at the strike, with the id of the main process.
        in_child: done in the main process before it begins.
        end: done when the start has ended.
        endings: that may come of it.
    """

    told: str
    strike: Strike | None = None
    act: Callable[[int], None] = lambda child: None
    in_child: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None
    endings: tuple[str, ...] = (FINISHED, REFUSED)


NOTHING = Disturbance("nothing", endings=(FINISHED,))


@dataclass(frozen=True)
class Services:
    """What runs beside the nights: Prefect's server, a server that speaks S3, and a proxy before it."""

    running: list["subprocess.Popen[bytes]"]
    endpoint: str | None
    proxy: FaultyStorage | None

    @classmethod
    def started(cls, folder: Path, store: str, fault: str) -> "Services":
        """Start them, before this process has imported anything that has threads."""
        os.environ.update(
            PREFECT_HOME=str(folder / "prefect"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_LOGGING_LEVEL="WARNING",
            PREFECT_API_REQUEST_TIMEOUT="120",
            TOKENIZERS_PARALLELISM="false",
            AWS_EC2_METADATA_DISABLED="true",
        )
        os.environ.pop("LD_PRELOAD", None)  # of the clock, which is that of the nights alone
        from hubflow.orchestration.temporary_server import TemporaryServer

        server = TemporaryServer()
        running, endpoint, proxy = [server._process], None, None
        if store == "s3":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            endpoint = f"http://127.0.0.1:{port}"
            program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
            with (folder / "s3.log").open("wb") as log:
                running.append(subprocess.Popen([sys.executable, "-c", program], stdout=log, stderr=log))
            if fault in ("s3-500", "network"):
                proxy = FaultyStorage("127.0.0.1", port)
        services = cls(running, endpoint, proxy)
        try:
            if endpoint is not None:
                _wait_for_port(port)
            server.wait(600)
        except BaseException:
            services.stop()
            raise
        return services

    @property
    def pids(self) -> set[int]:
        """Their processes."""
        return {process.pid for process in self.running} | ({self.proxy.pid} if self.proxy else set())

    def stop(self) -> None:
        """End them."""
        for process in self.running:
            process.terminate()
            process.wait()
        if self.proxy is not None:
            send_signal(self.proxy.pid, signal.SIGKILL)


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + 600
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < until, "the server that speaks S3 does not answer"
        time.sleep(0.1)


@dataclass(frozen=True)
class Faults:
    """Draws disturbances of one kind."""

    kind: str
    draw: random.Random
    proxy: FaultyStorage | None

    def next(self, home: Home, whole: Ending) -> Disturbance:
        """Draw one for a night that takes as long, and comes as often to each place, as the undisturbed one."""
        found: Disturbance = getattr(self, f"_{self.kind.replace('-', '_')}")(home, whole)
        return found

    def _kill(self, home: Home, whole: Ending) -> Disturbance:
        victim = self.draw.choice(VICTIMS)

        def kill(child: int) -> None:
            for pid in victims(child, victim):
                send_signal(pid, signal.SIGKILL)

        return Disturbance(f"SIGKILL to {victim}", self._strike(whole), kill, endings=(FINISHED, REFUSED, KILLED))

    def _stop(self, home: Home, whole: Ending) -> Disturbance:
        seconds = self.draw.uniform(0.2, 8)

        def stop(child: int) -> None:
            stopped = [child, *descendants(child)]
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in stopped:
                    send_signal(pid, number)
                time.sleep(seconds if number == signal.SIGSTOP else 0)

        return Disturbance(f"SIGSTOP for {seconds:.1f} s", self._strike(whole), stop, endings=(FINISHED,))

    def _files(self, home: Home, whole: Ending) -> Disturbance:
        count = self.draw.choice((OPEN_FILES, OPEN_FILES, self.draw.randint(24, OPEN_FILES)))
        limit = (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        return Disturbance(f"{count} open files", in_child=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))

    def _memory(self, home: Home, whole: Ending) -> Disturbance:
        size = self.draw.randint(100, 700) << 20  # with less Prefect itself starts no thread
        limit = memory_limit() if self.draw.random() < 0.5 else None
        if limit is not None:
            limit.write_text(str(size))

            def join() -> None:
                (limit.parent / "cgroup.procs").write_text(str(os.getpid()))

            # The system ends a process, and it chooses which.
            endings = (FINISHED, REFUSED, KILLED)
            told = "a cgroup's memory"
            return Disturbance(told, in_child=join, endings=endings, end=lambda: _remove_cgroup(limit.parent))

        def bound() -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + size
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))

        return Disturbance("little address space", in_child=bound)

    def _clock(self, home: Home, whole: Ending) -> Disturbance:
        hours = self.draw.choice((0.01, 1.0, 25.0, 24.0 * 40))
        return Disturbance(
            f"the clock set back by {hours} h",
            self._strike(whole),
            lambda child: own_clock.set_clock(own_clock.seconds_ahead() - int(hours * 3600)),
            endings=(FINISHED,),
        )

    def _disk(self, home: Home, whole: Ending) -> Disturbance:
        return Disturbance("a full disk", self._strike(whole), lambda child: home.fill_disk(), end=home.free_disk)

    def _s3_500(self, home: Home, whole: Ending) -> Disturbance:
        kind = self.draw.choice((INTERNAL, BUSY, HALF, LOST))
        count = self.draw.choice((1, 1, 2, 4, LONG))
        return self._storage(whole, kind, count)

    def _network(self, home: Home, whole: Ending) -> Disturbance:
        return self._storage(whole, SILENT, LONG)

    def _storage(self, whole: Ending, kind: int, count: int) -> Disturbance:
        proxy = self.proxy
        assert proxy is not None
        times = "from then on" if count == LONG else f"{count} times"
        strike = self._strike(whole, REMOTE_PLACES)
        return Disturbance(
            f"{NAMES[kind]} of the storage, {times}",
            strike,
            lambda child: proxy.fail(kind, count),
            end=lambda: proxy.fail(PASS, 0),
        )

    def _strike(self, whole: Ending, places: Sequence[str] = PLACES) -> Strike:
        draw = self.draw
        if draw.random() < ANY_MOMENT_FRACTION:
            return Strike(ANY_MOMENT, 0, DURING, draw.uniform(0, whole.seconds))
        place = draw.choice([place for place in places if whole.counts[place]])
        when = draw.choice((BEFORE, AFTER, DURING) if place in (*REMOTE_PLACES, STEP) else (BEFORE, AFTER))
        return Strike(place, draw.randint(1, whole.counts[place]), when, draw.uniform(0, 0.05))


def victims(child: int, victim: str) -> list[int]:
    """Processes to kill; where there is none of the kind, all of them."""
    below = descendants(child)
    servers = [pid for pid in below if parent_of(pid) == child]
    workers = [pid for pid in below if parent_of(pid) in servers]
    chosen = {MAIN: [child], SERVER: servers[:1], WORKER: workers[-1:]}.get(victim, [])
    return chosen or [child, *below]


def memory_limit() -> Path | None:
    """The file of the limit of a new cgroup for memory; None where this process cannot make one."""
    root = Path("/sys/fs/cgroup")
    for above, name in ((root, "memory.max"), (root / "memory", "memory.limit_in_bytes")):
        limit = above / f"hubflow-night-{os.getpid()}" / name
        with contextlib.suppress(OSError):
            limit.parent.mkdir(exist_ok=True)
            if limit.exists():
                return limit
            limit.parent.rmdir()
    return None


def _remove_cgroup(group: Path) -> None:
    until = time.monotonic() + GONE_WITHIN_SECONDS
    while group.exists():
        try:
            group.rmdir()
        except OSError:  # a process of it has not ended yet
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def reason_to_skip(store: str, fault: str) -> str | None:
    """Why a fault cannot be had here; None when it can."""
    if fault in ("s3-500", "network") and store != "s3":
        return f"--fault {fault} is for --store s3"
    if fault == "disk" and (store == "s3" or os.geteuid() != 0):
        return "--fault disk is for --store local, and only root can mount a tmpfs"
    if fault == "clock" and own_clock.compiler() is None:
        return "--fault clock needs a C compiler (on Debian: apt-get install gcc)"
    return None


@dataclass(frozen=True)
class Reference:
    """The undisturbed series: the state after each night, what is in use then, and how long and how often at each place."""

    states: list[dict[str, Any]]
    in_use: list[str]
    endings: list[Ending]


@dataclass
class Tally:
    """What came of the nights."""

    told: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    nights: int = 0
    starts: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def disturbed(self) -> int:
        """How many starts a disturbance came to."""
        return self.told.total()

    def add(self, disturbance: Disturbance, ending: Ending) -> None:
        """Count a start."""
        self.ends[ending.kind] += 1
        if disturbance is NOTHING or (disturbance.strike is not None and not ending.was_struck):
            return  # it ended before
        strike = disturbance.strike
        self.told[disturbance.told.split(" for ")[0]] += 1
        self.stages[ending.stage] += 1
        if strike is not None:
            self.places[strike.place if strike.place == ANY_MOMENT else f"{strike.when} {strike.place}"] += 1
        if ending.text:
            self.errors[ending.text.split(":")[0]] += 1

    def fault(self, text: str) -> None:
        """Note one, and say it at once."""
        self.faults.append(text)
        print(f"fault: {text}", file=sys.stderr, flush=True)

    def table(self) -> str:
        """For people."""
        counters = {
            "disturbed by": self.told,
            "struck": self.places,
            "the start ended in stage": self.stages,
            "a start": self.ends,
            "error": self.errors,
        }
        parts = []
        for title, counter in counters.items():
            rows = "\n".join(f"| {name} | {count} |" for name, count in counter.most_common())
            parts.append(f"| {title} | times |\n|---|---|\n{rows}\n")
        faults = "".join(f"\n  - {one}" for one in self.faults) or " none"
        summary = f"{self.nights} nights, disturbed {self.disturbed} times, started {self.starts} times"
        return "\n".join([*parts, f"{summary}; {len(self.faults)} faults:{faults}"])


@dataclass
class Harness:
    """Series of nights over new stores."""

    folder: Path
    services: Services
    faults: Faults
    nights: Sequence[NightlyRun]
    tally: Tally = field(default_factory=Tally)
    _number: int = 0

    def reference(self) -> Reference:
        """Run the series undisturbed.

        Raises:
            AssertionError: when a night does not end as it should.
        """
        home = self._new_home()
        states, in_use, endings = [], [], []
        for night in self.nights:
            write_data(self.folder / "data", night)
            ending = self._start(home, night, NOTHING)
            assert ending.result.get("outcome") == night.outcome, f"{ending}; {home.folder / 'log'}"
            states.append(state_of(home.files()))
            in_use.append(ending.result["deployed"])
            endings.append(ending)
            found = [*wait_for_silence(self.services.pids), *faults_in_store(home, [in_use[-1]], states[-1])]
            assert not found, found
        home.remove()
        return Reference(states, in_use, endings)

    def disturb_series(self, reference: Reference, runs: int, most: int) -> None:
        """Run a series whose nights are disturbed until `runs` starts of nights have been, each up to `most` times."""
        home, before, had = self._new_home(), None, len(self.tally.faults)
        for number, night in enumerate(self.nights):
            write_data(self.folder / "data", night)
            in_use = reference.in_use[number]
            count = min(self.faults.draw.randint(1, most), runs - self.tally.disturbed)
            self._disturb_night(home, night, count, (before, in_use), reference.states[number], reference.endings[number])
            before = in_use
        self._close(home, reference)
        if len(self.tally.faults) == had:
            home.remove()

    def _disturb_night(
        self,
        home: Home,
        night: NightlyRun,
        count: int,
        allowed: Sequence[str | None],
        expected: Mapping[str, Any],
        whole: Ending,
    ) -> None:
        self.tally.nights += 1
        told: list[str] = []
        for attempt in range(MOST_STARTS):
            disturbance = self.faults.next(home, whole) if attempt < count else NOTHING
            ending = self._start(home, night, disturbance)
            self.tally.add(disturbance, ending)
            told.append(f"{disturbance.told} {disturbance.strike or ''}: {ending.kind} in {ending.stage}")
            found = [*wait_for_silence(self.services.pids), *faults_in_store(home, allowed, expected)]
            if ending.kind not in disturbance.endings:
                found.append(f"it {ending.kind}: {ending.text}")
            for fault in found:
                self.tally.fault(f"{home.folder.name}, {night}: {' / '.join(told)}: {fault}")
            home.age_hidden()
            if ending.kind == FINISHED:
                break
        else:
            self.tally.fault(f"{home.folder.name}, {night}: {' / '.join(told)}: the night never ended")
            return
        for difference in compared(state_of(home.files()), expected):
            self.tally.fault(f"{home.folder.name}, {night}: {' / '.join(told)}: {difference}")

    def _close(self, home: Home, reference: Reference) -> None:
        """An unchanged night is skipped, and pruning leaves nothing temporary."""
        found = []
        ending = self._start(home, self.nights[-1], NOTHING)
        if ending.result.get("outcome") != "skipped":
            found.append(f"an unchanged night was not skipped: {ending}")
        found += wait_for_silence(self.services.pids)
        home.age_hidden()
        if not home.is_remote:
            _in_child(lambda: _prune(home.address))
        left = [path for root in home.roots() for path in leftovers(root)] if not home.is_remote else []
        left += [path for path in home.files() if path.startswith(".")] if home.is_remote else []
        if left:
            found.append(f"temporary files and folders are left: {left}")
        found += faults_in_store(home, [reference.in_use[-1]], reference.states[-1])
        for fault in found:
            self.tally.fault(f"{home.folder.name}, at the end: {fault}")

    def _start(self, home: Home, night: NightlyRun, disturbance: Disturbance) -> Ending:
        self.tally.starts += 1
        machine = f"machine-{self.faults.draw.randint(0, 1)}"
        settings = settings_of(home, self.folder / "data", self.folder / "bert", night)
        start = Start(
            settings,
            home.environment(machine),
            home.folder / "log",
            disturbance.strike,
            disturbance.act,
            disturbance.in_child,
            LONGEST_SECONDS.get(self.faults.kind, 400),
        )
        try:
            return start.run()
        finally:
            disturbance.end()

    def _new_home(self) -> Home:
        self._number += 1
        if own_clock.is_there():
            own_clock.set_clock(0)
        proxy, folder = self.services.proxy, self.folder / f"series-{self._number}"
        return Home.made(folder, self.services.endpoint, proxy.url if proxy else None, self.faults.kind == "disk")


def wait_for_silence(services: set[int]) -> list[str]:
    """Faults: processes of the night that are alive though their main process is gone; they are ended."""
    until = time.monotonic() + GONE_WITHIN_SECONDS
    while left := [pid for pid in descendants(os.getpid()) if not _is_service(pid, services)]:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > until:
            for pid in left:
                send_signal(pid, signal.SIGKILL)
            return [f"{len(left)} process(es) are alive {GONE_WITHIN_SECONDS} s after the main process: {left}"]
        time.sleep(0.02)
    return []


def _is_service(pid: int, services: set[int]) -> bool:
    while pid is not None and pid > 1:
        if pid in services:
            return True
        above = parent_of(pid)
        if above is None:
            return False
        pid = above
    return False


def _prune(address: str) -> None:
    from hubflow.deployment.pruning import prune
    from hubflow.schemas.deployment import PruneSettings

    prune(PruneSettings(keep_last=100, min_age_days=0), address)


def _in_child(function: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def import_everything() -> None:
    """What a night needs, so that its child begins at once."""
    from hubflow.workers.server import PRELOADED, PRELOADED_WHILE_IDLE

    for module in ("hubflow.flows.nightly", "hubflow.inference.predictor", "boto3", "s3fs", *PRELOADED, *PRELOADED_WHILE_IDLE):
        importlib.import_module(module)
    from hubflow.runtime import paddle_import as runtime

    assert runtime.paddle.__version__  # which imports it


def main() -> int:
    """Disturb nights, print what came of them, and end with 1 when there was a fault."""
    kinds = ("kill", "stop", "files", "memory", "clock", "disk", "s3-500", "network")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="how many starts of nights are disturbed")
    parser.add_argument("--store", choices=("local", "s3"), default=None, help="where the store lies")
    parser.add_argument("--fault", choices=kinds, default="kill", help="what comes to the nights")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: places, moments, delays")
    parser.add_argument("--most", type=int, default=3, help="how often one night is disturbed at most")
    parser.add_argument("--nights", type=int, default=len(NIGHTS), help="how many nights a series has")
    parser.add_argument("--folder", type=Path, default=None, help="where the stores are kept; a temporary one by default")
    options = parser.parse_args()
    store = options.store or ("s3" if options.fault in ("s3-500", "network") else "local")
    if reason := reason_to_skip(store, options.fault):
        print(f"skipped: {reason}")
        return 0
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    has_clock = own_clock.is_there()
    folder = own_clock.folder() if has_clock else Path(tempfile.mkdtemp(prefix="nights.", dir=options.folder))
    if options.fault == "clock" and not has_clock:
        own_clock.begin_again(folder)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what outlives a night is found below this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    services = Services.started(folder, store, options.fault)
    try:
        import_everything()
        from runs import WORDS
        from small_modules import make_tiny_bert

        faults = Faults(options.fault, random.Random(options.seed), services.proxy)  # noqa: S311
        harness = Harness(folder, services, faults, NIGHTS[: options.nights])
        (folder / "data").mkdir()
        make_tiny_bert(folder / "bert", WORDS)
        started = time.monotonic()
        reference = harness.reference()
        print(f"undisturbed nights took {[round(one.seconds, 1) for one in reference.endings]} s", flush=True)
        tally = harness.tally
        while tally.disturbed < options.runs:
            harness.disturb_series(reference, options.runs, options.most)
            print(f"disturbed {tally.disturbed} times, {len(tally.faults)} faults", file=sys.stderr, flush=True)
    finally:
        services.stop()
    print(f"{tally.table()}\n{time.monotonic() - started:.0f} s, seed {options.seed}, {store}, {options.fault}")
    if tally.faults:
        print(f"what they left is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
