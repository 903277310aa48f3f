"""word_importances: what leaving words out does to the odds of a label, and how a text is marked by it."""

import math

import pytest
from runs import Run

from hubflow.inference.predictor import Predictor
from hubflow.reporting.splits import MAX_MARKS, MAX_SPANS, Span, marked, word_importances


def test_weights_are_differences_of_log_odds(text_run: Run) -> None:
    predictor = Predictor.load(text_run.export_folder)
    text = "a fine film of no plot ."
    (spans,) = word_importances(predictor, [(text,)], ["1"], 400)[0]
    assert [text[span.start : span.end] for span in spans] == ["a", "fine", "film", "of", "no", "plot"]
    whole, without = (one.probabilities[1] for one in predictor.predict([text, "a   film of no plot ."]))
    expected = math.log(whole / (1 - whole)) - math.log(without / (1 - without))
    assert spans[1].weight == pytest.approx(expected, abs=1e-5)
    assert spans[1].weight != 0


def test_words_of_a_long_text_are_left_out_together_and_signs_of_chinese_one_by_one(text_run: Run) -> None:
    predictor = Predictor.load(text_run.export_folder)
    long, chinese = word_importances(predictor, [("a fine film " * 100,), ("很好看。",)], ["1", "0"], 400)
    assert 0 < len(long[0]) <= MAX_SPANS
    assert max(span.end for span in long[0]) <= 400
    assert [(span.start, span.end) for span in chinese[0]] == [(0, 1), (1, 2), (2, 3)]


def test_the_heaviest_words_are_marked_by_side_and_strength_and_the_text_stays_whole() -> None:
    text = "one two three four"
    spans = [Span(0, 3, 0.9), Span(4, 7, -0.4), Span(8, 13, 0.001), Span(14, 18, 0.2)]
    pieces = marked(text, spans)
    assert "".join(piece.text for piece in pieces) == text
    marks = {piece.text: piece.mark for piece in pieces if piece.mark}
    assert marks == {"one": "for s3", "two": "against s2", "four": "for s1"}
    many = marked("x" * 40, [Span(place, place + 1, 1.0) for place in range(0, 40, 2)])
    assert sum(bool(piece.mark) for piece in many) == MAX_MARKS
    assert "".join(piece.text for piece in marked("y" * 500, [])) == "y" * 400 + "…"
