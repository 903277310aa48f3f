"""Stage build_head: put a Task head on a module, as a specification from which every later stage rebuilds the programs."""

import json

from hubflow.errors import SettingsError
from hubflow.orchestration.tasks import stage
from hubflow.schemas.references import DatasetRef, ModuleRef, TaskRef
from hubflow.schemas.settings import HeadSettings, ModuleSpec
from hubflow.schemas.tasks import TaskName, find_task_type, task_identity
from hubflow.store.store import Store, content_key
from hubflow.workers.processes import run

PARAMETER_NAMES = "hubflow.programs.session:parameter_names"


def _describe(task: TaskRef) -> str:
    return f"{task.task}: {task.num_classes} classes on {task.module.name}"


@stage(_describe)
def build_head(
    task: TaskName,
    module: ModuleRef,
    dataset: DatasetRef,
    spec: ModuleSpec,
    settings: HeadSettings,
    store: str,
    reuse: bool = True,
) -> TaskRef:
    """Put a Task head on a module: checked against the data's labels, built once, and kept as its specification.

    Args:
        task: what is predicted.
        module: that the head is put on.
        dataset: whose labels are the classes.
        spec: settings of the module, which its programs are rebuilt with.
        settings: settings of the head.
        store: folder, or URL, of the store.
        reuse: take what the store already holds for the same content and settings.

    Returns:
        Reference to the specification, and to `parameters.json`, the names of the program's parameters.

    Raises:
        SettingsError: when `num_classes` disagrees with the labels, the module's kind does not fit the task, or the module is
            given settings that are for text modules alone.
        TaskError: when the head does not fit the task.
        OutOfMemoryError: when memory runs out while the network is built.
    """
    needed = find_task_type(task).module_kind
    if module.module_kind != needed:
        raise SettingsError(f"module {module.name!r} is of kind {module.module_kind}; {task} needs {needed}")
    _check_module_settings(module, spec)
    if settings.num_classes not in (None, dataset.num_classes):
        raise SettingsError(
            f"head.num_classes is {settings.num_classes}, but the data has {dataset.num_classes} labels "
            "(see its label_map.json); leave num_classes out, or correct the data or label_list"
        )
    opened = Store(store)
    facts = {
        "task": task,
        "num_classes": dataset.num_classes,
        "label_map_sha256": dataset.label_map_sha256,
        "hidden_units": settings.hidden_units,
        "head_dropout": settings.dropout,
        "trainable": spec.trainable,
        "dropout": spec.dropout,
        "attention_dropout": spec.attention_dropout,
        "lora": spec.lora and spec.lora.model_dump(),
        "max_seq_len": spec.max_seq_len if module.module_kind == "text" else None,
        "module": module.model_dump(),
        **task_identity(task),
    }
    key = content_key("build_head", facts)
    artifact = opened.find("tasks", key) if reuse else None
    if artifact is None:
        names = run(
            PARAMETER_NAMES,
            {"facts": facts, "module": str(opened.open(module).folder)},
            work="building the network",
            memory_remedy="Take a smaller module",
        )
        with opened.create("tasks", key) as draft:
            (draft.folder / "parameters.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
            draft.facts |= facts
        artifact = opened.load("tasks", key)
    return TaskRef(
        path=artifact.path,
        sha256=artifact.sha256,
        task=task,
        module=module,
        num_classes=dataset.num_classes,
        label_map_sha256=dataset.label_map_sha256,
    )


def _check_module_settings(module: ModuleRef, spec: ModuleSpec) -> None:
    if module.module_kind == "text":
        return
    kind = f"module {module.name!r} is of kind image and has no"
    given = [f"module.{name}" for name in ("dropout", "attention_dropout") if getattr(spec, name) is not None]
    faults = [f"{' and '.join(given)}: {kind} dropout; set head.dropout instead"] if given else []
    if spec.lora is not None:
        faults.append(f"module.lora: {kind} attention projections; leave it out, or freeze blocks with train.freeze_blocks")
    if faults:
        raise SettingsError("\n".join(faults))
