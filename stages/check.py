"""Check of a settings file: settings, data and module, without training; every fault at once."""

import tempfile
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hubflow.schemas.errors import HubflowError, SettingsError
from hubflow.schemas.references import DatasetRef, ModuleRef
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, HeadSettings, ModuleSpec, parse_settings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.stages.store import Store

Model = TypeVar("Model", DatasetSpec, ModuleSpec, HeadSettings)


@dataclass
class CheckReport:
    """What a check found: the faults, and the facts of what is sound."""

    faults: list[str] = field(default_factory=list)
    dataset: DatasetRef | None = None
    module: ModuleRef | None = None

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def check(values: dict[str, Any], source: str) -> CheckReport:
    """Check settings, data and module as a fine-tune would, in a temporary store; nothing is trained.

    Data and module are read even when other settings are wrong, so that one run tells all there is to mend. Rows are
    encoded too: an image that does not decode is found here.
    """
    report = CheckReport()
    settings: FineTuneSettings | None = None
    try:
        settings = parse_settings(FineTuneSettings, values, source)
    except SettingsError as error:
        report.faults.append(str(error))
    data, module = _part(DatasetSpec, values.get("data")), _part(ModuleSpec, values.get("module"))
    with tempfile.TemporaryDirectory(prefix="hubflow-check-") as store:
        task = values.get("task")
        if data is not None and task in ("image_classification", "text_classification", "sequence_labelling"):
            with _Faults(report):
                report.dataset = load_dataset(data, task, store)
        if module is not None:
            with _Faults(report):
                report.module = load_module(module, store)
        if report.dataset is not None and report.module is not None and module is not None:
            with _Faults(report):
                encode_dataset(report.dataset, report.module, module, store)
            head = _part(HeadSettings, values.get("head", {}))
            if head is not None and task is not None:
                with _Faults(report):
                    build_head(task, report.module, report.dataset, module, head, store)
    if settings is not None:
        with _Faults(report):
            Store(settings.store)
    return report


class _Faults:
    """Collects what hubflow raises in its block."""

    def __init__(self, report: CheckReport) -> None:
        self._report = report

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, HubflowError):
            self._report.faults.append(str(error))
            return True
        return False


def _part(model: type[Model], values: Any) -> Model | None:
    try:
        return parse_settings(model, values)
    except SettingsError:
        return None
