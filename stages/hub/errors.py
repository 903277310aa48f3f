"""Errors of the Paddle side; each says what to look at next. Must not import Paddle or Prefect."""

from hubflow.schemas.errors import HubflowError, StoppedError


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
