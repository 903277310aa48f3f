"""What each lever of the engine is worth: a step, or other work, with it against without it, in turn, in fresh processes.

`--only lanes-text` names one, `--steps 10 --rounds 1` gives a quick look, `--write` puts the result into RESULTS.md.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

from levers_child import work
from measuring import HERE, figures_of, in_turn, median, spread, versions, write_section

LIMIT_SECONDS = 900.0
Lever = tuple[str, str, dict[str, Any]]
STEPS: dict[str, Lever] = {
    "lanes-text": (
        "sst2",
        "rows of a batch in sub_batches, a core each (against one sub_batch with all threads)",
        {"sub_batches": 1},
    ),
    "order": ("sst2", "sub_batches built layer by layer (against sub_batch by sub_batch)", {"order": False}),
    "threads": ("sst2", "as many threads as cores (against Paddle's one)", {"environment": {"OMP_NUM_THREADS": "1"}}),
    "two-dimensions": ("sst2", "tokens in two dimensions (against three, biases added apart)", {"two_dimensions": False}),
    "bias": ("sst2", "biases within their products (against expanded and added)", {"fused_biases": False}),
    "first-token": ("sst2", "the last layer of the first token alone (against all tokens)", {"first_token": False}),
    "like-lengths": ("sst2", "rows of like length in a batch (against random batches)", {"random": True}),
    "embedding-rows": ("sst2", "gradients of embeddings for the rows that occur (against all)", {"embedding_rows": False}),
    "clip-text": ("sst2", "clipped by scaling (against a broadcast product)", {"scaling": False}),
    "clip-images": ("flowers", "the same, images", {"scaling": False}),
    "constants": ("sst2", "equal constants made once (against as often as they are used)", {"constants": False}),
    "mkl": ("sst2", "MKL's AVX code on AMD (against what it chooses there)", {"environment": {"MKL_DEBUG_CPU_TYPE": ""}}),
    "convolutions": ("flowers", "convolutions by oneDNN, whole batches (against Paddle's own)", {"convolutions": False}),
    "ahead": ("flowers", "the next batch normalised during the step (against before it)", {"ahead": False}),
    "memory-text": ("sst2", "freed memory kept, large blocks given back (against glibc's ways)", {"memory": False}),
    "memory-images": ("flowers", "freed memory kept, large blocks too, images", {"memory": False}),
    "bfloat16": ("sst2", "float32 against the setting train.precision: bfloat16", {"precision": "bfloat16"}),
}
"""By name: the example whose rows are trained on, what the lever is, and what is different without it."""
WORKS: dict[str, Lever] = {
    "evaluating": ("sst2", "test evaluated in batches of 64 (against training's 32)", {"work": "judge", "batch": 32}),
    "tokenizing": (
        "sst2",
        "all splits tokenized by threads (against one)",
        {"work": "encode", "environment": {"TOKENIZERS_PARALLELISM": "false"}},
    ),
    "decoding": ("flowers", "photos of 500 pixels decoded by threads (against one)", {"work": "decode", "threads": False}),
    "draft": ("flowers", "decoded at the smallest sufficient scale (against whole)", {"work": "decode", "draft": False}),
    "seen": ("flowers", "decoded as a person sees them (against plain RGB)", {"work": "decode", "image_rules": 0}),
    "found": ("sst2", "encoded rows found by content (against encoded anew)", {"work": "find", "reuse": False}),
    "mapped": (
        "flowers",
        "an epoch's pixels from mapped Arrow (against decoded by threads)",
        {"work": "feed", "mapped": False},
    ),
    "preflight": ("sst2", "to the first step, the preflight remembered (against tried)", {"work": "begin", "known": False}),
}
"""The same of other work than steps; what is different without it also says which work."""


def main() -> None:
    """Measure, or, as a child, do the work of one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*STEPS, *WORKS], action="append")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(work(json.loads(options.child))))
        return
    sides = "with it | without | ratio"
    steps = [f"| lever | ms a step, {sides} | ms of the first, {sides} | peak MB, {sides} |", "|---|" + 9 * "---|"]
    works = [f"| lever | seconds, {sides} |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or [*STEPS, *WORKS]:
            example, what, off = {**STEPS, **WORKS}[name]
            kind = off.get("work", "steps")
            common = {"example": example, "store": f"{folder}/{example}", "steps": options.steps, "work": kind}
            ways = {"with": common, "without": {**common, **off}}
            found = in_turn({side: (lambda _, given=given: child(given)) for side, given in ways.items()}, options.rounds)
            if name in WORKS:
                works.append(f"| {what} | {compared(found, 'seconds', 3)} |")
            else:
                figures = " | ".join(compared(found, figure, 0) for figure in ("ms", "first ms", "peak MB"))
                steps.append(f"| {what} | {figures} |")
    told = (
        f"Medians (least–most) of {options.rounds} rounds, {options.steps} steps each. {versions(['paddlepaddle', 'numpy'])}."
    )
    command = " ".join(["uv run python benchmarks/levers.py", *sys.argv[1:]])
    tables = [line for table in (steps, works) if len(table) > 2 for line in (*table, "")]
    write_section("Levers", command, [*tables, told])


def compared(found: dict[str, list[dict[str, Any]]], figure: str, digits: int) -> str:
    """A figure with a lever and without it, and their ratio."""
    ratio = median(found["with"], figure) / median(found["without"], figure)
    return f"{spread(found['with'], figure, digits)} | {spread(found['without'], figure, digits)} | {ratio:.2f}"


def child(given: dict[str, Any]) -> dict[str, Any]:
    """The work of one side in a process of its own."""
    command = [sys.executable, str(HERE / "levers.py"), "--child", json.dumps(given)]
    return figures_of(command, LIMIT_SECONDS, **given.get("environment", {}))


if __name__ == "__main__":
    main()
