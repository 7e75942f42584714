"""A mistake on a command line is a line that names the nearest option."""

from importlib import import_module

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


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("iocs.loop.axis", "--seed -1"),
        ("iocs.epu.ioc", "--polling -5"),
        ("iocs.epu.ioc", "--polling nan"),
        ("iocs.epu.ioc", "--lease nan"),
        ("iocs.epu.ioc", "--grids 0"),
        ("iocs.epu.ioc", "--holes -1"),
        ("iocs.panoseti.ioc", "--modules 0"),
        ("iocs.panoseti.ioc", "--movie-rate inf"),
        ("iocs.panoseti.ioc", "--max-file-mb nan"),
        ("iocs.panoseti.ioc", "--module-id 300"),
        ("iocs.panoseti.ioc", "--flash-rate -1"),
        ("iocs.panoseti.ioc", "--packet-port 70000"),
        ("iocs.panoseti.ioc", "--grpc-port 70000"),
    ],
)
def test_an_ioc_refuses_a_number_that_makes_no_sense(
    module: str,
    arguments: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, value = arguments.split()
    monkeypatch.setattr("sys.argv", [module, "--list-pvs", name, value])
    monkeypatch.setattr("iocs.common.share_arenas", lambda: None)  # for a process of its own
    with pytest.raises(SystemExit) as ended:
        import_module(module).main()
    assert ended.value.code == 2
    assert f"argument {name}: '{value}': expected" in capsys.readouterr().err
