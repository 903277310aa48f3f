"""Drift: the same data compares equal, a change is told with both distributions, and chance is not taken for one."""

import datetime
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hubflow.data import profile as profile_history
from hubflow.data.profile import (
    Profiler,
    against_last,
    by_chance,
    compare,
    measured,
    series_of,
    shannon_distance,
    stability_index,
    write_profile,
)
from hubflow.schemas.data_checks import DriftLimits, DriftSettings
from hubflow.schemas.settings import DatasetSpec
from hubflow.store.store import Store

SETTINGS = DriftSettings()


def profile(rows: int = 2000, words: float = 20.0, positive: float = 0.5, seed: int = 0, word: str = "film") -> dict[str, Any]:
    random = np.random.default_rng(seed)
    texts = [" ".join([word] * max(1, length)) for length in random.poisson(words, rows)]
    labels = np.where(random.random(rows) < positive, "good", "bad")
    profiler = Profiler("text")
    profiler.add("train", pd.DataFrame({"text": pd.Series(texts, dtype="str"), "label": pd.Series(labels, dtype="str")}))
    found: dict[str, Any] = json.loads(json.dumps(profiler.profile()))
    return found


def checks(found: list[Any]) -> list[str]:
    return [f"{one.check} {one.message.split(':')[0]}" for one in found]


def test_the_same_profile_twice_is_no_change() -> None:
    one = profile()
    assert compare(one, one, SETTINGS) == []
    assert [measure.value for measure in measured(one, one, SETTINGS)] == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("rows", [20, 100, 2000])
def test_samples_of_one_population_are_no_change_however_few_rows_they_have(rows: int) -> None:
    profiles = [profile(rows, seed=seed) for seed in range(12)]
    assert [compare(one, other, SETTINGS) for one, other in itertools.pairwise(profiles)] == [[]] * 11


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rows": 900}, ["drift.rows train, rows"]),
        ({"rows": 4100}, ["drift.rows train, rows"]),
        ({"rows": 1100}, []),
        ({"positive": 0.8}, ["drift.labels train, labels"]),
        ({"words": 40.0}, ["drift.psi train, text, characters", "drift.psi train, text, words"]),
        ({"word": "1234"}, ["drift.psi train, kinds of characters"]),
    ],
)
def test_a_change_is_told_once_for_what_changed(change: dict[str, Any], expected: list[str]) -> None:
    found = compare(profile(), profile(seed=1, **change), SETTINGS)
    assert checks(found) == expected
    assert all(one.policy == "warn" for one in found)


def test_a_finding_shows_both_distributions_the_value_the_limit_and_the_setting() -> None:
    (found,) = compare(profile(positive=0.5), profile(positive=0.9), SETTINGS)
    assert "expected about what the last data set had (bad 48.9%, good 51.0%), found bad 9.2%, good 90.8%" in found.message
    assert "Jensen-Shannon distance 0.3" in found.message
    assert "limit 0.1" in found.message
    assert found.message.endswith("raise data.checks.drift.labels")
    assert (found.splits, found.count) == (("train",), 2000)


def test_limits_decide_what_follows() -> None:
    one, other = profile(), profile(positive=0.9, rows=5000)
    strict = DriftSettings(labels=DriftLimits(warn=0.1, fail=0.2), rows=DriftLimits())
    assert [(found.check, found.policy) for found in compare(one, other, strict)] == [("drift.labels", "fail")]
    assert compare(one, other, DriftSettings(labels=DriftLimits(), rows=DriftLimits())) == []
    with pytest.raises(ValueError, match="fail must not be below warn"):
        DriftLimits(warn=0.2, fail=0.1)


def test_a_split_that_comes_or_goes_is_a_change_of_rows() -> None:
    one, other = profile(), profile()
    other["splits"]["dev"] = one["splits"]["train"]
    assert [found.splits for found in compare(one, other, SETTINGS)] == [("dev",)]
    (gone,) = compare(other, one, SETTINGS)
    assert "one side has no rows" in gone.message
    assert json.loads(json.dumps([measure.value for measure in measured(other, one, SETTINGS)], allow_nan=False))[-1] is None


