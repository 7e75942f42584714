"""A mistake on a command line is a line that names the nearest option."""

import pytest

from skywright.processes.options import OptionParser, positive_number, speed_factor


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--inptu", "x"], "unrecognized arguments: --inptu x; did you mean --input?"),
        (["--zzz"], "unrecognized arguments: --zzz (--help"),
        (["--port", "a"], "argument --port: invalid int value: 'a'"),
        *(
            (["--speed", bad], f"argument --speed: '{bad}': expected a number above 0")
            for bad in ("0", "-1", "nan", "inf", "fast")
        ),
    ],
)
def test_a_mistake_is_a_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = OptionParser(prog="serve")
    parser.add_argument("--input")
    parser.add_argument("--port", type=int)
    parser.add_argument("--speed", type=positive_number)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(given)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(f"serve: {said}")
    assert text.count("\n") == 1


def test_a_speed_may_be_without_limit() -> None:
    assert (speed_factor("inf"), speed_factor("2")) == (float("inf"), 2.0)
