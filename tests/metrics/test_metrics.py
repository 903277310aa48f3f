"""Metrics: exactly what scikit-learn and seqeval give, over all rows."""

import warnings
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2

from hubflow.metrics.classification import Calibration, ClassificationMetrics, MetricOptions
from hubflow.metrics.entities import Scheme, TagReader, scheme_of
from hubflow.metrics.metrics import ClassCounts, averages, classification_metrics, confusion, entity_metrics, log_softmax
from hubflow.schemas.labels import Tagging

IOB_TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"]
ANY_TAGS = [*IOB_TAGS, "E-PER", "S-LOC", "E-LOC", "S-PER"]
PREFIXED = Tagging("prefix")


def tag_rows(tags: list[str]) -> st.SearchStrategy[list[tuple[list[str], list[str]]]]:
    pair = st.tuples(st.sampled_from(tags), st.sampled_from(tags))
    row = st.lists(pair, max_size=12).map(lambda pairs: ([left for left, _ in pairs], [right for _, right in pairs]))
    return st.lists(row, min_size=1, max_size=6)


def by_seqeval(truth: list[list[str]], predicted: list[list[str]], **mode: Any) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"precision": seqeval.metrics.precision_score, "recall": seqeval.metrics.recall_score}
        scores = {**names, "f1": seqeval.metrics.f1_score}
        return {name: float(score(truth, predicted, zero_division=0, **mode)) for name, score in scores.items()}


@settings(max_examples=200, deadline=None)
@given(tag_rows(ANY_TAGS))
def test_entity_scores_are_seqevals_in_default_mode(rows: list[tuple[list[str], list[str]]]) -> None:
    """Defect 2: entity F1 was wrong."""
    truth, predicted = [left for left, _ in rows], [right for _, right in rows]
    assert entity_metrics(truth, predicted, tagging=PREFIXED) == pytest.approx(by_seqeval(truth, predicted))


@settings(max_examples=200, deadline=None)
@given(tag_rows(IOB_TAGS))
def test_entity_scores_are_seqevals_in_strict_iob2(rows: list[tuple[list[str], list[str]]]) -> None:
    """Defect 2: entity F1 was wrong."""
    truth, predicted = [left for left, _ in rows], [right for _, right in rows]
    found = entity_metrics(truth, predicted, "strict")
    if any(tag != "O" for row in truth + predicted for tag in row):
        assert found == pytest.approx(by_seqeval(truth, predicted, mode="strict", scheme=IOB2))
    else:
        assert found == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


