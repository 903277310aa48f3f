"""Check of a settings file: settings, data and module, without training; every fault at once."""

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hubflow.data import preview
from hubflow.data.report import PAGE_WRITTEN, read_data_report
from hubflow.data.report import log as log_of_reports
from hubflow.errors import HubflowError, SettingsError, StoreError, join_limited
from hubflow.evaluation.folder import require_evaluable
from hubflow.schemas.library import library_settings
from hubflow.schemas.parsing import close_name, parse_settings
from hubflow.schemas.references import DatasetRef, EncodedRef, ModuleRef
from hubflow.schemas.settings import DatasetSpec, EvaluateSettings, FineTuneSettings, HeadSettings, ModuleSpec
from hubflow.schemas.tasks import BUILT_IN, OWN_TASK, TaskName, find_task_type
from hubflow.schemas.training import TrainSettings
from hubflow.schemas.urls import absolute_address, is_url
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.store import Store
from hubflow.training.trackers.trackers import require_places

Model = TypeVar("Model", DatasetSpec, ModuleSpec, HeadSettings, EvaluateSettings, TrainSettings)
STAND_INS: dict[str, Any] = {
    "max_seq_len": 1,
    "image_size": None,
    "trainable": True,
    "dropout": None,
    "attention_dropout": None,
    "lora": None,
    "dev_fraction": 0.1,
    "test_fraction": 0.0,
    "max_rows": None,
    "split_seed": 0,
}
"""What takes the place of a wrong value where files and weights can be checked all the same."""


@dataclass
class CheckReport:
    """What a check found: the faults, and the facts of what is sound.

    Attributes:
        faults: all that would end a run before its training.
        dataset: the data, where it is sound.
        module: the module, where it is sound.
        labels: how often each label is in each split.
        examples: the first row of each split as the model will see it (`hubflow.data.preview.first_rows`).
        findings: what the checks of the data found without refusing it.
        not_imported: the code that the settings name and that was not imported, each with what was not checked.
    """

    faults: list[str] = field(default_factory=list)
    dataset: DatasetRef | None = None
    module: ModuleRef | None = None
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    not_imported: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def check(values: dict[str, Any], source: str, allow_imports: bool = False) -> CheckReport:
    """Check settings, data and module as a fine-tune would, in a temporary store; nothing is trained.

    Data and module are read even when other settings are wrong, so that one run tells all there is to mend. Rows are
    encoded too: an image that does not decode is found here.

    Args:
        values: the settings, not yet validated.
        source: of the settings, named in faults.
        allow_imports: whether to import, and so run, the contract and the metrics that the settings name.
    """
    report = CheckReport()
    with _Faults(report):
        settings = parse_settings(FineTuneSettings, values, source)
        if allow_imports:
            settings.require_fitting_task()
    data, module = _part(DatasetSpec, values.get("data")), _part(ModuleSpec, values.get("module"))
    task = _task(report, values.get("task"), allow_imports)
    evaluation = _sound(EvaluateSettings, values.get("evaluate", {}))
    if not allow_imports:
        data, evaluation = _without_code(report, data, evaluation)
    with _store_for_now() as store:
        if data is not None and task is not None and data.format in find_task_type(task).formats:
            with _Faults(report):
                report.dataset = load_dataset.fn(data, task, store)
                report.labels = preview.label_counts(Store(store), report.dataset)
        if evaluation is not None:
            with _Faults(report):
                require_evaluable(evaluation, report.dataset, store, task)
        if module is not None:
            with _Faults(report):
                report.module = load_module.fn(module, store)
        if task is not None and module is not None and module == _sound(ModuleSpec, values.get("module")):
            _check_together(report, task, module, data, _part(HeadSettings, values.get("head", {})), store)
        report.faults = [_of_a_run(fault, store, _given(values, "store")) for fault in report.faults]
    with _Faults(report):
        _check_store(_given(values, "store"), values.get("store_block") is None)
    train = _sound(TrainSettings, values.get("train", {}))
    if train is not None:
        with _Faults(report):
            require_places(train.tracking)
    with _Faults(report):
        _check_device(_given(values, "device"))
    return report


def _task(report: CheckReport, given: Any, allow_imports: bool) -> TaskName | None:
    """The task type, where it is known; one of the user's own is code, which is imported only when that is allowed."""
    if given in BUILT_IN:
        return str(given)
    if not isinstance(given, str) or re.match(OWN_TASK, given) is None:
        return None
    if not allow_imports:
        remedy = "to import what it names, which runs its code, pass --allow-imports"
        report.not_imported.append(f"task {given!r} was not imported: data and head were not checked; {remedy}")
        return None
    with _Faults(report):
        find_task_type(given)
        return given
    return None


