"""Open what references name: the programs of a task, and the encoded rows of a split. Must not import Prefect."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubflow.schemas.references import EncodedRef, TaskRef
from hubflow.schemas.settings import LoraSettings
from hubflow.schemas.training import Precision
from hubflow.store.store import Store

if TYPE_CHECKING:
    from hubflow.data.encoded import EncodedSplit
    from hubflow.programs.session import Session, TaskSpec
    from hubflow.workers.connection import Connection


def task_spec(facts: dict[str, Any]) -> "TaskSpec":
    """The specification in the facts that `build_head` kept."""
    from hubflow.programs.session import TaskSpec

    return TaskSpec(
        task=facts["task"],
        num_classes=facts["num_classes"],
        hidden_units=tuple(facts["hidden_units"]),
        trainable=facts["trainable"],
        pretrained=facts["module"]["pretrained"],
        max_seq_len=facts["max_seq_len"],
        head_dropout=facts["head_dropout"],
        dropout=facts["dropout"],
        attention_dropout=facts["attention_dropout"],
        lora=facts["lora"] and LoraSettings.model_validate(facts["lora"]),
    )


def open_session(
    task: TaskRef,
    store: Store,
    device: str,
    precision: Precision = "float32",
    sub_batches: int = 1,
) -> "Session":
    """Rebuild a task's programs, without weights, from its reference."""
    from hubflow.programs.session import Session

    spec, folder = task_spec(store.open(task).facts), store.open(task.module).folder
    return Session(spec, folder, device, precision=precision, sub_batches=sub_batches)


def parameter_names(request: dict[str, Any], connection: "Connection") -> list[str]:
    """Names of all parameters of a head on its module, sorted, once both are built; `build_head` has it done by a worker."""
    from hubflow.programs.session import Session

    return sorted(Session(task_spec(request["facts"]), Path(request["module"]), "cpu").names)


def open_split(store: Store, encoded: EncodedRef, split: str, random_flip: bool = False) -> "EncodedSplit":
    """Map one split's encoded rows into memory."""
    from hubflow.data.encoded import open_images, open_text
    from hubflow.modules.module import ImageConfig, read_config

    artifact = store.open(encoded)
    path = artifact.folder / f"{split}.arrow"
    if encoded.module.module_kind == "text":
        return open_text(path, artifact.facts["pad_token_id"])
    config = read_config(store.open(encoded.module).folder, encoded.module.pretrained)
    assert isinstance(config, ImageConfig)
    return open_images(path, config.mean, config.std, random_flip)