SCHEMES: dict[Scheme, tuple[Any, str]] = {
    "IOB1": (seqeval.scheme.IOB1, "IB"),
    "IOB2": (seqeval.scheme.IOB2, "IB"),
    "IOE1": (seqeval.scheme.IOE1, "IE"),
    "IOE2": (seqeval.scheme.IOE2, "IE"),
    "BIOES": (seqeval.scheme.IOBES, "BIES"),
    "BILOU": (seqeval.scheme.BILOU, "BILU"),
}
BIOES = str.maketrans("LU", "ES")
"""seqeval does not take L and U for tags in its default mode, and joins two entities of one word each."""


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_entities_are_seqevals_in_every_scheme_for_any_order_of_labels(data: st.DataObject) -> None:
    scheme: Scheme = data.draw(st.sampled_from(sorted(SCHEMES)))
    theirs, prefixes = SCHEMES[scheme]
    labels = data.draw(st.permutations(["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("x", "y", "a-b"))]))
    ids = st.integers(0, len(labels) - 1)
    rows = data.draw(st.lists(st.lists(ids, max_size=9), min_size=1, max_size=4))
    reader = TagReader(labels, scheme)
    flat = reader.flat([np.array(row, np.int64) for row in rows])
    expected: dict[str, set[Any]] = {"default": set(), "strict": set()}
    start = 0
    for row in rows:
        tags = [labels[place] for place in row]
        expected["default"] |= {
            (kind, start + a, start + b) for kind, a, b in get_entities([tag.translate(BIOES) for tag in tags])
        }
        strict = seqeval.scheme.Tokens(tags, theirs).entities
        expected["strict"] |= {(one.tag, start + one.start, start + one.end - 1) for one in strict}
        start += len(row) + 1
    for mode in ("default", "strict"):
        found = reader.read(flat, mode)  # type: ignore[arg-type]
        assert {
            (reader.kinds[kind], first, last) for kind, first, last in zip(found.kind, found.first, found.last, strict=True)
        } == expected[mode]


@pytest.mark.parametrize(
    ("labels", "rows", "scheme"),
    [
        (["O", "B-x", "I-x"], [["B-x", "I-x", "O"], ["O", "B-x"]], "IOB2"),
        (["I-x", "O", "B-x"], [["I-x", "I-x", "B-x"], ["O"]], "IOB1"),
        (["O", "I-x"], [["I-x"]], "IOB1"),
        (["O", "B-x", "I-x"], [["I-x", "O"], ["B-x"]], "IOB2"),
        (["O", "B-x", "I-x"], [["I-x"], ["I-x", "B-x"]], "IOB1"),
        (["O", "B-x", "I-x", "E-x", "S-x"], [["S-x"]], "BIOES"),
        (["O", "B-x", "I-x", "L-x", "U-x"], [["U-x"]], "BILOU"),
        (["O", "I-x", "E-x"], [["E-x"]], "IOE2"),
        (["O", "B-x", "M-x", "E-x", "S-x"], [["S-x"]], "BIOES"),
        (["O", "x-B", "x-I"], [["x-B", "x-I"], ["x-I", "O"]], "IOB2"),
        (["LOC", "O", "USA", "STREET", "E-MAIL"], [["LOC"]], "plain"),
        (["O", "B-LOC", "I-LOC", "UNIT"], [["B-LOC", "UNIT"]], "IOB2"),
        (["B", "I", "O"], [["B", "I"]], "IOB2"),
    ],
)
def test_the_scheme_is_told_by_labels_and_tags(labels: list[str], rows: list[list[str]], scheme: str) -> None:
    assert scheme_of(labels, [np.array([labels.index(tag) for tag in row]) for row in rows]) == scheme


def test_the_two_modes_differ_where_an_entity_does_not_begin_with_b() -> None:
    tags = [["I-PER", "I-PER", "O", "B-LOC", "I-PER"]]
    truth = [["B-PER", "I-PER", "O", "B-LOC", "B-PER"]]
    assert entity_metrics(truth, tags)["f1"] == 1
    assert entity_metrics(truth, tags, "strict") == {"precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5}


def test_entities_do_not_run_over_the_end_of_a_row() -> None:
    rows = [["B-PER"], ["I-PER"]]
    assert entity_metrics(rows, rows) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert entity_metrics(rows, [["B-PER"], ["O"]])["recall"] == 0.5


def test_rows_of_different_lengths_are_refused_rather_than_cut() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        entity_metrics([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match="more tags, or fewer"):
        entity_metrics([["O", "O"]], [["O"]])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 3))] * 2)))
def test_classification_scores_are_scikit_learns(labels: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = labels
    found = classification_metrics(truth, predicted, 4)
    averaged: dict[str, Any] = {"labels": [0, 1, 2, 3], "zero_division": 0}
    kinds = {
        "precision": sklearn.metrics.precision_score,
        "recall": sklearn.metrics.recall_score,
        "f1": sklearn.metrics.f1_score,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found == pytest.approx(
            {
                "accuracy": sklearn.metrics.accuracy_score(truth, predicted),
                **{
                    f"{name}_{kind}": score(truth, predicted, average=kind, **averaged)
                    for kind in ("macro", "weighted")
                    for name, score in kinds.items()
                },
                "balanced_accuracy": sklearn.metrics.recall_score(
                    truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
                ),
                "mcc": sklearn.metrics.matthews_corrcoef(truth, predicted),
            }
        )
        counts = ClassCounts(4)
        counts.add(truth, predicted)
        micro = averages(counts.right, counts.predicted, counts.true)["micro"]
        assert micro == pytest.approx(
            {name: score(truth, predicted, average="micro", **averaged) for name, score in kinds.items()}
        )
    assert found["accuracy"] == int((truth == predicted).sum()) / len(truth)
    np.testing.assert_array_equal(
        confusion(truth, predicted, 4), sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4))
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(1, 40), st.integers(1, 9))
def test_scores_of_probabilities_are_scikit_learns_for_any_batches(seed: int, classes: int, rows: int, batch: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = log_softmax(generator.normal(size=(rows, classes)).round(1).astype(np.float32) * 3)  # rounded: some are equal
    judge = ClassificationMetrics(rows, classes, MetricOptions(top_k=(1, 3), bins=5))
    order = generator.permutation(rows)
    for start in range(0, rows, batch):
        places = order[start : start + batch]
        judge.add(places, labels[places], logits[places])
    found, probabilities = judge.metrics(), np.exp(logits)
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=range(classes)))
    assert found["top_1_accuracy"] == found["accuracy"] == (logits.argmax(-1) == labels).mean()
    assert ("top_3_accuracy" in found) == (classes > 3)
    if classes > 3:
        apart = logits - 1e-9 * np.arange(classes)  # of equal scores the first class wins here, the last in scikit-learn
        top = sklearn.metrics.top_k_accuracy_score(labels, apart, k=3, labels=range(classes))
        assert found["top_3_accuracy"] == pytest.approx(top)
    present, kept = np.unique(labels), logits.astype(np.float32)  # as scores are kept; what it makes equal counts by half
    areas = [sklearn.metrics.roc_auc_score(labels == one, kept[:, one]) for one in present] if len(present) > 1 else []
    if classes == 2 and areas:
        areas = [sklearn.metrics.roc_auc_score(labels, kept[:, 1] - kept[:, 0])]
    assert found.get("roc_auc") == (pytest.approx(np.mean(areas)) if areas else None)


