"""A ledger of hashed keys: a bounded part in memory, the rest on disk by key. Must not import Paddle or Prefect."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hubflow.errors import StoreError

PARTS = 64
RECORD = np.dtype([("key", "u8"), ("exact", "u4"), ("label", "u4"), ("row", "i8"), ("split", "u1")])
"""25 bytes: hash of what is compared, a second hash under which it is exactly the same, label, row number, split."""
Records = NDArray[np.void]


class HashIndex:
    """Records to be compared by key, appended chunk by chunk.

    Up to `in_memory` records wait in memory; more are moved to files, one for each of PARTS ranges of keys, so that records
    of one key always come together and at most one part has to be in memory.
    """

    def __init__(self, in_memory: int = 1_000_000, scratch: Path | None = None) -> None:
        self._in_memory, self._scratch = in_memory, scratch
        self._waiting: list[Records] = []
        self._count = 0
        self._files: list[IO[bytes]] = []

    def add(self, records: Records) -> None:
        """Take records in the order of their rows.

        Raises:
            StoreError: when the temporary files cannot be written.
        """
        self._waiting.append(records)
        self._count += len(records)
        if self._count > self._in_memory:
            try:
                self._spill()
            except OSError as error:
                folder = self._scratch or tempfile.gettempdir()
                raise StoreError(f"{folder}: hashes of rows cannot be kept there ({error}); free it, or set TMPDIR") from error

    def parts(self) -> Iterator[Records]:
        """Every record, all those of one key in one part, in the order in which they were added."""
        if not self._files:
            yield np.concatenate(self._waiting or [np.zeros(0, RECORD)])
            return
        self._spill()
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), RECORD)

    def _spill(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile(dir=self._scratch) for _ in range(PARTS)]
        records = np.concatenate(self._waiting or [np.zeros(0, RECORD)])
        part = (records["key"] % np.uint64(PARTS)).astype(np.uint8)
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=PARTS))
        for file, rows in zip(self._files, np.split(order, ends[:-1]), strict=True):
            file.write(records[rows].tobytes())
        self._waiting, self._count = [], 0
