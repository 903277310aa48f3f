"""Flow demo: the fine-tune flow on handwritten digits, with the pretrained module and from scratch on the same rows."""

from typing import Any

from prefect import flow

from hubflow.console import say
from hubflow.flows.fine_tune import fine_tune
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, ModuleSpec
from hubflow.schemas.training import TrainSettings
from hubflow.schemas.urls import StoreAddress

NEW_DIGITS = (5, 6, 7, 8, 9)
"""The module `digits` was trained on 0 to 4: these are new to it."""


def demo_settings(store: str, pretrained: bool) -> FineTuneSettings:
    """Settings of one side of the demo: a tenth of the rows to learn from, most of them to test on."""
    return FineTuneSettings(
        name="demo" if pretrained else "demo-from-scratch",
        task="image_classification",
        module=ModuleSpec(name="digits", pretrained=pretrained),
        data=DatasetSpec(format="digits", digits=NEW_DIGITS, dev_fraction=0.1, test_fraction=0.8),
        train=TrainSettings(epochs=4, batch_size=16, learning_rate=5e-3),
        store=store,
        device="cpu",
        reuse=False,
    )


@flow(name="demo", persist_result=False)
def demo(store: StoreAddress = "hubflow-store") -> dict[str, Any]:
    """Fine-tune the module `digits` on digits that it has not seen, beside the same network trained from scratch.

    The rows are scikit-learn's handwritten digits 5 to 9; nothing is downloaded.

    Args:
        store: folder, or URL, under which everything is kept.

    Returns:
        `title`, `metrics` (test metrics by side, "fine-tuned" and "from scratch"), `report` and `export` (absolute paths of the
        fine-tuned side), `store`, and `seconds` (by side and stage).

    Raises:
        StoreError: when the store cannot be written.
    """
    say("[bold]fine-tuning the pretrained module[/bold]")
    tuned = fine_tune(demo_settings(store, pretrained=True))
    say("[bold]training the same network from scratch[/bold]")
    scratch = fine_tune(demo_settings(store, pretrained=False))
    return {
        "title": "Handwritten digits 5 to 9, learned from the same few rows",
        "metrics": {"fine-tuned": tuned.metrics["test"], "from scratch": scratch.metrics["test"]},
        "report": tuned.report,
        "export": tuned.export,
        "store": tuned.store,
        "seconds": {"fine-tuned": tuned.seconds, "from scratch": scratch.seconds},
    }
