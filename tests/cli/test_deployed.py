"""The commands about what is in use: by the gate's verdict, by a person's decision, back again, each as one line of JSON."""

from pathlib import Path

import pytest
from command_lines import one_line, run
from runs import Run
from verdicts import store_with_exports, verdict_on

pytestmark = pytest.mark.slow


@pytest.fixture
def store(digits_run: Run, tmp_path: Path) -> str:
    """A store with exports `a`, that the gate promoted, `b`, that it rejected, and `c`, that it has not evaluated."""
    store, (first, second, _) = store_with_exports(digits_run, tmp_path, "a", "b", "c")
    verdict_on(store, first, 0)
    verdict_on(store, second, 1, "rejected", reason="accuracy is lower")
    return store


def test_promote_override_and_rollback_each_print_what_is_in_use(store: str) -> None:
    assert one_line(run("deployed", "--store", store, "--json").stdout) == {"deployed": []}
    first = one_line(run("promote", f"{store}/exports/a", "digits", "--json").stdout)
    assert (first["name"], first["revision"], first["export"]) == ("digits", 1, "exports/a")
    refused = run("promote", f"{store}/exports/b", "digits", "--json")
    assert refused.exit_code == 2
    assert "the gate's verdict is rejected (accuracy is lower)" in one_line(refused.stdout)["error"]
    decided = run("promote", "c", "digits", "--store", store, "--override", "--reason", "asked for", "--by", "ada", "--json")
    assert one_line(decided.stdout)["export"] == "exports/c"
    back = one_line(run("rollback", "digits", "--store", store, "--reason", "too slow", "--json").stdout)
    assert (back["revision"], back["export"]) == (3, "exports/a")
    (shown,) = one_line(run("deployed", "--store", store, "--json").stdout)["deployed"]
    assert [(move["action"], move["reason"]) for move in shown["history"]] == [
        ("promoted", "it is better"),
        ("overridden", "asked for"),
        ("rolled_back", "too slow"),
    ]


def test_a_person_reads_what_is_in_use_and_its_history(store: str) -> None:
    assert run("deployed", "--store", store).stdout == "nothing is in use\n"
    run("promote", f"{store}/exports/a", "digits", "--by", "nightly")
    assert run("deployed", "--store", store).stdout.startswith("digits: exports/a, revision 1, promoted by nightly on ")
    history = run("deployed", "digits", "--store", store).stdout
    assert "it is better" in history
    assert "nightly" in history


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "{store}/exports/c", "digits"], "the gate has not evaluated it for 'digits'"),
        (["promote", "{store}/exports/c", "digits", "--override"], "a reason is needed"),
        (["promote", "{store}/exports/absent", "digits"], "no intact export 'absent'"),
        (["promote", "{store}/tasks/c", "digits"], "not an export of a store"),
        (["rollback", "digits", "--store", "{store}", "--reason", "x"], "nothing was in use before"),
        (["rollback", "digits", "--store", "{store}"], "a reason is needed"),
    ],
)
def test_what_cannot_be_done_is_told_with_code_2(arguments: list[str], message: str, store: str) -> None:
    result = run(*[one.replace("{store}", store) for one in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
