"""What a process of `levers.py` does: steps, or other work, without what it is told to leave out."""

import contextlib
import functools
import os
import resource
import time
from collections.abc import Callable
from typing import Any

from measuring import DATA, HERE

EXAMPLES = HERE.parent / "examples"


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Figures of the work that `given` asks for."""
    os.chdir(HERE.parent)
    leave_out(given)
    works = {"steps": steps, "judge": judge, "encode": encode, "decode": decode, "find": find, "feed": feed, "begin": begin}
    found = works[given["work"]](given)
    return {**found, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


class Made:
    """An example's settings, and its references up to the head."""

    def __init__(self, given: dict[str, Any]) -> None:
        from hubflow.schemas.parsing import load_settings
        from hubflow.schemas.settings import FineTuneSettings
        from hubflow.stages.build_head import build_head
        from hubflow.stages.encode_dataset import encode_dataset
        from hubflow.stages.load_dataset import load_dataset
        from hubflow.stages.load_module import load_module
        from hubflow.store.store import Store

        self.settings = load_settings(FineTuneSettings, str(EXAMPLES / f"{given['example']}.yaml"))
        task, spec, store = self.settings.task, self.settings.module, given["store"]
        self.home = Store(store)
        self.dataset = load_dataset.fn(self.settings.data, task, store)
        self.module = load_module.fn(spec, store)
        self.encode: Callable[[bool], Any] = lambda reuse: encode_dataset.fn(self.dataset, self.module, spec, store, reuse)
        self.encoded = self.encode(True)
        self.head = build_head.fn(task, self.module, self.dataset, spec, self.settings.head, store)

    def split(self, name: str) -> Any:
        """Encoded rows."""
        from hubflow.programs.session import open_split

        return open_split(self.home, self.encoded, name)


