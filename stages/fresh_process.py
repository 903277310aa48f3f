"""A fresh process that an export is proven in: started early, asked once, gone with the one that started it. No Paddle here."""

import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Self

from hubflow.schemas.export import ProofRequest
from hubflow.stages.hub.errors import ExportError

WORKER = "hubflow.stages.hub.proving"
LOG_CHARACTERS = 2000


class FreshProcess:
    """A process that imports what predicting needs while the export is still being written, and then answers one request.

    Its standard input is closed when this process ends, however it ends, and it ends with that.
    """

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", WORKER], stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        return self

    def ask(self, request: ProofRequest) -> None:
        """Have the request answered, in the folder that it names.

        Raises:
            ExportError: with the end of the process's log, when it does not end well.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it is gone already: its exit code and its log tell why
            pass
        code = self._process.wait()
        if code:
            raise ExportError(f"the process that tries the exported program ended with exit code {code}:\n{self._tail()}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._log.close()

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace").strip()[-LOG_CHARACTERS:]
