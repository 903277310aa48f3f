"""Predictor: an exported folder, loaded and used with nothing else."""

import functools
import itertools
import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hubflow.errors import PredictError, ProgramError, StoreError, join_limited
from hubflow.inference.export import PROGRAM
from hubflow.inference.opened_export import SIGNATURE, TOKENIZER, OpenedExport, open_export
from hubflow.metrics.sequence_labelling import outside_id
from hubflow.modules.images import ImageRules
from hubflow.modules.inputs import Feed, normalised, pad_text, pixels_of, require_batch_size, require_stride, rows_of
from hubflow.modules.tokenizer import encode_texts, encode_word_windows, full_lengths, parse_tokenizer
from hubflow.programs.operators import checked_program, require_weights
from hubflow.programs.precision import require_bfloat16_inference
from hubflow.runtime.memory import is_lack_of_memory, low_memory_explained, require_threads
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle
from hubflow.runtime.threads import thread_map, usable_cores
from hubflow.store.manifest import not_written

__all__ = ["PredictError", "Prediction", "Predictor"]
SHOWN_CHARS = 300
MEMORY_REMEDY = "Give a smaller batch_size"
TOKENS_AT_ONCE = 2048
"""Of a batch, padding included: with 8192, MiniLM-L6 took a quarter longer on 2 cores."""


