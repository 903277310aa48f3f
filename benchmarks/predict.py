"""Predicting files with an export against onnxruntime, same model and tokenizer, from files to predictions file.

`--rounds 1 --texts 2000 --images 400` gives a quick look, `--write` puts the result into RESULTS.md.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from measuring import DATA, HERE, figures_of, in_turn, median, spread, versions, write_section, yardstick_python

HUBFLOW = """
import json, resource, sys, time
import hubflow.inference.predictor
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.predict import predict

export, data, output, quoting = sys.argv[1:]
began = time.perf_counter()
given = {"quoting": False} if quoting else {}
result = predict(PredictSettings(export=export, data=data, output=output, **given))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - began, "rows": result.rows, "peak_bytes": peak}))
"""
LIMIT_SECONDS = 3600.0
SAME = 1e-4


def main() -> None:
    """Predict with each in turn, in fresh processes, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["texts", "images"], action="append", help="both when not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=20_000, help="rows, SST-2's as often as needed")
    parser.add_argument("--images", type=int, default=4_000, help="rows, at most as many as there are flowers")
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    options = parser.parse_args()
    table = [
        "| what | onnxruntime, plain | onnxruntime, careful | hubflow | hubflow / careful | hubflow / plain |",
        "|---|---|---|---|---|---|",
    ]
    told = ""
    for kind in options.kind or ["texts", "images"]:
        with tempfile.TemporaryDirectory() as folder:
            found = in_turn(ways(kind, Path(folder), options), options.rounds)
            require_same(Path(folder))
        rows = found["hubflow"][0]["rows"]
        careful, plain = (median(found["hubflow"], "seconds") / median(found[name], "seconds") for name in ("careful", "plain"))
        shown = " | ".join(spread(found[name], "seconds") for name in ("plain", "careful", "hubflow"))
        table.append(f"| {rows} {kind}, seconds | {shown} | {careful:.2f} | {plain:.2f} |")
        told = str(found["plain"][0]["version"])
    lines = [
        *table,
        "",
        f"Medians (least–most) of {options.rounds} rounds in turn, in fresh processes, imports left out, loading the model "
        "included: MiniLM-L6 on SST-2's sentences, ResNet-18 on flowers at 64 pixels. Plain: batches of 64 in the file's "
        "order, images decoded one after the other. Careful: sorted by length; images drafted and decoded by threads. "
        f"The predictions are the same within {SAME}. {versions(['paddlepaddle', 'tokenizers', 'pillow'], onnxruntime=told)}.",
    ]
    write_section("Prediction", "uv run python " + " ".join(["benchmarks/predict.py", *sys.argv[1:]]), lines)


def ways(kind: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Each way as a function of the round's number."""
    export, checkpoint = exported(kind, folder)
    data = some_texts(folder, options.texts) if kind == "texts" else some_images(folder, options.images)
    onnx = folder / "model.onnx"
    python = yardstick_python()
    module = [] if kind == "images" else ["--module", str(module_folder())]
    convert = [python, str(HERE / "yardstick" / "to_onnx.py"), str(checkpoint), str(onnx), *module]
    figures_of(["sh", "-c", '"$@" >&2 && echo "{}"', "sh", *convert], LIMIT_SECONDS)
    script = str(HERE / "yardstick" / "predict.py")

    def theirs(name: str, *more: str) -> Any:
        command = [python, script, str(onnx), str(export), str(data), str(folder / f"{name}.parquet"), *more]
        return lambda _turn: figures_of(command, LIMIT_SECONDS)

    ours = [sys.executable, "-c", HUBFLOW, str(export), str(data), str(folder / "hubflow.parquet")]
    return {
        "plain": theirs("plain"),
        "careful": theirs("careful", "--careful"),
        "hubflow": lambda _turn: figures_of([*ours, "plain" if kind == "texts" else ""], LIMIT_SECONDS),
    }


def exported(kind: str, folder: Path) -> tuple[Path, Path]:
    """An export after a few steps of training, and the weights of the checkpoint that it was made from."""
    from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
    from hubflow.schemas.settings import FineTuneSettings
    from hubflow.stages.build_head import build_head
    from hubflow.stages.encode_dataset import encode_dataset
    from hubflow.stages.evaluate import evaluate
    from hubflow.stages.export_inference_program import export_inference_program
    from hubflow.stages.fine_tune import fine_tune
    from hubflow.stages.load_dataset import load_dataset
    from hubflow.stages.load_module import load_module

    name = "sst2" if kind == "texts" else "flowers"
    store = str(folder / "store")
    files = (
        {split: str(DATA / "sst2" / f"{split}.tsv") for split in ("train", "dev", "test")}
        if kind == "texts"
        else {"train": str(DATA / "flowers")}
    )
    over = [f"data.{split}={path}" for split, path in files.items()]
    few = [*over, "data.max_rows=320", "train.max_steps=10", f"store={store}"]
    given = with_overrides(read_settings(HERE.parent / "examples" / f"{name}.yaml"), few)
    settings = parse_settings(FineTuneSettings, given, name)
    dataset = load_dataset.fn(settings.data, settings.task, store)
    module = load_module.fn(settings.module, store)
    encoded = encode_dataset.fn(dataset, module, settings.module, store)
    task = build_head.fn(settings.task, module, dataset, settings.module, settings.head, store)
    checkpoint = fine_tune.fn(task, encoded, settings.train, store, settings.seed, "cpu")
    evaluation = evaluate.fn(checkpoint, encoded, settings.evaluate, store, "cpu")
    export = export_inference_program.fn(checkpoint, encoded, evaluation, store)
    return Path(store) / export.path, Path(store) / checkpoint.path / "model.safetensors"


def module_folder() -> Path:
    """Folder of MiniLM-L6's files."""
    from hubflow.modules.download import resolve_module

    return resolve_module("all-MiniLM-L6-v2")


def some_texts(folder: Path, rows: int) -> Path:
    """A TSV of so many sentences of SST-2's train, from the beginning again when they are used up."""
    lines = (DATA / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
    data = folder / "texts.tsv"
    data.write_text("\n".join(["text\tlabel", *itertools.islice(itertools.cycle(lines), rows)]) + "\n", encoding="utf-8")
    return data


def some_images(folder: Path, rows: int) -> Path:
    """A folder of so many flowers."""
    files = sorted(path for path in (DATA / "flowers").rglob("*") if path.suffix == ".jpg")
    for place, path in enumerate(files[:: max(1, len(files) // rows)][:rows]):
        target = folder / "images" / path.parent.name / f"{place:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    return folder / "images"


def require_same(folder: Path) -> None:
    """Refuse predictions that differ between the two sides."""
    ours, theirs = (pq.read_table(folder / f"{name}.parquet") for name in ("hubflow", "careful"))
    names = [name for name in theirs.column_names if name.startswith("probability_")]
    left, right = (table.select(names).to_pandas().to_numpy() for table in (ours, theirs))
    apart = abs(left - right).max()
    if apart > SAME:
        sys.exit(f"the predictions differ by {apart}: {json.dumps(names)}")
    print(f"  predictions differ by {apart:.1e} at most", file=sys.stderr)


if __name__ == "__main__":
    main()
