"""Commands that take runs ask for one before they look for a server."""

from pathlib import Path

import pytest

from skywright.cli import main


@pytest.mark.parametrize(
    "command", [["show"], ["export"], ["reprocess", "--analysis", "loop_detection"]]
)
def test_a_run_that_is_not_named_is_asked_for(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path / "store"))
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "skywright: name " in capsys.readouterr().err