class WordScores(NamedTuple):
    """What the model says of the words of one row.

    Attributes:
        labels: class of each word `[words]`.
        probabilities: `[words, classes]`; NaN of a word that the model did not see.
        num_cut: how many words `max_seq_len` cut off.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    num_cut: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one row.

    Two predictions are equal when label and every probability are equal; NaN equals NaN.

    Attributes:
        label: the most probable label; a tuple of one label a word for sequences.
        probability: its probability; a tuple for sequences.
        probabilities: of every label, in the label map's order `[classes]`; `[words, classes]` for sequences (a word that
            was cut off by `max_seq_len` has the label O, or the first, and NaN probabilities).
    """

    label: Any
    probability: Any
    probabilities: NDArray[np.float32] = field(repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return self.label == other.label and np.array_equal(self.probabilities, other.probabilities, equal_nan=True)

    def __hash__(self) -> int:
        return hash((self.label, self.probabilities.shape))  # equal predictions may differ in the bits of NaN and of zero

    def to_dict(self) -> dict[str, Any]:
        """`label`, `probability` and `probabilities` as plain strings, numbers and lists, which JSON can hold; None for NaN."""
        is_sequence = isinstance(self.label, tuple)
        return {
            "label": list(self.label) if is_sequence else self.label,
            "probability": _plain(self.probability),
            "probabilities": _plain(self.probabilities.tolist()),
        }


class Predictor:
    """An exported model, made by `Predictor.load`.

    Args:
        export: the opened folder, verified against its manifest.
        threads: of one prediction; as many as the cores that this process may use when None.

    Attributes:
        folder: the exported folder.
        task: image_classification, text_classification or sequence_labelling.
        signature: content of the export's `signature.json`.
        label_map: labels in the order of their class ids.
        image_rules: how images become pixels, as in training.
        threads: as given.

    Raises:
        DeviceError: for an export in bfloat16 on a CPU without it.
        ProgramError: when the program does anything but compute, or cannot be loaded.

    Example:
        predictor = Predictor.load("hubflow-store/exports/…")
        predictor.predict(["a fine film", "a dull one"])
    """

    def __init__(self, export: OpenedExport, threads: int | None = None) -> None:
        self.folder, self.threads, self._export = export.folder, threads, export
        self.signature, self.label_map = export.signature, export.label_map
        self.task: str = self.signature["task"]
        self.image_rules = ImageRules.of(self.signature.get("image", {}))  # of its training, whatever they are today
        is_half = self.signature.get("precision") == "bfloat16"
        if is_half:
            require_bfloat16_inference()
        self._engine = _engine(export, threads or usable_cores(), by_onednn=not is_half)
        self._running = threading.Lock()  # of the engine's one set of inputs and outputs

    @classmethod
    @low_memory_explained("loading an export", "Free memory")
    def load(cls, path: str | Path, threads: int | None = None) -> Self:
        """Load an exported folder, every file verified against its manifest.

        Args:
            path: the folder.
            threads: of one prediction; as many as the cores that this process may use when None.

        Returns:
            The predictor.

        Raises:
            StoreError: when the folder is incomplete, or a file was altered or is not what it must be.
            LabelMapError: when its label map is none, or that of another export.
            SignatureError: when `trust.keys` is set, and none of them has signed it.
            ProgramError: when its program does anything but compute, or cannot be loaded.
            DeviceError: for an export in bfloat16 on a CPU without it.
            OutOfMemoryError: when memory runs out.
        """
        return cls(open_export(Path(path)), threads)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled is where the export is, not what it holds: the other process loads the folder, and verifies it again."""
        folder = self.folder.absolute()
        return _reloaded, (type(self), str(folder), self.threads, self.manifest_sha256)

    @property
    def manifest_sha256(self) -> str | None:
        """Hash of the export's manifest; None of one that is being made."""
        return None if self._export.sealed is None else self._export.sealed.sha256

    @low_memory_explained("prediction", MEMORY_REMEDY)
    def predict(self, inputs: Any, batch_size: int = 64, stride: int | None = None) -> list[Prediction]:
        """Predict on rows, in order.

        Args:
            inputs: texts; pairs `(text, text_pair)`; lists of words for sequence labelling; image paths, bytes, open files, PIL
                images or uint8 arrays. One text, one tuple of two texts or one image is one row. A frame has them in the
                columns `text`, `text` and `text_pair`, `tokens`, or `image` (else `path`).
            batch_size: largest number of rows that are predicted together; rows of similar length share a batch.
            stride: sequence labelling: smallest number of tokens that two windows of a longer sentence share; None cuts it.

        Returns:
            A prediction for each row.

        Raises:
            PredictError: naming the row whose type does not fit the task, or for a stride with another task.
            ImageError: for an image that does not decode.
            OutOfMemoryError: when memory runs out.
        """
        if self.signature["rows_kind"] == "tokens":
            scores = self.word_scores(inputs, batch_size, stride)
            return [self._sequence(one.labels, one.probabilities) for one in scores]
        if stride is not None:
            raise PredictError(f"stride is for sequence_labelling, this export's task is {self.task}; leave it out")
        return [self._one(probabilities) for probabilities in self.scores(inputs, batch_size)]

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Run the program on one batch of encoded inputs, as the signature describes them.

        Args:
            feed: arrays by input: for texts `input_ids`, `position_ids`, `segment_ids` int64 and `input_mask` float32, all
                `[rows, tokens]`; for images `image` `[rows, 3, size, size]` float32.

        Returns:
            Probabilities `[rows, classes]`, or `[rows, tokens, classes]` for sequence labelling.

        Raises:
            ProgramError: when the program cannot be run on them, or gives something else.
            OutOfMemoryError: when memory runs out.
        """
        with self._running:
            for name in self._engine.get_input_names():
                with low_memory_explained("prediction", MEMORY_REMEDY):
                    self._engine.get_input_handle(name).copy_from_cpu(feed[name])
            try:
                with low_memory_explained("prediction", MEMORY_REMEDY):
                    self._engine.run()
                    handle = self._engine.get_output_handle(self._engine.get_output_names()[0])
                    output: NDArray[np.float32] = handle.copy_to_cpu()
            except (ValueError, RuntimeError, IndexError, TypeError, NotImplementedError) as error:
                raise ProgramError(f"{self.folder}: the program cannot be run on these rows ({_last_line(error)})") from error
        if output.dtype != np.float32 or output.ndim < 2 or output.shape[-1] != self.label_map.num_classes:  # noqa: PLR2004
            raise ProgramError(
                f"{self.folder}: the program gave {output.dtype} of shape {list(output.shape)}, expected probabilities of "
                f"{self.label_map.num_classes} labels; make the export again"
            )
        return output

    @low_memory_explained("prediction", MEMORY_REMEDY)
    def scores(self, inputs: Any, batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities of every label for each row, for classification.

        Args:
            inputs: as `predict` takes them.
            batch_size: largest number of rows that are predicted together.

        Returns:
            Probabilities `[rows, classes]`, classes in the label map's order.

        Raises:
            PredictError: naming the row whose type does not fit the task.
            ImageError: for an image that does not decode.
            OutOfMemoryError: when memory runs out.
        """
        if "image" not in self.signature:
            return self.text_scores(inputs, batch_size)[0]
        rows, batch_size = rows_of(inputs, self.signature["rows_kind"]), require_batch_size(batch_size)
        parts = [self.pixel_scores(pixels) for pixels in self._pixels(rows, batch_size)]
        return np.concatenate(parts or [np.zeros((0, self.label_map.num_classes), np.float32)])

    @low_memory_explained("prediction", MEMORY_REMEDY)
    def text_scores(self, inputs: Any, batch_size: int = 64) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Probabilities of texts or pairs, and what `max_seq_len` cut off.

        Args:
            inputs: texts, or pairs `(text, text_pair)`.
            batch_size: largest number of rows that are predicted together.

        Returns:
            Probabilities `[rows, classes]`, and the number of tokens that were cut off `[rows]`.

        Raises:
            PredictError: naming the row that is no text, or no pair.
            OutOfMemoryError: when memory runs out.
        """
        rows, batch_size = rows_of(inputs, self.signature["rows_kind"]), require_batch_size(batch_size)
        num_cut = np.zeros(len(rows), np.int64)
        if not rows:
            return np.zeros((0, self.label_map.num_classes), np.float32), num_cut
        scores, lengths = self._text_scores(rows, batch_size)
        limit = self.signature["text"]["max_seq_len"]
        full = np.flatnonzero(lengths >= limit)  # only these can have been longer
        if len(full):
            num_cut[full] = full_lengths(self._tokenizer, [rows[row] for row in full.tolist()]) - limit
        return np.stack(scores), num_cut

    def pixel_scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of one batch of images whose pixels are at the size of the export.

        Args:
            pixels: `[rows, 3, size, size]` uint8, RGB.

        Returns:
            Probabilities `[rows, classes]`.

        Raises:
            ProgramError: when the program cannot be run on them.
            OutOfMemoryError: when memory runs out.
        """
        spec = self.signature["image"]
        mean, std = np.asarray(spec["mean"], np.float32), np.asarray(spec["std"], np.float32)
        return self.run({"image": normalised(pixels, mean, std)})

    @low_memory_explained("prediction", MEMORY_REMEDY)
    def word_scores(self, inputs: Any, batch_size: int = 64, stride: int | None = None) -> list[WordScores]:
        """For each row of words, the class of each word and its probabilities, as `Prediction` has them.

        Args:
            inputs: lists of words.
            batch_size: largest number of rows that are predicted together.
            stride: smallest number of tokens that two windows of a longer sentence share; None cuts it.

        Returns:
            Labels `[words]`, probabilities `[words, classes]` and the number of words that were cut off, for each row.

        Raises:
            PredictError: naming the row that is no list of words.
            TokenizerError: for a stride that leaves no room.
            OutOfMemoryError: when memory runs out.
        """
        words, batch_size, stride = rows_of(inputs, "tokens"), require_batch_size(batch_size), require_stride(stride)
        encoded = encode_word_windows(self._tokenizer, words, self.signature["text"]["max_seq_len"], stride)
        segments = [np.zeros_like(row) for row in encoded.input_ids]
        scores = self._run_text(encoded.input_ids, segments, batch_size)
        outside, found = outside_id(self.label_map), []
        for windows, pieces, num_cut in zip(encoded.windows, encoded.pieces, encoded.num_cut.tolist(), strict=True):
            by_word = np.full((len(windows), self.label_map.num_classes), np.nan, np.float32)
            for window in np.unique(windows[windows >= 0]):
                by_word[windows == window] = scores[window][pieces[windows == window]]
            labels = np.where(windows >= 0, by_word.argmax(-1), outside)
            found.append(WordScores(labels, by_word, num_cut))
        return found

    def _text_scores(self, rows: Sequence[Any], batch_size: int) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
        """Probabilities of each row, and its length in tokens."""
        is_pair = self.signature["rows_kind"] == "text_pair"
        texts = [row[0] for row in rows] if is_pair else rows
        pairs = [row[1] for row in rows] if is_pair else None
        ids, segments = encode_texts(self._tokenizer, texts, pairs, self.signature["text"]["max_seq_len"])
        return self._run_text(ids, segments, batch_size), np.array([len(row) for row in ids], np.int64)

    def _pixels(self, images: Sequence[Any], batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Batches of pixels, decoded by threads while the one before is predicted on."""
        size = self.signature["image"]["image_size"]
        rows = range(len(images))
        decoded = thread_map(
            lambda row: pixels_of(images[row], size, row, self.image_rules), rows, usable_cores(), ahead=2 * batch_size
        )
        while batch := list(itertools.islice(decoded, batch_size)):
            yield np.stack(batch)

    def _run_text(
        self, ids: Sequence[NDArray[Any]], segments: Sequence[NDArray[Any]], batch_size: int
    ) -> list[NDArray[np.float32]]:
        results: list[Any] = [None] * len(ids)
        lengths = np.array([len(row) for row in ids])
        for batch in _batches(lengths, batch_size):
            feed = pad_text(
                [ids[row] for row in batch], [segments[row] for row in batch], self.signature["text"]["pad_token_id"]
            )
            for row, probabilities in zip(batch, self.run(feed), strict=True):
                results[row] = probabilities
        return results

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return parse_tokenizer(self._export.read(TOKENIZER), self.folder / TOKENIZER)

    def _one(self, probabilities: NDArray[np.float32]) -> Prediction:
        best = int(probabilities.argmax())
        return Prediction(self.label_map.labels[best], float(probabilities[best]), probabilities)

    def _sequence(self, best: NDArray[np.int64], by_word: NDArray[np.float32]) -> Prediction:
        labels = tuple(self.label_map.labels[label] for label in best)
        return Prediction(labels, tuple(by_word[np.arange(len(best)), best].tolist()), by_word)


def _batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each batch, longest first: at most `batch_size`, and no more than keep its tokens in the caches."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = min(batch_size, max(1, TOKENS_AT_ONCE // max(1, int(lengths[order[start]]))))
        yield order[start : start + rows]
        start += rows


def _plain(value: Any) -> Any:
    """Numbers, or tuples and lists of them, as lists of numbers and None."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return None if math.isnan(value) else value


def _reloaded(kind: type[Predictor], folder: str, threads: int | None, manifest_sha256: str | None) -> Predictor:
    export = open_export(Path(folder))
    if export.sealed is None or export.sealed.sha256 != manifest_sha256:
        raise StoreError(f"{folder}: another export is there than when the predictor was pickled; load it anew")
    return kind(export, threads)


def _engine(export: OpenedExport, threads: int, by_onednn: bool) -> Any:
    """Have Paddle load the program that was checked, from a folder of this process, and the weights where they are."""
    source, weights = export.folder / f"{PROGRAM}.json", export.folder / f"{PROGRAM}.pdiparams"
    program = checked_program(export.read(source.name), source)
    require_weights(program, weights)
    try:
        private = tempfile.TemporaryDirectory(prefix="hubflow-")
        own = Path(private.name, source.name)
        own.write_bytes(program.content)
    except OSError as error:
        raise not_written(Path(tempfile.gettempdir()), error) from error  # the copy of the program that is loaded
    with private:
        config = paddle.inference.Config(str(own), str(weights))
        config.enable_new_ir(True)
        config.disable_glog_info()
        if by_onednn:  # for this engine alone: the flag by which training would compute with it stays as it is
            config.enable_mkldnn()  # a program in bfloat16 loses by its conversions what it won: 240 ms instead of 153
        config.set_cpu_math_library_num_threads(threads)  # which the engine sets anew, for its own thread, whenever it runs
        try:
            require_threads()
            with BUILD_LOCK:  # of reading a program the parts are shared with all who build one
                engine = paddle.inference.create_predictor(config)
        except (ValueError, RuntimeError, IndexError, TypeError, OSError, NotImplementedError) as error:
            if is_lack_of_memory(type(error).__name__, str(error), getattr(error, "errno", None)):
                raise
            raise ProgramError(
                f"{source}: Paddle cannot load the program ({_last_line(error)}); make the export again"
            ) from error
    export.require_unchanged(weights.name)
    unknown = sorted(set(engine.get_input_names()) - set(export.signature["inputs"]))
    if unknown or len(engine.get_output_names()) != 1:
        raise ProgramError(
            f"{source}: the program takes {join_limited(engine.get_input_names())} and has {len(engine.get_output_names())} "
            f"output(s); expected one, and the inputs of {SIGNATURE}: {join_limited(export.signature['inputs'])}"
        )
    return engine


def _last_line(error: Exception) -> str:
    """What Paddle says is wrong, without the many lines about where in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "[operator" not in line]
    return lines[-1][:SHOWN_CHARS] if lines else type(error).__name__
