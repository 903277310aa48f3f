"""The deployed pointer: moved whole, by one at a time, with its history, and moved back; in a flow as a transaction."""

import json
import threading
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.transactions import transaction
from runs import Run
from verdicts import store_with_exports, verdict_on

from hubflow.deployment.pointer import override, read_deployed, roll_back, undo
from hubflow.errors import PromotionError, StoreError
from hubflow.schemas.deployment import Deployed
from hubflow.schemas.references import ExportRef, VerdictRef
from hubflow.stages.promote import promote

Stocked = tuple[str, list[ExportRef]]


@pytest.fixture
def stocked(digits_run: Run, tmp_path: Path) -> Stocked:
    """A store, and three exports in it."""
    return store_with_exports(digits_run, tmp_path, "a", "b", "c")


def test_the_first_promotion_is_against_nothing_and_records_who_and_why(stocked: Stocked, digits_run: Run) -> None:
    store, (first, *_) = stocked
    assert read_deployed(store, "digits") == Deployed(name="digits")
    verdict = verdict_on(store, first, 0)
    moved = promote.fn(verdict, store, by="nightly 7")
    assert read_deployed(store, "digits") == moved
    assert (moved.export, moved.predecessor) == (first, None)
    (move,) = moved.history
    assert (move.by, move.reason, move.verdict, move.action) == ("nightly 7", "it is better", verdict, "promoted")
    assert move.checkpoint == digits_run.checkpoint


def test_what_is_in_use_already_stays_without_another_move(stocked: Stocked) -> None:
    store, (first, *_) = stocked
    moved = promote.fn(verdict_on(store, first, 0), store)
    assert promote.fn(verdict_on(store, first, 1), store) == moved


def test_a_candidate_that_was_kept_back_is_put_in_use_by_a_person_alone_and_that_is_recorded(stocked: Stocked) -> None:
    store, (first, *_) = stocked
    verdict = verdict_on(store, first, 0, "rejected")
    with pytest.raises(PromotionError, match="the gate's verdict is rejected"):
        promote.fn(verdict, store)
    with pytest.raises(PromotionError, match="a reason is needed"):
        override(first, "digits", store, " ", verdict=verdict)
    assert read_deployed(store, "digits").history == ()
    moved = override(first, "digits", store, "the test rows were wrong", by="ada", verdict=verdict)
    (move,) = read_deployed(store, "digits").history
    assert (move.action, move.by, move.reason, move.verdict) == ("overridden", "ada", "the test rows were wrong", verdict)
    assert moved.export == first


def test_a_verdict_against_what_is_no_longer_in_use_is_refused_naming_what_is(stocked: Stocked) -> None:
    store, (first, second, third) = stocked
    late = verdict_on(store, third, 1)
    promote.fn(verdict_on(store, first, 0), store)
    promote.fn(verdict_on(store, second, 1), store, by="the other")
    with pytest.raises(
        PromotionError, match=r"against revision 1, and the pointer is at revision 2, exports/b \(promoted by the o"
    ):
        promote.fn(late, store)
    assert read_deployed(store, "digits").export == second


def test_of_promotions_at_once_one_wins_and_every_other_is_told(stocked: Stocked) -> None:
    store, exports = stocked
    verdicts = [verdict_on(store, one, 0) for one in exports] * 3
    barrier, told, lock = threading.Barrier(len(verdicts)), [], threading.Lock()

    def attempt(verdict: VerdictRef) -> None:
        barrier.wait()
        try:
            outcome: object = promote.fn(verdict, store).export
        except PromotionError as error:
            outcome = error
        with lock:
            told.append(outcome)

    threads = [threading.Thread(target=attempt, args=(one,)) for one in verdicts]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    pointer = read_deployed(store, "digits")
    assert len(pointer.history) == 1
    winners = [one for one in told if isinstance(one, ExportRef)]
    assert {one.path for one in winners} == {pointer.export and pointer.export.path}
    losers = [str(one) for one in told if isinstance(one, PromotionError)]
    assert len(losers) >= 6
    assert all("evaluate the candidate against that" in one for one in losers)


