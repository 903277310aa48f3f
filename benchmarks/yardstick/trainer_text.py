"""One fine-tune of a text module by transformers' Trainer, as it is or by a careful user; prints its figures as JSON."""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

IGNORED = -100
Rows = list[dict[str, Any]]


def main() -> None:
    """Train on one file, predict another, and print seconds, score and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["sst2", "conll2003"])
    for name in ("module", "train", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=128, help="tokens of a row, at most")
    parser.add_argument("--fresh", action="store_true", help="weights drawn anew; the module's folder has none")
    parser.add_argument("--careful", action="store_true", help="batches of like length, and bfloat16 where the CPU has it")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(options.module)
    if options.task == "sst2":
        figures = classify(options, tokenizer)
    else:
        figures = label_words(options, tokenizer)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads()}
    sys.stdout.write(json.dumps({**figures, "versions": versions}) + "\n")


def classify(options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """SST-2: the accuracy on the test file."""
    if options.fresh:
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(options.module, num_labels=2))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(options.module, num_labels=2)
    train, test = (texts(path, tokenizer, options.length) for path in (options.train, options.test))
    trainer = trainer_of(model, train, DataCollatorWithPadding(tokenizer), options)
    figures = timed(trainer)
    logits = trainer.predict(test).predictions
    return {**figures, "score": float((logits.argmax(1) == [row["labels"] for row in test]).mean())}


def label_words(options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """CoNLL-2003, the label on each word's first piece: entity F1 on the test file, words that were cut off being O."""
    from seqeval.metrics import f1_score

    train, test = sentences(options.train), sentences(options.test)
    names = sorted({label for _, labels in train for label in labels})
    # Like hubflow's, the head of a sequence labeller has no dropout of its own.
    model = AutoModelForTokenClassification.from_pretrained(options.module, num_labels=len(names), classifier_dropout=0.0)
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = trainer_of(model, pieces(train, names, tokenizer), collator, options)
    figures = timed(trainer)
    encoded = pieces(test, names, tokenizer)
    logits = trainer.predict(encoded).predictions
    predicted = []
    for place, (words, _) in enumerate(test):
        first = [index for index, label in enumerate(encoded[place]["labels"]) if label != IGNORED]
        found = [names[index] for index in logits[place][first].argmax(1)]
        predicted.append(found + ["O"] * (len(words) - len(found)))
    return {**figures, "score": float(f1_score([labels for _, labels in test], predicted))}


def texts(path: str, tokenizer: Any, length: int) -> Rows:
    """Rows of a file of `text⇥label` lines."""
    pairs = [line.split("\t") for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    encoded = tokenizer([text for text, _ in pairs], truncation=True, max_length=length)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
        for ids, mask, (_, label) in zip(encoded["input_ids"], encoded["attention_mask"], pairs, strict=True)
    ]


def sentences(path: str) -> list[tuple[list[str], list[str]]]:
    """Words and labels of each sentence of a CoNLL file."""
    found = []
    for block in Path(path).read_text(encoding="utf-8").split("\n\n"):
        lines = [line.split(" ") for line in block.split("\n") if line and not line.startswith("-DOCSTART-")]
        if lines:
            found.append(([line[0] for line in lines], [line[-1] for line in lines]))
    return found


def pieces(rows: list[tuple[list[str], list[str]]], names: list[str], tokenizer: Any) -> Rows:
    """Encoded sentences, labelled on the first piece of each word."""
    encoded = tokenizer([words for words, _ in rows], is_split_into_words=True, truncation=True, max_length=128)
    index = {name: place for place, name in enumerate(names)}
    found = []
    for place, (_, labels) in enumerate(rows):
        words = encoded.word_ids(place)
        before = [None, *words[:-1]]
        given = [
            IGNORED if word is None or word == last else index[labels[word]] for word, last in zip(words, before, strict=True)
        ]
        ids, mask = encoded["input_ids"][place], encoded["attention_mask"][place]
        found.append({"input_ids": ids, "attention_mask": mask, "labels": given})
    return found


def trainer_of(model: Any, train: Rows, collator: Any, options: argparse.Namespace) -> Trainer:
    """The Trainer with the settings of examples/sst2.yaml."""
    steps = -(-len(train) // 32) * options.epochs
    careful: dict[str, Any] = {"train_sampling_strategy": "group_by_length", "bf16": has_bfloat16()} if options.careful else {}
    arguments = TrainingArguments(
        output_dir=str(Path(options.train).parent / "trainer"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=1e-4,
        warmup_steps=round(0.1 * steps),
        weight_decay=0.01,
        lr_scheduler_type="linear",
        seed=options.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **careful,
    )
    return Trainer(model=model, args=arguments, train_dataset=train, data_collator=collator)


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16: elsewhere it is emulated, and slower."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def timed(trainer: Trainer) -> dict[str, Any]:
    """Seconds of `trainer.train()` alone, and peak memory of the process when it ends."""
    began = time.perf_counter()
    output = trainer.train()
    seconds = time.perf_counter() - began
    trainer.args.train_sampling_strategy = "random"  # or predictions come in the order of lengths
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "steps": output.global_step,
        "peak_bytes": peak,
        "loss": float(output.training_loss),
    }


if __name__ == "__main__":
    main()
