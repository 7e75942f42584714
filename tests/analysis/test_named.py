"""Analyses by name: an error in a name or an import is one line."""

from pathlib import Path

import pytest

from skywright.analysis.named import analysis_class, is_second_stage
from skywright.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (":Mean", "Empty module name"),
        (".mine:Mean", "TypeError"),
        ("no_such_module:Mean", "No module named"),
        ("json:Mean", "has no attribute"),
        ("of_a_user_wrong:Mean", "SyntaxError: .*of_a_user_wrong.py, line 1"),
        ("of_a_user_fails:Mean", "RuntimeError: no GPU"),
    ],
)
def test_an_analysis_that_cannot_be_imported_is_named(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_user_wrong.py").write_text("x = = 3\n")
    (tmp_path / "of_a_user_fails.py").write_text("raise RuntimeError('no GPU')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for look_up in (analysis_class, is_second_stage):
        with pytest.raises(ConfigError, match=f"analysis '{name}' cannot be imported .*{why}"):
            look_up(name)
