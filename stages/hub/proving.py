"""What an export is proven by, in a fresh process: the exported program on encoded rows. Must not import Prefect or a stage.

`python -m hubflow.stages.hub.proving` imports Paddle, waits for one request on its standard input, writes what it finds to the
folder that the request names, and ends; it also ends as soon as its input is closed.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.export import Latency, Probe, ProofRequest
from hubflow.schemas.labels import IGNORED_LABEL
from hubflow.stages.hub.cores import usable_cores
from hubflow.stages.hub.encoded import EncodedSplit, Feed, TextSplit, open_images, open_text, sorted_batches
from hubflow.stages.hub.predictor import Predictor

ANSWER, PROBES, PREDICTED = "answer.json", "probes.npz", "predicted.npy"
WARM_UP_ROUNDS = 2
MOST_SECONDS = 5.0
FEWEST_ROUNDS = 3
Run = Callable[[Feed], NDArray[np.float32]]


def prove(request: ProofRequest) -> None:
    """Load the export, run probes and timed batches, then predict the rows of the metric; `request.answer` gets all of it."""
    before = peak_memory_bytes()
    predictor = Predictor(Path(request.export), {})
    split = _open(Path(request.rows), predictor.signature)
    probes = [predictor.run(feed) for feed in probe_feeds(split, request.probes)]
    latency = {str(size): _timed(predictor.run, split, rows, request.rounds) for size, rows in request.timed.items()}
    peak = peak_memory_bytes()  # before all rows of a split are read, which is not what predicting takes
    predicted = predicted_ids(predictor.run, split, request.judged, request.batch_size)
    answer = Path(request.answer)
    np.savez(answer / PROBES, *probes)
    np.save(answer / PREDICTED, predicted)
    found = {
        "latency_ms": {size: one.model_dump() for size, one in latency.items()},
        "threads": usable_cores(),
        "cpu": _cpu_name(),
        "peak_memory_bytes": peak,
        "imports_memory_bytes": before,
    }
    (answer / ANSWER).write_text(json.dumps(found), encoding="utf-8")


def probe_feeds(split: EncodedSplit, probes: tuple[Probe, ...]) -> Iterator[Feed]:
    """The batch of each probe, padded to its longest row, and one token further where it is widened."""
    for probe in probes:
        feed = split.feed(np.array(probe.rows, np.int64))
        yield _widened(feed, split.pad_id) if probe.widened and isinstance(split, TextSplit) else feed


def predicted_ids(run: Run, split: EncodedSplit, count: int, batch_size: int) -> NDArray[np.int64]:
    """Class ids of the first `count` rows `[rows]`; of every word of theirs, -1 where truncation left it out, for sequences."""
    found: list[Any] = [None] * count
    pieces = split.first_piece if isinstance(split, TextSplit) else None
    for batch in sorted_batches(split.lengths[:count], batch_size):
        for row, best in zip(batch, run(split.feed(batch)).argmax(-1), strict=True):
            found[row] = np.atleast_1d(best) if pieces is None else np.where(pieces[row] >= 0, best[pieces[row]], -1)
    return np.concatenate([np.zeros(0, np.int64), *found])


def peak_memory_bytes() -> int:
    """The most that was ever resident of this process; not of the one that it was forked from, as `getrusage` has it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _open(path: Path, signature: dict[str, Any]) -> EncodedSplit:
    if "image" in signature:
        return open_images(path, signature["image"]["mean"], signature["image"]["std"])
    return open_text(path, signature["text"]["pad_token_id"])


def _widened(feed: Feed, pad_id: int) -> Feed:
    fill = {"input_ids": pad_id, "label": IGNORED_LABEL}
    wide = {
        name: np.pad(value, ((0, 0), (0, 1)), constant_values=fill.get(name, 0)) if value.ndim > 1 else value
        for name, value in feed.items()
    }
    wide["position_ids"][:, -1] = feed["position_ids"].shape[1]
    return wide


def _timed(run: Run, split: EncodedSplit, rows: tuple[int, ...], rounds: int) -> Latency:
    feed = split.feed(np.array(rows, np.int64))
    for _ in range(WARM_UP_ROUNDS):
        run(feed)
    seconds: list[float] = []
    while len(seconds) < FEWEST_ROUNDS or (len(seconds) < rounds and sum(seconds) < MOST_SECONDS):
        started = time.perf_counter()
        run(feed)
        seconds.append(time.perf_counter() - started)
    median, p95 = (1000 * np.percentile(seconds, [50, 95])).round(4).tolist()
    return Latency(median=median, p95=p95, rounds=len(seconds), length=length_of(feed))


def length_of(feed: Feed) -> int | None:
    """Tokens of each row of a batch, padding included; None of images."""
    return feed["input_ids"].shape[1] if "input_ids" in feed else None


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else "unknown"


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not by `sys.stdin`, whose lock an ordinary end would wait for
        pass
    os._exit(1)  # whoever asked is gone


def main() -> None:
    """Answer one request."""
    line = sys.stdin.readline()
    if not line:
        return
    threading.Thread(target=_end_with_input, daemon=True).start()
    prove(ProofRequest.model_validate_json(line))


if __name__ == "__main__":
    main()
