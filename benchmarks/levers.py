"""What each lever of the training engine is worth: a step with it against a step without it, in turn, in fresh processes.

`--only lanes-text` names one, `--steps 10 --rounds 1` gives a quick look, `--write` puts the result into RESULTS.md.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from typing import Any

from measuring import HERE, figures_of, in_turn, median, spread, versions, write_section

EXAMPLES = HERE.parent / "examples"
LIMIT_SECONDS = 900.0
LEVERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lanes-text": ("sst2", "rows of a batch in lanes, a core each (against one lane with all threads)", {"lanes": 1}),
    "convolutions": ("flowers", "convolutions by oneDNN, whole batches (against Paddle's own)", {"convolutions": False}),
    "memory-text": (
        "sst2",
        "freed memory kept, large blocks given back (against glibc's ways)",
        {"memory": False},
    ),
    "memory-images": ("flowers", "freed memory kept, large blocks too, images", {"memory": False}),
    "like-lengths": ("sst2", "rows of like length in a batch (against random batches)", {"random": True}),
    "mkl": ("sst2", "MKL's AVX code on AMD (against what it chooses there)", {"environment": {"MKL_DEBUG_CPU_TYPE": ""}}),
    "bias": ("sst2", "biases expanded before they are added (against broadcast ones)", {"expanded": False}),
    "first-token": ("sst2", "the last layer of the first token alone (against all tokens)", {"first_token": False}),
    "constants": ("sst2", "equal constants made once (against as often as they are used)", {"constants": False}),
    "bfloat16": ("sst2", "float32 against the setting train.precision: bfloat16", {"precision": "bfloat16"}),
}
"""By name: the example whose rows are trained on, what the lever is, and what is different without it."""


def main() -> None:
    """Measure, or, as a child, take the steps of one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LEVERS, action="append")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(take(json.loads(options.child))))
        return
    sides = "with it | without | ratio"
    table = [f"| lever | ms a step, {sides} | ms of the first, {sides} | peak MB, {sides} |", "|---|" + 9 * "---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or LEVERS:
            example, what, off = LEVERS[name]
            common = {"example": example, "store": f"{folder}/{example}", "steps": options.steps}
            ways = {"with": common, "without": {**common, **off}}
            found = in_turn({side: (lambda _, given=given: child(given)) for side, given in ways.items()}, options.rounds)
            figures = " | ".join(compared(found, figure) for figure in ("ms", "first ms", "peak MB"))
            table.append(f"| {what} | {figures} |")
    told = f"Medians (least–most) of {options.rounds} rounds of {options.steps} steps. {versions(['paddlepaddle', 'numpy'])}."
    command = " ".join(["uv run python benchmarks/levers.py", *sys.argv[1:]])
    write_section("Levers of a training step", command, [*table, "", told])


def compared(found: dict[str, list[dict[str, Any]]], figure: str) -> str:
    """A figure with a lever and without it, and their ratio."""
    ratio = median(found["with"], figure) / median(found["without"], figure)
    return f"{spread(found['with'], figure, 0)} | {spread(found['without'], figure, 0)} | {ratio:.2f}"


def child(given: dict[str, Any]) -> dict[str, Any]:
    """Steps of one side in a process of its own."""
    environment = given.get("environment", {})
    return figures_of([sys.executable, __file__, "--child", json.dumps(given)], LIMIT_SECONDS, **environment)


def take(given: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step, the mean over all but the first five, those of the first, and the peak memory of the process."""
    import numpy as np

    from hubflow.schemas.parsing import load_settings
    from hubflow.schemas.settings import FineTuneSettings
    from hubflow.stages.build_head import build_head, open_session
    from hubflow.stages.encode_dataset import encode_dataset
    from hubflow.stages.fine_tune import open_split
    from hubflow.stages.hub.callbacks import TrainState
    from hubflow.stages.hub.cores import compute_lanes
    from hubflow.stages.hub.distributed import World
    from hubflow.stages.hub.encoded import epoch_batches
    from hubflow.stages.hub.memory import kept_between_steps
    from hubflow.stages.hub.stepping import Stepper
    from hubflow.stages.hub.updates import Update
    from hubflow.stages.load_dataset import load_dataset
    from hubflow.stages.load_module import load_module
    from hubflow.stages.store import Store

    os.chdir(HERE.parent)
    settings = load_settings(FineTuneSettings, str(EXAMPLES / f"{given['example']}.yaml"))
    store, task, module = given["store"], settings.task, settings.module
    rows = load_dataset(settings.data, task, store)
    loaded = load_module(module, store)
    encoded = encode_dataset(rows, loaded, module, store)
    head = build_head(task, loaded, rows, module, settings.head, store)
    train = settings.train.model_copy(update={"precision": given.get("precision", "float32")})
    leave_out(given)
    session = open_session(head, Store(store), "cpu", train.precision, given.get("lanes", compute_lanes()))
    split = open_split(Store(store), encoded, "train", train.random_flip)
    session.initialise(0)
    update = Update(session, train, None, World.alone())
    update.initialise()
    stepper, state = Stepper(split, split.example_weights(None), 0, 1, World.alone()), TrainState()
    batches = epoch_batches(split.lengths, train.batch_size, 0, 0)
    if given.get("random"):
        batches = np.array_split(np.random.default_rng(0).permutation(len(split)), len(batches))
    seconds = []
    is_image = encoded.image_size is not None
    with kept_between_steps(large=is_image) if given.get("memory", True) else contextlib.nullcontext():
        for batch in batches[: given["steps"]]:
            began = time.perf_counter()
            stepper.take(update, state, batch, 1e-4, stop=False)
            state.step += 1
            seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"ms": 1000 * float(np.mean(seconds[5:])), "first ms": 1000 * seconds[0], "peak MB": peak}


def leave_out(given: dict[str, Any]) -> None:
    """Take out of the engine what this side is measured without."""
    from hubflow.stages.hub import session
    from hubflow.stages.hub.networks.text import Parameters
    from hubflow.stages.hub.runtime import paddle

    def linear(own: Any, name: str, x: Any, sizes: tuple[int, int]) -> Any:
        return paddle.matmul(x, own.matrix(f"{name}.weight", sizes)) + own.vector(f"{name}.bias", sizes[1])

    build = session.build_graph
    if not given.get("convolutions", True):
        session.convolve_by_onednn = lambda program: 0
    if not given.get("constants", True):
        session.share_constants = lambda program: 0
    if not given.get("expanded", True):
        Parameters.linear = linear
    if not given.get("first_token", True):
        session.build_graph = lambda *args, first_only, **options: build(*args, first_only=False, **options)


if __name__ == "__main__":
    main()
