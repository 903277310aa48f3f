"""A PostgreSQL cluster of a test's own, on loopback; `initdb` refuses root, so then it is the user `postgres` who runs it."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "of-a-test"
INSTALL = "PostgreSQL's programs are not here; on Debian: apt-get install postgresql"


@contextlib.contextmanager
def cluster(password: str) -> Iterator[int]:
    """A new cluster that asks for passwords, and that goes away afterwards; the user of this process is its administrator.

    Args:
        password: of the administrator.

    Returns:
        The port that it listens on.

    Raises:
        FileNotFoundError: PostgreSQL's programs are not installed.
        subprocess.CalledProcessError: a program of PostgreSQL failed.
    """
    tools = postgres_tools()
    if tools is None:
        raise FileNotFoundError(INSTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="hubflow-postgres-") as folder:
        written = Path(folder) / "password"
        written.write_text(password, encoding="utf-8")
        as_user: list[str] = []
        if os.geteuid() == 0:
            for path in (folder, written):
                shutil.chown(path, "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = f"{folder}/data"
        made = [*as_user, tools / "initdb", "-D", data, "-U", _me(), "--auth=scram-sha-256", f"--pwfile={written}"]
        subprocess.run(made, check=True, capture_output=True)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        started = [*as_user, tools / "pg_ctl", "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start"]
        subprocess.run(started, check=True, capture_output=True)
        try:
            yield port
        finally:
            subprocess.run([*as_user, tools / "pg_ctl", "-D", data, "-m", "fast", "stop"], check=True, capture_output=True)


def new_database(port: int) -> dict[str, str]:
    """Make an empty database in a cluster whose password is `PASSWORD`; gives libpq's variables for it."""
    import psycopg

    variables = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": _me(), "PGPASSWORD": PASSWORD}
    name = f"test_{uuid.uuid4().hex}"
    where = {"host": "127.0.0.1", "port": port, "user": _me(), "password": PASSWORD, "dbname": "postgres"}
    with psycopg.connect(**where, autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute(f"CREATE DATABASE {name}")
    return {**variables, "PGDATABASE": name}


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def postgres_tools() -> Path | None:
    """Folder of PostgreSQL's programs, which Debian does not put on the path; None where they are not installed."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), *filter(None, [shutil.which("initdb")])]
    return Path(found[0]).parent if found else None


def require_postgres() -> None:
    """Skip the test where PostgreSQL's programs are missing, or fail it where they are required."""
    if postgres_tools() is None:
        if os.environ.get("HUBFLOW_TEST_POSTGRESQL") == "required":
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