def steps(given: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step, the mean over all but the first five, and those of the first."""
    import numpy as np

    from hubflow.data.encoded import epoch_batches
    from hubflow.programs.session import open_session
    from hubflow.runtime.memory import kept_between_steps
    from hubflow.runtime.threads import Prefetcher, compute_sub_batches
    from hubflow.training.callbacks import TrainState
    from hubflow.training.distributed import World
    from hubflow.training.loop import TrainStep
    from hubflow.training.program import TrainProgram

    made = Made(given)
    train = made.settings.train.model_copy(update={"precision": given.get("precision", "float32")})
    session = open_session(
        made.head, made.home, "cpu", train.precision, given.get("sub_batches", compute_sub_batches()), trains=True
    )
    split = made.split("train")
    session.initialise(0)
    update = TrainProgram(session, train, None, World.alone())
    update.initialise()
    train_step, state = TrainStep(split, split.example_weights(None), 0, 1, World.alone()), TrainState()
    batches = epoch_batches(split.lengths, train.batch_size, 0, 0)
    if given.get("random"):
        batches = np.array_split(np.random.default_rng(0).permutation(len(split)), len(batches))
    batches, seconds, ahead = batches[: given["steps"]], [], Prefetcher[Any]()

    def feeds(step: int) -> Any:
        return train_step.feeds(batches[step], step)

    is_image = made.encoded.image_size is not None
    with kept_between_steps(large=is_image) if given.get("memory", True) else contextlib.nullcontext():
        for step, batch in enumerate(batches):
            began = time.perf_counter()
            fed = ahead.take(step, lambda step=step: feeds(step))
            if given.get("ahead", True) and step + 1 < len(batches):
                ahead.begin(step + 1, lambda step=step: feeds(step + 1))
            train_step.run(update, state, batch, 1e-4, stop=False, feeds=fed)
            state.step += 1
            seconds.append(time.perf_counter() - began)
    return {"ms": 1000 * float(np.mean(seconds[5:])), "first ms": 1000 * seconds[0]}


def judge(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds to judge the split test, programs prepared."""
    from hubflow.programs.session import open_session
    from hubflow.runtime.threads import compute_sub_batches
    from hubflow.schemas.labels import LabelMap
    from hubflow.training.evaluation import EVALUATION_BATCH, evaluate_split

    made = Made(given)
    session = open_session(made.head, made.home, "cpu", sub_batches=compute_sub_batches())
    session.initialise(0)
    labels, split = LabelMap.load(made.home.open(made.encoded).folder / "label_map.json"), made.split("test")
    size = given.get("batch", EVALUATION_BATCH)
    evaluate_split(session, split, labels, size)
    return timed(lambda: evaluate_split(session, split, labels, size))


def encode(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds to encode all splits anew, all that is imported for it imported."""
    made = Made(given)
    return timed(lambda: made.encode(False))


def decode(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds to decode 400 photos to 64 pixels as encoding does: flowers, enlarged."""
    import io
    from itertools import islice

    from PIL import Image

    from hubflow.modules.images import RULES_VERSION, ImageRules, decode_image
    from hubflow.runtime.threads import SMALL, thread_map, usable_cores

    photos = []
    for path in islice(sorted((DATA / "flowers").rglob("*.jpg")), 400):
        photo, file = Image.open(path).convert("RGB"), io.BytesIO()
        scale = 500 / max(photo.size)
        photo.resize((round(photo.width * scale), round(photo.height * scale))).save(file, "JPEG", quality=90)
        photos.append(file.getvalue())

    def decoded() -> None:
        rules = ImageRules(version=given.get("image_rules", RULES_VERSION))
        one = functools.partial(decode_image, size=64, rules=rules)
        list(thread_map(one, photos, usable_cores(), at_once=SMALL) if given.get("threads", True) else map(one, photos))

    return timed(decoded)


def find(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds to have all splits encoded."""
    made = Made(given)
    return timed(lambda: made.encode(given.get("reuse", True)))


def feed(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds to have every batch of an epoch: normalised pixels."""
    import numpy as np
    import pyarrow.parquet as pq

    from hubflow.data.encoded import epoch_batches
    from hubflow.modules.images import load_pixels
    from hubflow.modules.inputs import normalised
    from hubflow.runtime.threads import SMALL, thread_map, usable_cores

    made = Made(given)
    split = made.split("train")
    batches, size = epoch_batches(split.lengths, made.settings.train.batch_size, 0, 0), made.encoded.image_size
    paths = pq.read_table(made.home.open(made.dataset).folder / "train.parquet", columns=["path"])["path"].to_pylist()

    def decoded() -> None:
        for batch in batches:
            of_batch = [paths[split.positions[row]] for row in batch]
            pixels = thread_map(lambda path: load_pixels(path, size), of_batch, usable_cores(), at_once=SMALL)
            normalised(np.stack(list(pixels)), split.mean, split.std)

    def mapped() -> None:
        for batch in batches:
            split.feed(batch)

    return timed(mapped if given.get("mapped", True) else decoded)


def begin(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the stage's call to the first step, in a process that has trained before."""
    from hubflow.schemas.references import CheckpointRef
    from hubflow.stages.fine_tune import fine_tune
    from hubflow.training.callbacks import Callback, TrainState

    class Reached(Exception):
        """Training is about to take its first step."""

    class Stop(Callback):
        """Ends the run there."""

        def on_train_begin(self, state: TrainState, total_steps: int) -> None:
            """Nothing is left to wait for."""
            raise Reached

    made = Made(given)

    def reach(reuse: bool) -> CheckpointRef | None:
        with contextlib.suppress(Reached):
            return fine_tune.fn(made.head, made.encoded, made.settings.train, given["store"], reuse=reuse, callbacks=[Stop()])
        return None

    reach(reuse=False)
    return timed(lambda: reach(reuse=given.get("known", True)))


def timed(function: Callable[[], object]) -> dict[str, Any]:
    """Seconds of a call."""
    began = time.perf_counter()
    function()
    return {"seconds": time.perf_counter() - began}


def leave_out(given: dict[str, Any]) -> None:
    """Take out of the engine what this side is measured without."""
    from PIL.JpegImagePlugin import JpegImageFile

    from hubflow.modules.networks import text
    from hubflow.programs import session
    from hubflow.training import program as embedding_rows
    from hubflow.training import program as updates

    build = session.build_graph
    if not given.get("convolutions", True):
        session.convolve_by_onednn = lambda program: 0
    if not given.get("constants", True):
        session.share_constants = lambda program: 0
    if not given.get("first_token", True):
        session.build_graph = lambda *args, **options: build(*args, **{**options, "first_only": False})
    if not given.get("fused_biases", True):
        session.build_graph = lambda *args, **options: build(*args, **{**options, "fuses_biases": False})
    if not given.get("embedding_rows", True):
        embedding_rows.LARGE = 2**62
    if not given.get("scaling", True):
        updates.paddle = Multiplying(updates.paddle)
    if not given.get("order", True):
        text.encode = lane_by_lane(text)
    if not given.get("two_dimensions", True):
        keep_three_dimensions(text)
    if not given.get("draft", True):
        JpegImageFile.draft = lambda self, mode, size: None


class Multiplying:
    """Paddle, whose `scale` is a product."""

    def __init__(self, paddle: Any) -> None:
        self._paddle = paddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._paddle, name)

    @staticmethod
    def scale(x: Any, factor: Any) -> Any:
        """`x` times `factor` `[1]`."""
        return x * factor


def lane_by_lane(text: Any) -> Any:
    """An encoder that builds a sub_batch when the one before it is built."""
    encode = text.encode

    def encoded(config: Any, inputs: Any, parameters: Any, sub_batches: int = 1, first_only: bool = False) -> Any:
        parts = [
            text.in_sub_batches(getattr(inputs, name), sub_batches)
            for name in ("input_ids", "position_ids", "segment_ids", "input_mask")
        ]
        each = [encode(config, text.TextInputs(*part), parameters, 1, first_only) for part in zip(*parts, strict=True)]
        pooled, sequences = ([one[place] for one in each] for place in (0, 1))
        return text.joined(pooled), None if first_only else text.joined(sequences)

    return encoded


def keep_three_dimensions(text: Any) -> None:
    """Let linear layers of the encoder take and give `[batch, seq, size]`, and add their biases apart."""
    layer, apart, shares = text._layer, text.Parameters.linear, []

    def with_share(config: Any, number: int, share: Any, *others: Any) -> Any:
        shares.append(share)
        try:
            return layer(config, number, share, *others)
        finally:
            shares.pop()

    def linear(self: Any, name: str, x: Any, sizes: tuple[int, int]) -> Any:
        if not shares:
            return apart(self, name, x, sizes)
        product = text.paddle.matmul(x.reshape([shares[-1].batch, -1, sizes[0]]), self.matrix(f"{name}.weight", sizes))
        return (product + self.vector(f"{name}.bias", sizes[1]).expand_as(product)).reshape([-1, sizes[1]])

    text._layer, text.Parameters.linear = with_share, linear