def test_the_index_and_the_distance_are_those_of_their_definitions() -> None:
    p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
    assert stability_index(p, q) == pytest.approx(0.25 * math.log(2) - 0.25 * math.log(0.5 / 0.75))
    assert shannon_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert shannon_distance(p, p) == 0.0
    assert by_chance(10, (1000, 1000)) == pytest.approx(27.877 * 2 / 1000, rel=0.01)  # chi-square of 9, 0.999


def spec(folder: Path, **more: Any) -> DatasetSpec:
    return DatasetSpec(format="tsv", train=str(folder / "train.tsv"), **more)


def test_the_first_run_says_that_there_was_nothing_to_compare_with(tmp_path: Path) -> None:
    found, report = against_last(Store(tmp_path), "s", "c", profile(10), SETTINGS)
    assert found == []
    assert report == {"note": profile_history.NOTHING, "compared_with": None, "measures": []}


def test_a_rerun_is_compared_with_the_last_other_content(tmp_path: Path) -> None:
    store, last, tonight = Store(tmp_path), profile(), profile(positive=0.9)
    write_profile(store, "s", "monday", "1", last)
    assert against_last(store, "s", "1", last, SETTINGS)[1]["note"] == profile_history.ONLY_THIS
    for _ in range(profile_history.KEPT + 2):
        found, report = against_last(store, "s", "2", tonight, SETTINGS)
        assert checks(found) == ["drift.labels train, labels"]
        assert report["compared_with"]["key"] == "monday"
        write_profile(store, "s", "tuesday", "2", tonight)
    assert len(list((tmp_path / "profiles" / "s").iterdir())) == 2
    json.dumps(report, allow_nan=False)


def test_the_last_thirty_are_kept_and_damaged_ones_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, small = Store(tmp_path), profile(5)
    for content in range(profile_history.KEPT + 3):
        path = write_profile(store, "s", f"key{content}", str(content), small)
    kept = sorted((tmp_path / "profiles" / "s").iterdir())
    assert len(kept) == profile_history.KEPT
    assert kept[0].name.endswith("-key3.json")
    (tmp_path / path).write_text('{"profile": ', encoding="utf-8")
    report = against_last(store, "s", "new", small, SETTINGS)[1]
    assert report["compared_with"]["key"] == f"key{profile_history.KEPT + 1}"
    assert "no readable profile" in caplog.text


def test_the_last_one_is_the_last_that_was_kept_when_the_clock_was_set_back(tmp_path: Path) -> None:
    store, small = Store(tmp_path), profile(5)
    kept = Path(write_profile(store, "s", "monday", "1", small))
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    ahead = tmp_path / kept.with_name(f"{tomorrow:{profile_history.STAMP}}-monday.json")
    (tmp_path / kept).rename(ahead)
    write_profile(store, "s", "tuesday", "2", small)
    assert against_last(store, "s", "3", small, SETTINGS)[1]["compared_with"]["key"] == "tuesday"


def test_a_series_is_the_task_the_places_and_the_columns_not_the_content(tmp_path: Path) -> None:
    usual = series_of(spec(tmp_path), "text_classification", SETTINGS)
    assert series_of(spec(tmp_path, max_rows=5), "text_classification", SETTINGS) == usual
    assert series_of(spec(tmp_path, text_column="body"), "text_classification", SETTINGS) != usual
    assert series_of(spec(tmp_path / "other"), "text_classification", SETTINGS) != usual
    named = DriftSettings(series="reviews")
    assert series_of(spec(tmp_path / "2026-11-01"), "text_classification", named) == series_of(
        spec(tmp_path / "2026-11-02"), "text_classification", named
    )