def test_the_calibration_error_is_that_of_its_definition() -> None:
    confidence = np.array([0.05, 0.1, 0.15, 0.9, 0.95, 1.0])
    right = np.array([False, True, False, True, True, False])
    calibration = Calibration(10)
    calibration.add(confidence[:4], right[:4])
    calibration.add(confidence[4:], right[4:])
    assert calibration.count.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 1, 2]
    gaps = [2 * abs(0.5 - 0.075), abs(0 - 0.15), abs(1 - 0.9), 2 * abs(0.5 - 0.975)]
    assert calibration.error == pytest.approx(sum(gaps) / 6)


def test_log_probabilities_of_large_scores_are_finite() -> None:
    found = log_softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(found, [[0, -1000], [-np.log(2)] * 2])


def entities(rows: list[list[str]], labels: list[str], mode: Any = "default") -> list[list[tuple[str, int, int]]]:
    """Type, first and last word of each entity of each row."""
    ids = [np.array([labels.index(tag) for tag in row], np.int64) for row in rows]
    reader = TagReader(labels, scheme_of(labels, ids))
    found = []
    for row in ids:
        one = reader.read(reader.flat([row]), mode)
        found.append(sorted((reader.kinds[kind], a, b) for kind, a, b in zip(one.kind, one.first, one.last, strict=True)))
    return found


PREFIXED_ROWS = [["O", "B-PER", "I-PER", "B-ORG"], ["B-ORG", "I-ORG", "O", "B-OC", "O"], ["I-PER", "O"], ["B-LOC", "B-USA"]]
WRITTEN: dict[str, Any] = {
    "suffix": lambda tag: "-".join(reversed(tag.split("-"))),
    "underscore": lambda tag: tag.replace("-", "_"),
    "suffix with an underscore": lambda tag: "_".join(reversed(tag.split("-"))),
    "plain": lambda tag: tag.split("-")[-1],
}


@pytest.mark.parametrize("mode", ["default", "strict"])
@pytest.mark.parametrize("written", WRITTEN)
def test_the_same_entities_are_the_same_however_their_tags_are_written(written: str, mode: Any) -> None:
    rows = [row for row in PREFIXED_ROWS if row[0] != "I-PER"] if mode == "strict" else PREFIXED_ROWS
    other = [[WRITTEN[written](tag) for tag in row] for row in rows]
    labels, others = (sorted({tag for row in one for tag in row}) for one in (rows, other))
    assert entities(other, others, mode) == entities(rows, labels, mode)


@pytest.mark.parametrize("mode", ["default", "strict"])
def test_only_a_capital_o_is_outside(mode: Any) -> None:
    labels = ["O", "o", "0", "OC", "ORG", "OUT"]
    found = entities([["O", "o", "0", "0", "OC", "ORG", "ORG", "O", "OUT"]], labels, mode)
    assert found == [[("0", 2, 3), ("OC", 4, 4), ("ORG", 5, 6), ("OUT", 8, 8), ("o", 1, 1)]]


@pytest.mark.parametrize("mode", ["default", "strict"])
def test_a_type_of_its_own_among_tags_of_a_scheme_ends_the_entity_before_it(mode: Any) -> None:
    labels = ["O", "B-PER", "I-PER", "MISC"]
    found = entities([["B-PER", "I-PER", "MISC", "MISC", "B-PER", "MISC"]], labels, mode)
    assert found == [[("MISC", 2, 3), ("MISC", 5, 5), ("PER", 0, 1), ("PER", 4, 4)]]


@pytest.mark.parametrize("mode", ["default", "strict"])
def test_single_words_of_bilou_and_bmes_are_entities_of_their_own(mode: Any) -> None:
    bilou, bmes = ["O", "B-x", "I-x", "L-x", "U-x"], ["O", "B-x", "M-x", "E-x", "S-x"]
    expected = [[("x", 0, 0), ("x", 1, 1), ("x", 2, 4)]]
    assert entities([["U-x", "U-x", "B-x", "I-x", "L-x"]], bilou, mode) == expected
    assert entities([["S-x", "S-x", "B-x", "M-x", "E-x"]], bmes, mode) == expected
