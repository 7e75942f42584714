"""A session waits until its runs are stored, and its functions have a help."""

import inspect
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from skywright.errors import DataError
from skywright.session import session_store
from skywright.session.profile import make_listdevs
from skywright.session.session_store import SessionStore


def test_a_run_that_never_comes_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run abc is not in the catalog, and its journal is not in"):
        SessionStore({}, tmp_path).await_run("abc", limit_s=60.0)
    journal = tmp_path / "journal" / "abc.jsonl"
    journal.parent.mkdir()
    journal.touch()
    with pytest.raises(DataError, match=r"run abc is not in the catalog after 0\.05 s"):
        SessionStore({}, tmp_path).await_run("abc", limit_s=0.05)
    with pytest.raises(DataError, match=r"run abc is not in the catalog after 0\.01 s"):
        SessionStore({"abc": "a part of it"}, tmp_path).await_run("abc", limit_s=0.01)
    aside = journal.parent / "aside" / journal.name
    aside.parent.mkdir()
    journal.rename(aside)
    with pytest.raises(
        DataError, match="run abc could not be stored; run `skywright recover`"
    ) as caught:
        SessionStore({"abc": "a part of it"}, tmp_path).await_run("abc")
    assert str(caught.value).endswith(f"the reason is in {tmp_path / 'logs' / 'ingester.log'}")
    aside.unlink()
    assert SessionStore({"abc": "run"}, tmp_path).await_run("abc") == "run"
    with pytest.raises(DataError, match=r"^object: expected the uid of a run; RE\(\.\.\.\)"):
        SessionStore({}, tmp_path).await_run(object())  # type: ignore[arg-type]


def test_a_run_is_awaited_as_long_as_runs_before_it_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal" / "abc.jsonl"
    journal.parent.mkdir()
    journal.touch()
    before = [f"run {number}" for number in range(20)]

    def one_less(_: Path) -> list[str]:
        if not before:
            journal.unlink()
            return []
        before.pop()
        return [*before, "abc"]

    monkeypatch.setattr(session_store, "waiting_runs", one_less)
    monkeypatch.setattr(session_store, "pause", lambda _: None)
    monkeypatch.setattr(
        session_store, "time", SimpleNamespace(monotonic=itertools.count().__next__)
    )
    assert SessionStore({"abc": "run"}, tmp_path).await_run("abc", limit_s=30.0) == "run"


def test_the_first_characters_of_a_uid_await_the_run(tmp_path: Path) -> None:
    uid, other = "1a2b3c4d-0000", "1a2b3c4e-0000"
    journals = tmp_path / "journal"
    (journals / "aside").mkdir(parents=True)
    journal, aside = journals / f"{uid}.jsonl", journals / "aside" / f"{uid}.jsonl"
    journal.touch()
    with pytest.raises(DataError, match=rf"run {uid} is not in the catalog after 0\.01 s"):
        SessionStore({"1a2b3c4d": "a part of it"}, tmp_path).await_run("1a2b3c4d", limit_s=0.01)
    journal.rename(aside)
    with pytest.raises(DataError, match=f"run {uid} could not be stored"):
        SessionStore({"1a2b3c4d": "a part of it"}, tmp_path).await_run("1a2b3c4d")
    (journals / f"{other}.jsonl").touch()
    # The catalog says what it does if they fit several runs
    assert SessionStore({"1a2b3c4": "run"}, tmp_path).await_run("1a2b3c4") == "run"


def test_the_help_of_a_function_of_the_session_tells_what_it_does_and_takes() -> None:
    store = SessionStore({}, Path())
    assert list(inspect.signature(store.await_run).parameters) == ["uid", "limit_s"]
    words = inspect.getdoc(store.await_run) or ""
    assert words.startswith("Return the run `uid` from the catalog")
    assert "Parameters\n----------\nuid\n    Uid of a run" in words
    assert "tiled's client" not in words
    for function in (store.print_key, make_listdevs({})):
        words = inspect.getdoc(function) or ""
        assert words.startswith("Print ")
        assert "Parameters" not in words
