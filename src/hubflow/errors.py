"""Every error that hubflow raises on purpose, under one base class, and how lists and remedies are written in messages."""

import errno
from collections.abc import Iterable
from pathlib import Path

from hubflow.text import printable

MAX_LISTED, MAX_ITEM_CHARS = 10, 300
OPEN_FILES_REMEDY = "allow more open files (`ulimit -n 1024`, or LimitNOFILE= of a systemd unit) and run the same again"


def with_remedy(error: OSError | str) -> str:
    """An error of the system as text, with what to do where it is the limit of open files."""
    limits = [f"[Errno {number}]" for number in (errno.EMFILE, errno.ENFILE)]
    return f"{error}; {OPEN_FILES_REMEDY}" if any(limit in str(error) for limit in limits) else str(error)


def join_limited(items: Iterable[object], limit: int = MAX_LISTED) -> str:
    """Render `items` as a comma-separated list of at most `limit` entries, saying how many were left out."""
    listed = [text if len(text := str(item)) <= MAX_ITEM_CHARS else f"{text[:MAX_ITEM_CHARS]}…" for item in items]
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text}, … ({len(listed) - limit} more)"


class HubflowError(Exception):
    """Base class: the message names what was expected, what was found and what to do.

    Attributes:
        quarantine: file, or folder with a file for each split, of the rows that broke their contract; None where none did.
            `hubflow.data.quarantine.read_quarantine` takes it, or the error itself.
    """

    quarantine: Path | None = None

    def __str__(self) -> str:
        """The message, in which nothing of a file's name or content commands a terminal."""
        return printable(super().__str__())


class StoppedError(HubflowError):
    """Work was asked to stop, and can go on where it stopped: not a fault."""


class GivenUpError(HubflowError):
    """A callback ended work that is not worth going on with: nothing of it is kept. Not a fault."""


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


class DataError(HubflowError):
    """A source of rows is missing or cannot be read; the message names the file, the row and what to do."""


class EmptyError(DataError):
    """A source has no rows."""


class ModuleError(HubflowError):
    """A module cannot be found or is not what it should be: see `hubflow modules`, or give a folder with a config.json."""


class DownloadError(ModuleError):
    """A module cannot be fetched or its files were altered: check the network, or delete the folder that the message names."""


class WeightsError(ModuleError):
    """Weights are missing, unreadable, unsafe or do not fit: compare the listed tensors, or get the files again."""


class TokenizerError(ModuleError):
    """A module's tokenizer files are missing or of a kind that is not read: add the tokenizer.json the message asks for."""


class TaskError(HubflowError):
    """A task is built or asked wrongly: use one of the names or types that the message lists."""


class DeviceError(HubflowError):
    """The device is not there: take `auto` or `cpu`, or install a Paddle built for the device."""


class ExportError(HubflowError):
    """The exported program is not what was trained, or cannot be made: no export is kept."""


class TrainingStopped(StoppedError):
    """Training was asked to stop and has written a checkpoint; the same run goes on from it."""


class TagError(ContractError):
    """The tag scheme of the labels is ambiguous; the message names the labels and the setting that decides."""


class PromotionError(HubflowError):
    """The pointer was not moved; the message says what stands against it."""


class RegistryError(HubflowError):
    """A model registry refuses, or does not answer: its alias is not at the export in use."""


class MetricError(HubflowError):
    """A user's own metric failed, or gave what is no number; the message names it and the split."""


class ImageError(HubflowError):
    """A file is not an image that can be decoded; the message names it."""


class PredictError(HubflowError):
    """What was given cannot be predicted on; the message names the row."""


class ImageArchitectureError(HubflowError):
    """No image architecture goes by that name."""


class ConcurrencyError(HubflowError):
    """The concurrency limit that a run should hold a slot of is not there."""


class ServerError(HubflowError):
    """Prefect's server cannot be reached; the message names it."""


class ProgramError(HubflowError):
    """A program or its weights are not what hubflow writes: damaged, or made to do something else. It is not run."""


class StoreError(HubflowError):
    """The store cannot be written, or what it holds is missing, altered or outside its root."""


class SignatureError(HubflowError):
    """An export is not signed by a key that this machine trusts, or cannot be signed; an unsigned export is not used then."""


class DamagedError(StoreError):
    """A folder lies on the storage, but not as its manifest says."""


class RendezvousError(HubflowError):
    """The ranks of a run could not meet where no other host can reach them, or its hosts did not come together."""


class ResumeError(HubflowError):
    """A run cannot go on from what there is; the message says what differs."""


class TrainingError(HubflowError):
    """Training cannot go on; the message names the step and the rows."""


class SweepError(HubflowError):
    """A sweep cannot begin or go on: the message says what to change."""


class WorkerError(HubflowError):
    """A process failed or was lost; the message names it and shows the end of what it printed."""


class HostLostError(WorkerError):
    """A host that trained with this one cannot be reached any more; the run can go on from its last checkpoint."""


class GateError(HubflowError):
    """Candidate and deployed model cannot be paired; the message says where they differ."""


class PrunedError(GivenUpError):
    """A trial was ended early: it is behind the others."""


class WorkStoppedError(StoppedError):
    """The processes ended early because they were asked to."""