def test_rollback_goes_back_step_by_step_and_then_says_that_nothing_is_left(stocked: Stocked) -> None:
    store, (first, second, third) = stocked
    for revision, one in enumerate((first, second, third)):
        promote.fn(verdict_on(store, one, revision), store)
    assert roll_back("digits", store, "slow").export == second
    assert roll_back("digits", store, "slower").export == first
    with pytest.raises(PromotionError, match="nothing was in use before exports/a"):
        roll_back("digits", store, "slowest")
    assert [move.action for move in read_deployed(store, "digits").history] == ["promoted"] * 3 + ["rolled_back"] * 2
    again = promote.fn(verdict_on(store, third, 5), store)
    assert again.predecessor is not None
    assert again.predecessor.export == first


def test_an_altered_export_is_neither_promoted_nor_rolled_back_to(stocked: Stocked) -> None:
    store, (first, second, _) = stocked
    promote.fn(verdict_on(store, first, 0), store)
    promote.fn(verdict_on(store, second, 1), store)
    Path(store, first.path, "label_map.json").write_text("[]")
    with pytest.raises(StoreError, match="altered"):
        roll_back("digits", store, "slow")
    assert read_deployed(store, "digits").export == second


@pytest.mark.parametrize("content", ["", "{}", '{"name": "digits", "history": [{"revision": 2}]}'])
def test_a_damaged_pointer_is_an_error_that_names_it(content: str, stocked: Stocked) -> None:
    store, (first, *_) = stocked
    file = Path(store, "deployed", "digits.json")
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(StoreError, match=r"deployed/digits\.json: not a deployed pointer"):
        override(first, "digits", store, "why not")
    assert file.read_text() == content


def test_a_name_that_leads_elsewhere_is_refused(stocked: Stocked) -> None:
    with pytest.raises(PromotionError, match="cannot be the name"):
        read_deployed(stocked[0], "../digits")


def test_what_was_promoted_since_is_not_undone(stocked: Stocked) -> None:
    store, (first, second, _) = stocked
    mine = verdict_on(store, first, 0)
    promote.fn(mine, store)
    promote.fn(verdict_on(store, second, 1), store)
    assert undo(mine, store, "failed").export == second


@task
def fail(is_failing: bool) -> None:
    if is_failing:
        raise RuntimeError("the report could not be written")


@flow
def night(verdict: VerdictRef, store: str, is_failing: bool) -> None:
    with transaction():
        promote(verdict, store)
        assert read_deployed(store, "digits").export == verdict.candidate
        fail(is_failing)


@pytest.mark.usefixtures("prefect_server")
def test_in_a_flow_a_failure_after_the_promotion_takes_it_back(stocked: Stocked) -> None:
    store, (first, second, _) = stocked
    with pytest.raises(RuntimeError, match="could not be written"):
        night(verdict_on(store, first, 0), store, True)
    assert read_deployed(store, "digits").export is None
    night(verdict_on(store, first, 2), store, False)
    with pytest.raises(RuntimeError, match="could not be written"):
        night(verdict_on(store, second, 3), store, True)
    pointer = read_deployed(store, "digits")
    assert pointer.export == first
    assert [move.action for move in pointer.history] == ["promoted", "undone", "promoted", "promoted", "undone"]
    assert pointer.history[-1].reason == "the run failed after the promotion"
    assert pointer.predecessor is None or pointer.predecessor.export is None


def test_the_file_is_read_by_people_and_programs(stocked: Stocked) -> None:
    store, (first, *_) = stocked
    promote.fn(verdict_on(store, first, 0), store)
    content = json.loads(Path(store, "deployed", "digits.json").read_text(encoding="utf-8"))
    assert content["history"][-1]["export"]["path"] == "exports/a"
