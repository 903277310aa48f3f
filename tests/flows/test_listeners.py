"""What listens while hubflow works: nothing that another host can reach."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from listeners import beyond_loopback, listeners_below, observed
from prefect_database import prepare_prefect_home
from runs import WORDS, text_settings
from small_modules import make_tiny_bert

from hubflow.orchestration.temporary_server import ASKED_BY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_the_scan_sees_what_other_hosts_can_reach() -> None:
    with socket.socket() as open_to_all, socket.socket() as loopback, socket.socket(socket.AF_INET6) as six:
        for one, address in ((open_to_all, "0.0.0.0"), (loopback, "127.0.0.1"), (six, "::")):  # noqa: S104
            one.bind((address, 0))
            one.listen()
        seen = listeners_below(os.getpid())
        ports = {port for _, _, port in beyond_loopback(seen)}
        assert {open_to_all.getsockname()[1], six.getsockname()[1]} <= ports
        assert loopback.getsockname()[1] not in ports
        assert ("tcp", "127.0.0.1", loopback.getsockname()[1]) in seen


@pytest.mark.soak
def test_a_fine_tune_in_two_processes_listens_on_loopback_alone(tmp_path: Path) -> None:
    """The whole flow by the command line, with the temporary Prefect server; the ranks themselves listen nowhere."""
    settings = text_settings(tmp_path, make_tiny_bert(tmp_path / "bert", WORDS), num_processes=2)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    usual = {name: value for name, value in os.environ.items() if name not in ASKED_BY}
    given = {
        **usual,
        "PREFECT_HOME": str(prepare_prefect_home(tmp_path / "prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [str(Path(sys.executable).with_name("hubflow")), "fine-tune", str(file)]
    with (
        (tmp_path / "output").open("w+b") as output,
        subprocess.Popen(command, cwd=tmp_path, env=given, stdout=output, stderr=output) as run,
        observed(run.pid) as seen,
    ):
        assert run.wait(500) == 0, (tmp_path / "output").read_text()
    assert beyond_loopback(seen) == set()
    assert len({port for _, _, port in seen}) == 1, f"the temporary Prefect server's alone, but there were {seen}"


def test_the_scan_of_a_run_sees_a_port_that_is_open_for_a_moment() -> None:
    code = "import socket, time\nwith socket.create_server(('', 0)):\n    time.sleep(0.5)"
    with subprocess.Popen([sys.executable, "-c", code]) as child, observed(child.pid) as seen:
        assert child.wait(60) == 0
    assert len(beyond_loopback(seen)) == 1
