"""What an export is verified by, in another process: the exported program on encoded rows."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.encoded import EncodedSplit, TextSplit, open_images, open_text, sorted_batches
from hubflow.inference.export import Run, onnx_runner, write_onnx
from hubflow.inference.opened_export import open_draft
from hubflow.inference.predictor import Predictor
from hubflow.modules.inputs import Feed
from hubflow.runtime.threads import usable_cores
from hubflow.schemas.export import Latency, Probe, VerificationRequest
from hubflow.schemas.labels import IGNORED_LABEL

ANSWER = "answer.json"
PADDLE, ONNX = "paddle", "onnx"
WARM_UP_ROUNDS = 2
MOST_SECONDS = 5.0
FEWEST_ROUNDS = 3


def verify_in_worker(request: dict[str, Any], connection: Any) -> None:
    """Answer one `VerificationRequest`, as a worker process."""
    verify_export(VerificationRequest.model_validate(request))


def verify_export(request: VerificationRequest) -> None:
    """Load the export, run probes and timed batches, then predict the rows of the metric; `request.answer` gets all of it."""
    before = peak_memory_bytes()
    predictor = Predictor(open_draft(Path(request.export)))
    split = _open(Path(request.rows), predictor.signature)
    latency, peak = _tried(PADDLE, predictor.run, split, request)
    found: dict[str, Any] = {
        PADDLE: {"latency_ms": latency},
        "threads": usable_cores(),
        "cpu": _cpu_name(),
        "peak_memory_bytes": peak,
        "imports_memory_bytes": before,
    }
    if request.onnx:
        opset = write_onnx(Path(request.export))
        latency, _ = _tried(ONNX, onnx_runner(Path(request.export), usable_cores()), split, request)
        found[ONNX] = {"latency_ms": latency, "opset": opset}
    Path(request.answer, ANSWER).write_text(json.dumps(found), encoding="utf-8")


def _tried(name: str, run: Run, split: EncodedSplit, request: VerificationRequest) -> tuple[dict[str, Any], int]:
    """Keep what a program gives of the probes and of the rows of the metric; its latency, and the peak of memory for that."""
    probes = [run(feed) for feed in probe_feeds(split, request.probes)]
    latency = {str(size): _timed(run, split, rows, request.rounds).model_dump() for size, rows in request.timed.items()}
    peak = peak_memory_bytes()  # before all rows of a split are read, which is not what predicting takes
    np.savez(Path(request.answer, f"{name}.npz"), *probes)
    np.save(Path(request.answer, f"{name}.npy"), predicted_ids(run, split, request.evaluated, request.batch_size))
    return latency, peak


def probe_feeds(split: EncodedSplit, probes: tuple[Probe, ...]) -> Iterator[Feed]:
    """The batch of each probe, padded to its longest row, and one token further where `longer_padding` asks for it."""
    for probe in probes:
        feed = split.feed(np.array(probe.rows, np.int64))
        yield _with_longer_padding(feed, split.pad_id) if probe.longer_padding and isinstance(split, TextSplit) else feed


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


def _with_longer_padding(feed: Feed, pad_id: int) -> Feed:
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
