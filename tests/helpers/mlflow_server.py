"""A real server of MLflow on loopback, with tracking and a model registry, that may ask for a password."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = """
import os, sys
from werkzeug.serving import make_server
from mlflow.server import app

def guarded(environ, answer):
    if environ.get("HTTP_AUTHORIZATION", "") != os.environ["EXPECTED"]:
        answer("401 UNAUTHORIZED", [("Content-Type", "text/plain")])
        return [b"who are you?"]
    return app(environ, answer)

server = make_server("127.0.0.1", 0, guarded if os.environ.get("EXPECTED") else app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def mlflow_server(folder: Path, login: str = "") -> Iterator[str]:
    """Start a server whose data lies in `folder`; gives its address.

    Args:
        folder: that is there.
        login: `user:password` that the server asks for; none by default.
    """
    expected = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
    kept = {"_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db", "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder)}
    environment = {**os.environ, **kept, "MLFLOW_DISABLE_TELEMETRY": "true", "EXPECTED": expected}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVER], env=environment, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()
