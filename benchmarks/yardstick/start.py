"""A plain transformers script up to its first training step: prints the system's monotonic clock at its start and its end."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Build the Trainer on rows that are encoded already (`--encoded`), or encode them, and take one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("module", "train"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--encoded", help="folder with the encoded rows, written there when it is missing")
    options = parser.parse_args()
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Stamps(TrainerCallback):  # type: ignore[misc]
        """Notes when the first step begins and ends."""

        def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
            """Called before the step."""
            stamps["begin"] = time.monotonic()

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            """Called after it."""
            stamps["end"] = time.monotonic()

    stamps: dict[str, float] = {}
    tokenizer = AutoTokenizer.from_pretrained(options.module)
    arguments = TrainingArguments(
        output_dir=str(Path(options.train).parent / "trainer"),
        max_steps=1,
        per_device_train_batch_size=32,
        learning_rate=1e-4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    model = AutoModelForSequenceClassification.from_pretrained(options.module, num_labels=2)
    rows = encoded_rows(options, tokenizer)
    collator = DataCollatorWithPadding(tokenizer)
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[Stamps()]).train()
    sys.stdout.write(json.dumps(stamps) + "\n")


def encoded_rows(options: argparse.Namespace, tokenizer: Any) -> Any:
    """The rows of a file of `text⇥label` lines, encoded now or before."""
    from datasets import Dataset, load_from_disk

    if options.encoded and Path(options.encoded).is_dir():
        return load_from_disk(options.encoded)
    pairs = [line.split("\t") for line in Path(options.train).read_text(encoding="utf-8").split("\n") if line]
    rows = tokenizer([text for text, _ in pairs], truncation=True, max_length=128)
    found = Dataset.from_dict({**rows, "labels": [int(label) for _, label in pairs]})
    if options.encoded:
        found.save_to_disk(options.encoded)
    return found


if __name__ == "__main__":
    main()
