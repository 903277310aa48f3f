"""What a GPU does: whether the tests of GPUs pass on it, and a training step in each precision beside the device's own limit.

`uv run python benchmarks/gpu.py` takes some minutes, needs no data, and prints a table; `--write` puts it into RESULTS.md. A
step is of rows made up here, of a BERT-base with fresh weights (128 tokens a row) and a ResNet-50 (224 pixels). The limit is
the rate of large products in the same precision, in the same process. `--device cpu --rows 4 --steps 2` tries it all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import HERE, figures_of, versions, write_section
from training import RESNETS

TOKENS, PIXELS, CLASSES = 128, 224, 2
PRECISIONS = ("float32", "bfloat16", "float16")
BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
CONFIGS: dict[str, dict[str, Any]] = {
    "text": {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2, **BERT},
    "image": {"architecture": "resnet50"},
}
LIMIT_SECONDS = 600.0


def main() -> None:
    """Run the tests, then each kind in each precision in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--rows", type=int, default=64, help="of a batch")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measured(*options.child, options)) + "\n")
        return
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-m", "gpu", str(HERE.parent / "tests" / "gpu"), "-o", "addopts="]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()[-1]
    lines = [f"`uv run pytest -m gpu`: {verdict}", "", "| what | precision | ms a step | rows/s | of the limit | peak MB |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in CONFIGS:
        for precision in PRECISIONS:
            given = ["--device", options.device, "--rows", str(options.rows), "--steps", str(options.steps)]
            try:
                found = figures_of([sys.executable, __file__, *given, "--child", kind, precision], LIMIT_SECONDS)
            except SystemExit as error:  # hubflow's own error names what a device has not
                lines.append(f"| {kind} | {precision} | {str(error).strip().splitlines()[-1]} | | | |")
                continue
            share = found["operations"] / found["seconds"] / found["limit"]
            figures = f"{1e3 * found['seconds']:.1f} | {options.rows / found['seconds']:.0f} | {share:.2f}"
            lines.append(f"| {kind} | {precision} | {figures} | {found['peak_bytes'] / 1e6:.0f} |")
    lines += ["", f"Batches of {options.rows} rows, {options.steps} steps after 5. {versions(['paddlepaddle'])}."]
    write_section("GPU", " ".join(["uv run python benchmarks/gpu.py", *sys.argv[1:]]), lines)


def measured(kind: str, precision: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and operations of a step, the device's operations a second, and the most memory that there was."""
    import numpy as np

    from hubflow.programs.session import Session
    from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle
    from hubflow.schemas.training import TrainSettings
    from hubflow.tasks.task import TaskSpec
    from hubflow.training.distributed import World
    from hubflow.training.program import TrainProgram

    leave_dynamic_mode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[kind]), encoding="utf-8")
        spec = TaskSpec(f"{kind}_classification", CLASSES, pretrained=False, max_seq_len=TOKENS if kind == "text" else None)
        session = Session(spec, Path(folder), options.device, precision=precision, trains=True)
        session.initialise(0)
        update = TrainProgram(session, TrainSettings(precision=precision), None, World.alone())
        update.initialise()
    random, rows, scale = np.random.default_rng(0), options.rows, 1024.0 if precision == "float16" else 1.0
    feed = {"label": random.integers(0, CLASSES, rows)}
    if kind == "text":
        positions = np.broadcast_to(np.arange(TOKENS), (rows, TOKENS))
        ids = {"input_ids": random.integers(1000, 30000, (rows, TOKENS)), "position_ids": positions.copy()}
        feed |= {**ids, "segment_ids": np.zeros((rows, TOKENS), np.int64), "input_mask": np.ones((rows, TOKENS), np.float32)}
        hidden, inner, layers = BERT["hidden_size"], BERT["intermediate_size"], BERT["num_hidden_layers"]
        of_token = 2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * TOKENS * hidden
        operations = rows * TOKENS * ((layers - 1) * of_token + 4 * hidden**2)  # of the last layer, keys and values alone
    else:
        feed["image"] = random.normal(size=(rows, 3, PIXELS, PIXELS)).astype(np.float32)
        operations = rows * 2 * RESNETS["_50_"]
    times = []
    for _ in range(5 + options.steps):
        began = time.perf_counter()
        update.accumulate(feed, scale / rows, 1e-5)  # ends when the loss is here
        update.apply(1e-5, scale)
        times.append(time.perf_counter() - began)
    on_gpu = isinstance(session.place, paddle.CUDAPlace) if paddle.is_compiled_with_cuda() else False
    return {
        "seconds": sorted(times[5:])[options.steps // 2],
        "operations": 3.0 * operations,
        "limit": product_rate(session.place, precision),
        "peak_bytes": float(paddle.device.cuda.max_memory_allocated(session.place)) if on_gpu else 0.0,
    }


def product_rate(place: Any, precision: str, size: int = 4096) -> float:
    """Operations a second of a large product on the device."""
    import numpy as np

    from hubflow.runtime.paddle_import import paddle

    main, scope, count = paddle.static.Program(), paddle.static.Scope(), 8
    with paddle.static.program_guard(main, paddle.static.Program()):
        x = paddle.static.data("x", [size, size], "float32").astype(precision)
        product = x
        for _ in range(count):
            product = paddle.matmul(product, x)
        total = product[0, 0].astype("float32")
    executor, times = paddle.static.Executor(place), []
    for _ in range(4):
        began = time.perf_counter()
        executor.run(main, feed={"x": np.eye(size, dtype=np.float32)}, fetch_list=[total], scope=scope)
        times.append(time.perf_counter() - began)
    return count * 2 * size**3 / min(times)


if __name__ == "__main__":
    main()
