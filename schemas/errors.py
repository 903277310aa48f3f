"""Errors of the contracts, and the base of every error that hubflow raises on purpose."""

import errno
from collections.abc import Iterable
from pathlib import Path

from hubflow.schemas.text import printable

MAX_LISTED, MAX_ITEM_CHARS = 10, 300
OPEN_FILES_REMEDY = "allow more open files (`ulimit -n 1024`, or LimitNOFILE= of a systemd unit) and run the same again"


class HubflowError(Exception):
    """Base class: the message names what was expected, what was found and what to do.

    Attributes:
        quarantine: file, or folder with a file for each split, of the rows that broke their contract; None where none did.
            `hubflow.stages.data.quarantine.read_quarantine` takes it, or the error itself.
    """

    quarantine: Path | None = None

    def __str__(self) -> str:
        """The message, in which nothing of a file's name or content commands a terminal."""
        return printable(super().__str__())


class StoppedError(HubflowError):
    """Work was asked to stop, and can go on where it stopped: not a fault."""


class GivenUpError(HubflowError):
    """An onlooker ended work that is not worth going on with: nothing of it is kept. Not a fault."""


class OutOfMemoryError(HubflowError):
    """Memory ran out: change what the message names, or take more; what was made before is kept."""


class OpenFilesError(HubflowError):
    """More files than this process may have open are needed; the same run goes on where more are allowed."""


class SettingsError(HubflowError):
    """One or more settings are wrong; the message lists every fault."""


class ContractError(HubflowError):
    """Data that crosses a stage boundary breaks its contract; the message names file, row and remedy."""


class LabelMapError(HubflowError):
    """Two label maps that must be the same differ, or a label is not in the map."""


def with_remedy(error: OSError | str) -> str:
    """An error of the system as text, with what to do where it is the limit of open files."""
    limits = [f"[Errno {number}]" for number in (errno.EMFILE, errno.ENFILE)]
    return f"{error}; {OPEN_FILES_REMEDY}" if any(limit in str(error) for limit in limits) else str(error)


def bounded(items: Iterable[object], limit: int = MAX_LISTED) -> str:
    """Render `items` as a comma-separated list of at most `limit` entries, saying how many were left out."""
    listed = [text if len(text := str(item)) <= MAX_ITEM_CHARS else f"{text[:MAX_ITEM_CHARS]}…" for item in items]
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text}, … ({len(listed) - limit} more)"
