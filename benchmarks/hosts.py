"""What a step costs on two hosts, by the speed of the link between them: network namespaces of this machine, a core each.

As root, with iproute2. MiniLM-L6 on SST-2, 32 rows a step. A step is what 20 more steps take (on slow links 5), so that
starting and evaluating are left out; bytes are those that the leading host's interface has sent. `--write` keeps the result.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import HERE, figures_of, versions, write_section
from training import TASKS, prepare, settings

sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))
from hosts import Host, network_of_hosts

LINKS = {"as fast as it goes": None, "1 Gbit/s": 1e9, "100 Mbit/s": 1e8}
SLOW = 2e8
"""Bits a second: below it fewer steps are enough."""
FIRST_STEPS = 3
PORT = 29500


def main() -> None:
    """Measure a step on one host and on two, and hold it to the arithmetic of the docs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    parser.parse_args()
    lines = ["| link | ms a step, one host | two hosts | MB sent a step | ms by arithmetic |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder, network_of_hosts(2) as hosts:
        given = settings(TASKS["sst2"], prepare(TASKS["sst2"], Path(folder), 1280)) | {"device": "cpu"}
        alone, _, _ = step(Path(folder), given, hosts[:1], None)
        free = None
        for name, rate in LINKS.items():
            for host in hosts if rate else []:
                limit = f"tc qdisc replace dev {host.device} root tbf rate {rate:.0f}bit burst 256kb latency 200ms"
                subprocess.run([*host.within, *limit.split()], check=True)
            seconds, sent, gradients = step(Path(folder), given, hosts, rate)
            free = free or seconds
            expected = "" if rate is None else f"{1000 * (free + 8 * gradients / rate):.0f}"
            lines.append(f"| {name} | {1000 * alone:.0f} | {1000 * seconds:.0f} | {sent / 1e6:.1f} | {expected} |")
            print(lines[-1], file=sys.stderr)
    about = (
        "By arithmetic: the step of the fast link, and the bits of the gradients (4 bytes for each weight), at the speed "
        f"of the link. {versions(['paddlepaddle'])}."
    )
    write_section("Several hosts", "uv run python " + " ".join(["benchmarks/hosts.py", *sys.argv[1:]]), [*lines, "", about])


def step(folder: Path, given: dict[str, Any], hosts: list[Host], rate: float | None) -> tuple[float, float, float]:
    """Seconds and bytes sent of a step, and the bytes of the gradients."""
    more = 5 if rate is not None and rate < SLOW else 20
    seconds, sent, figures = [], [], {}
    for steps in (FIRST_STEPS, FIRST_STEPS + more):
        config = folder / "settings.json"
        store = tempfile.mkdtemp(dir=folder)
        train = given["train"] | {"max_steps": steps, "preflight": False}
        config.write_text(json.dumps(given | {"store": store, "train": train}), encoding="utf-8")
        before = bytes_sent(hosts[0])
        figures = trained(config, hosts)
        seconds.append(figures["seconds"])
        sent.append(bytes_sent(hosts[0]) - before)
    return (seconds[1] - seconds[0]) / more, (sent[1] - sent[0]) / more, figures["gradient_bytes"]


def trained(config: Path, hosts: list[Host]) -> dict[str, Any]:
    """Train on the hosts, the first of which leads, a core each."""
    os.environ["HUBFLOW_HOSTS_KEY"] = "a key for measurements"
    command = [
        *hosts[0].within,
        "taskset",
        "-c",
        "0",
        sys.executable,
        __file__,
        "--child",
        str(config),
        hosts[0].address,
        str(len(hosts)),
    ]
    with joined(hosts[0], hosts[1:]):
        return figures_of(command, 1200)


@contextmanager
def joined(leader: Host, others: list[Host]) -> Iterator[None]:
    """The other hosts join; they end when the run is done."""
    hubflow = str(Path(sys.executable).with_name("hubflow"))
    processes = [
        subprocess.Popen(
            [*host.within, "taskset", "-c", str(number), hubflow, "join", f"{leader.address}:{PORT}"], stderr=subprocess.DEVNULL
        )
        for number, host in enumerate(others, start=1)
    ]
    try:
        yield
        for process in processes:
            process.wait(60)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def bytes_sent(host: Host) -> int:
    """What the host's interface has sent so far."""
    file = f"/sys/class/net/{host.device}/statistics/tx_bytes"
    return int(subprocess.run([*host.within, "cat", file], check=True, capture_output=True).stdout)


def child(config: str, address: str, count: int) -> None:
    """Seconds of the stage fine_tune, and the bytes of what is trained, as JSON."""
    import time

    from safetensors import safe_open

    from hubflow import stages
    from hubflow.schemas import FineTuneSettings, HostsSettings, load_settings

    given = load_settings(FineTuneSettings, config)
    store = given.store
    dataset = stages.load_dataset.fn(given.data, given.task, store)
    module = stages.load_module.fn(given.module, store)
    encoded = stages.encode_dataset.fn(dataset, module, given.module, store)
    task = stages.build_head.fn(given.task, module, dataset, given.module, given.head, store)
    hosts = HostsSettings(address=address, port=PORT, count=count) if count > 1 else None
    started = time.perf_counter()
    checkpoint = stages.fine_tune.fn(task, encoded, given.train, store, given.seed, given.device, hosts=hosts)
    seconds = time.perf_counter() - started
    with safe_open(f"{store}/{checkpoint.path}/model.safetensors", "np") as kept:
        size = sum(4 * kept.get_tensor(name).size for name in kept.keys())  # it is no dict
    sys.stdout.write(json.dumps({"seconds": seconds, "gradient_bytes": size}) + "\n")


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
