"""The temporary Prefect server: started only where nothing names another one, answering, gone with its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_tree import wait_for

from hubflow.orchestration.temporary_server import ASKED_BY

SCRIPT = """
import sys, urllib.error, urllib.request
from hubflow.errors import HubflowError
from hubflow.orchestration.temporary_server import TemporaryServer, is_nothing_configured
assert is_nothing_configured() and "prefect" not in sys.modules
server = TemporaryServer()
try:
    server.wait(120)
except HubflowError as error:
    sys.exit(str(error))
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(client.api_url == server.url + "/", client.hello().status_code)
server.stop()
try:
    urllib.request.urlopen(server.url + "/health")
except urllib.error.URLError:
    print("gone", is_nothing_configured())
"""


def run(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    usual = {name: value for name, value in os.environ.items() if name not in ASKED_BY}
    given = {**usual, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **environment}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=180
    )


@pytest.mark.integration
@pytest.mark.slow
def test_it_answers_prefect_and_is_gone_when_stopped(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.stdout.splitlines() == ["True 200", "gone False"], done.stderr


@pytest.mark.integration
@pytest.mark.slow
def test_one_that_ends_says_so_and_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////dev/null/no.db")
    assert done.returncode == 1
    assert "the temporary Prefect server ended with exit code" in done.stderr
    assert "prefect server start" in done.stderr


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell a process that its parent is gone")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_command_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    script = "import sys; from hubflow.orchestration.temporary_server import TemporaryServer; server = TemporaryServer(); "
    script += "server.wait(120); print(server._process.pid, flush=True); sys.stdin.readline()"
    environment = {name: value for name, value in os.environ.items() if name not in ASKED_BY} | {"PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        process.send_signal(number)
    wait_for(lambda: not Path(f"/proc/{server}").exists(), 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [("prefect.toml", ""), (".env", "PREFECT_API_URL=http://a"), ("pyproject.toml", "[tool.prefect]"), ("p/profiles.toml", "")],
)
def test_where_a_file_may_name_a_server_prefect_itself_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    script = "from hubflow.orchestration.temporary_server import is_nothing_configured; print(is_nothing_configured())"
    for one in ASKED_BY:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "p"))
    (tmp_path / "p").mkdir()

    def asked() -> str:
        return subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert asked() == "True\n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert asked() == "False\n"