def _without_code(
    report: CheckReport, data: DatasetSpec | None, evaluation: EvaluateSettings | None
) -> tuple[DatasetSpec | None, EvaluateSettings | None]:
    """The settings without the code that they name; the report says what is left out."""
    remedy = "to import what it names, which runs its code, pass --allow-imports"
    if data is not None and data.contract is not None:
        unchecked = "rows were checked by hubflow's own contract alone"
        report.not_imported.append(f"data.contract {data.contract!r} was not imported: {unchecked}; {remedy}")
        data = data.model_copy(update={"contract": None})
    if evaluation is not None and evaluation.metrics:
        names = join_limited(map(repr, evaluation.metrics))
        report.not_imported.append(f"evaluate.metrics {names} were not imported, and not tried on the rows; {remedy}")
        evaluation = evaluation.model_copy(update={"metrics": ()})
    return data, evaluation


@contextmanager
def _store_for_now() -> Iterator[str]:
    """A store that is gone when the block ends, in whatever way."""
    root = library_settings().trust.output_root
    try:
        store = Path(tempfile.mkdtemp(prefix="hubflow-check-", dir=None if root is None else Path(root).expanduser()))
    except OSError as error:
        where = "the folder for temporary files (TMPDIR)" if root is None else f"{root} (trust.output_root)"
        raise StoreError(f"{where} cannot be written ({error}); make it, or name another") from error
    log_of_reports.addFilter(_is_of_no_page)
    try:
        yield str(store)
    finally:
        log_of_reports.removeFilter(_is_of_no_page)
        shutil.rmtree(store, ignore_errors=True)


def _is_of_no_page(record: logging.LogRecord) -> bool:
    return record.msg != PAGE_WRITTEN


def _of_a_run(fault: str, store: str, address: str) -> str:
    """A fault that points to files of the store for now, of which nothing stays, as a run tells it of its own store."""
    if store not in fault:
        return fault
    return f"{fault.replace(store, absolute_address(address))} (a run writes this file; a check keeps none)"


def _check_store(address: str, is_opened_here: bool) -> None:
    """Find out whether the store can be written, and leave no folder that was not there.

    Args:
        address: of the store.
        is_opened_here: False where a Prefect block has the credentials, which only a run on its server can read.
    """
    folder = None if is_url(address) else Path(absolute_address(address))
    missing = [] if folder is None else [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        store = Store(address)
        if is_opened_here:
            store.require_writable()
    finally:
        for one in missing:
            with suppress(OSError):  # another process has put something there meanwhile
                one.rmdir()


def _check_together(
    report: CheckReport, task: TaskName, spec: ModuleSpec, data: DatasetSpec | None, head: HeadSettings | None, store: str
) -> None:
    """Check what data, module and head must agree on, as far as they are sound."""
    if report.dataset is None or report.module is None or data is None:
        return
    with _Faults(report):
        checks = data.checks
        encoded = encode_dataset.fn(report.dataset, report.module, spec, store, True, checks, data.max_invalid_fraction)
        report.examples = preview.first_rows(Store(store), encoded)
        report.findings = _findings(Store(store), report.dataset, encoded)
    if head is not None:
        with _Faults(report):
            build_head.fn(task, report.module, report.dataset, spec, head, store)


def _findings(store: Store, dataset: DatasetRef, encoded: EncodedRef) -> list[dict[str, Any]]:
    """What the checks of the rows, and of the encoded rows, found."""
    reports = [read_data_report(store, Path(one.path).name) for one in (dataset, encoded)]
    return [finding for report in reports if report is not None for finding in report["findings"]]


def _check_device(device: str) -> None:
    from hubflow.runtime.paddle_import import place_of

    place_of(device)


def _given(values: dict[str, Any], name: str) -> str:
    """A setting, or its default when it is not given or is wrong, which has been reported already."""
    field = FineTuneSettings.model_fields[name]
    try:
        return TypeAdapter[str](Annotated[str, *field.metadata]).validate_python(values[name])
    except (KeyError, ValidationError):
        return str(field.default)


class _Faults:
    """Collects what hubflow raises in its block."""

    def __init__(self, report: CheckReport) -> None:
        self._report = report

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, HubflowError):
            return False
        several = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else (error,)
        self._report.faults += [fault for fault in map(str, several) if fault not in self._report.faults]
        return True


def _sound(model: type[Model], values: Any) -> Model | None:
    try:
        return parse_settings(model, values)
    except SettingsError:
        return None


def _part(model: type[Model], values: Any) -> Model | None:
    """A group of settings as far as it can be checked although something in it is wrong, which has been reported already.

    A misspelt name is read as the one that it is closest to, and a wrong value gives way to its stand-in, if it has one.
    """
    if not isinstance(values, dict):
        return None
    known = {name: value for name, value in values.items() if name in model.model_fields}
    misspelt = {close_name(str(name), model.model_fields): value for name, value in values.items() if name not in known}
    kept = {**{name: value for name, value in misspelt.items() if name is not None}, **known}
    try:
        return model.model_validate(kept)
    except ValidationError as error:
        wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
    if not wrong or not wrong <= STAND_INS.keys():
        return None
    return model.model_validate({**kept, **{name: STAND_INS[name] for name in wrong}})
