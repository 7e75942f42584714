"""The result of a plan as the console shows it."""

from dataclasses import dataclass
from functools import partial

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.plans import count
from bluesky.run_engine import RunEngine, RunEngineResult
from bluesky.utils import MsgGenerator
from IPython.core.interactiveshell import InteractiveShell

from skywright.session.results import result_text, show_results, value_text


@dataclass(frozen=True)
class Answer:
    uid: str
    delay_ps: float
    delay: np.ndarray
    moved_um: tuple[float, ...]


def engine_result(plan_result: object, reason: str = "") -> RunEngineResult:
    status = "fail" if reason else "success"
    return RunEngineResult(("0123456789ab",), plan_result, status, False, reason, None)


ANSWER = Answer("0123456789ab", -0.0337123456, np.linspace(0, 1, 21), (1.0, 2.5, -3.25))


def test_a_dataclass_is_a_table() -> None:
    text = result_text(engine_result(ANSWER))
    lines = text.splitlines()
    assert lines[0] == "run 01234567: success"
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}
    assert rows == {
        "uid": "0123456789ab",
        "delay_ps": "-0.0337123",
        "delay": "[0. 0.05 ... 0.95 1. ] (21)",
        "moved_um": "1, 2.5, -3.25",
    }
    assert max(map(len, result_text(engine_result(ANSWER), 40).splitlines())) <= 40


def test_a_result_inside_another_has_lines_of_its_own() -> None:
    @dataclass(frozen=True)
    class Whole:
        part: Answer
        sigma: float

    lines = result_text(engine_result(Whole(ANSWER, 0.5))).splitlines()[1:]
    assert [line.split()[0] for line in lines] == [
        "part.uid", "part.delay_ps", "part.delay", "part.moved_um", "sigma",
    ]  # fmt: skip


def test_the_uid_alone_is_not_repeated_and_a_reason_is_told() -> None:
    assert result_text(engine_result("0123456789ab")) == "run 01234567: success"
    assert result_text(engine_result(None)) == "run 01234567: success"
    aborted = RunEngine({}).NO_PLAN_RETURN
    assert result_text(engine_result(aborted)) == "run 01234567: success"
    assert result_text(engine_result(None, "no beam")) == "run 01234567: fail, no beam"
    assert result_text(engine_result({"a": 1})).endswith("\n{'a': 1}")


def test_long_lists_are_shown_by_their_ends() -> None:
    assert value_text(list(range(10))) == "0, 1 ... 9  (10)"
    assert value_text(np.zeros((2, 3))).endswith("(2 x 3)")


def test_four_values_are_shown_in_full() -> None:
    assert value_text([1, 2, 3, 4]) == "1, 2, 3, 4"
    assert value_text(np.arange(4)) == "[0 1 2 3]"


def test_the_shell_shows_the_table() -> None:
    shell = InteractiveShell()

    def plan() -> MsgGenerator[Answer]:
        yield from bps.null()
        return ANSWER

    show_results(shell, [plan, bps.null])
    shown, _ = shell.display_formatter.format(engine_result(ANSWER))
    assert shown["text/plain"].startswith("run 01234567: success\n")
    assert "delay_ps" in shown["text/plain"]
    shown, _ = shell.display_formatter.format(ANSWER)
    assert shown["text/plain"].startswith(" uid")
    assert "delay_ps" in shown["text/plain"]


def test_a_plan_typed_without_the_engine_says_how_it_is_run() -> None:
    def ours() -> MsgGenerator[None]:
        yield from bps.null()

    shell = InteractiveShell()
    show_results(shell, [])
    for plan in (ours(), count([])):  # a generator, and an object of bluesky
        shown, _ = shell.display_formatter.format(plan)
        assert shown["text/plain"].startswith("<")
        assert shown["text/plain"].endswith(">: RE(...) runs a plan")
        plan.close()


def test_a_plan_whose_hints_cannot_be_resolved_ends_no_session() -> None:
    def foreign() -> "MsgGenerator[NotImported]":  # type: ignore[name-defined]  # noqa: F821
        yield from bps.null()

    def plan() -> MsgGenerator[Answer]:
        yield from bps.null()
        return ANSWER

    shell = InteractiveShell()
    show_results(shell, [foreign, partial(foreign), plan])
    shown, _ = shell.display_formatter.format(ANSWER)
    assert shown["text/plain"].startswith(" uid")
