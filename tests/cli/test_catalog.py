"""`skywright runs`, `show`, `export`, and the examples of their documentation."""

import doctest
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from event_model import compose_run
from rich.console import Console
from support.sample_runs import (
    DEAD,
    DERIVED_V1,
    DERIVED_V2,
    FLY,
    INTERRUPTED,
    SCAN,
    SampleStore,
    shared_sample_store,
)

from skywright.callbacks.journal import Journal
from skywright.cli import catalog, main
from skywright.store.lookup import RunSummary, find_run
from skywright.store.show import RunView, view_run

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(
    pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SampleStore]:
    """Let the command line use the sample runs, in an empty directory, in UTC."""
    store = shared_sample_store(pytestconfig)
    monkeypatch.setenv("SKYWRIGHT_STORE__TILED_URI", store.uri)
    monkeypatch.setenv("SKYWRIGHT_STORE__API_KEY", store.api_key)
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path / "store"))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    time.tzset()
    yield store
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def skywright(store: SampleStore, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command: exit status, stdout, stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_runs_as_json(skywright: Run) -> None:
    status, out, _ = skywright("runs", "--json")
    assert status == 0
    uids = [run["uid"] for run in json_lines(out)]
    assert uids == [SCAN, DERIVED_V1, FLY, DERIVED_V2, DEAD, INTERRUPTED]
    first = json_lines(out)[0]
    assert (first["status"], first["events"]) == ("success", {"baseline": 2, "primary": 5})


@pytest.mark.parametrize(
    ("args", "uids"),
    [
        (["--plan", "scan"], [SCAN]),
        (["--scan-id", "7", "--limit", "1"], [INTERRUPTED]),
        (["--sample", "thaumatin"], [FLY]),
        (["--raw", "4f0c", "--since", "2026-05-02"], [DERIVED_V2]),
        (["--raw", "-4"], [DERIVED_V1, DERIVED_V2]),
        (["--purpose", "analysis"], [DERIVED_V1, DERIVED_V2]),
        (["--analysis", "loop"], [DERIVED_V1, DERIVED_V2]),
        (["müller"], [SCAN]),
        (["--plan", "nothing"], []),
    ],
)
def test_runs_selects(skywright: Run, args: list[str], uids: list[str]) -> None:
    status, out, _ = skywright("runs", "--json", *args)
    assert status == 0
    assert [run["uid"] for run in json_lines(out)] == uids


def test_an_empty_catalog_is_no_search_that_finds_nothing(
    skywright: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skywright.store.lookup.find_runs", lambda *_: [])
    assert skywright("runs") == (0, "", "no run in the catalog yet\n")
    assert skywright("runs", "--plan", "count") == (0, "", "no run matches\n")


def test_show(skywright: Run) -> None:
    status, out, _ = skywright("show", "4f0c")
    assert status == 0
    for text in (SCAN, "stream primary, 5 rows", "5 × 48 × 64", "analysis loop 2.0, d1a5e002"):
        assert text in out
    assert "offset_um = 1.75" in out
    assert f"{DERIVED_V2}-sheet.png" in out


def test_show_gives_few_columns_and_results_unless_asked_for_all(
    skywright: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "COLUMNS_MAX", 1)
    monkeypatch.setattr(catalog, "RESULTS_MAX", 0)
    few, everything = skywright("show", "4f0c")[1], skywright("show", "4f0c", "--all")[1]
    assert "more columns: --all" in few
    assert "more results: --all" in few
    assert "more" not in everything
    assert few.index("analysis loop") < few.index("stream primary")


def test_show_begins_with_the_answer_of_an_analysis(
    store: SampleStore, capsys: pytest.CaptureFixture[str]
) -> None:
    view = view_run(store.client, find_run(store.client, DERIVED_V1))
    assert view.analysis is not None
    results = {"tip_x": 3.0, "n_found": 88, "why": "no loop", "ok": False}
    measured = replace(view.analysis, results={"mean": 1.0})
    judged = replace(view.analysis, results=results)
    derived = (measured, judged)
    catalog._print_view(Console(), replace(view, analysis=None, derived=derived), False)
    shown = re.findall(r"^  (\w+) = (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert shown == [
        ("ok", "no"),
        ("why", "no loop"),
        ("tip_x", "3"),
        ("n_found", "88"),
        ("mean", "1"),
    ]


def test_show_as_json(skywright: Run, store: SampleStore) -> None:
    status, out, _ = skywright("show", "4f0c", "--json", "--pictures", "pics")
    assert status == 0
    seen = json.loads(out)
    assert seen["summary"]["uid"] == seen["start"]["uid"] == SCAN
    assert [each["summary"]["uid"] for each in seen["derived"]] == [DERIVED_V1, DERIVED_V2]
    assert seen["pictures"][0] == str(store.assets / f"{DERIVED_V1}-sheet.png")
    assert all(Path(path).is_file() for path in seen["written"])
    assert len(seen["written"]) == 2 + 1 + 5


def test_newest(skywright: Run) -> None:
    assert INTERRUPTED in skywright("show", "-1")[1]
    assert FLY in skywright("show", "-3")[1]
    assert FLY in skywright("show", "--", "-3")[1]
    assert skywright("export", "--format", "csv", "-3")[1].startswith(FLY[:8])
    for command in (["show", "-99"], ["export", "-99"], ["runs", "--raw", "-99"]):
        assert "no run -99: the catalog has" in skywright(*command)[2]
    again = ["reprocess", "-1", "-99", "--analysis", "picture_statistics"]
    assert "no run -99: the catalog has" in skywright(*again)[2]
    assert "no such option" in skywright("show", "--al")[2].lower()


def test_reprocess_takes_the_parameters_of_the_configuration(
    skywright: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWRIGHT_LOOP__DETECTION", '{"backend": "automl", "url": "nix"}')
    for name in ("loop_detection", "loop_rotation"):
        status, _, err = skywright("reprocess", "-1", "--analysis", name)
        assert status == 2
        if name == "loop_detection":
            assert "url 'nix'" in err
    status, _, err = skywright(
        *("reprocess", "-1", "--analysis", "loop_detection"),
        *("--parameters", '{"backend": "no such"}'),
    )
    assert "backend: 'no such'" in err
    for name, given in (
        ("loop_detection", {"backend": "onnx", "model_": "a"}),
        ("psss_spectra", {"smoting": "none"}),
    ):
        options = ("--analysis", name, "--parameters", json.dumps(given))
        status, _, err = skywright("reprocess", "-1", *options)
        assert status == 2
        assert f"analysis {name}: " in err
        assert "no such key; did you mean" in err


def test_export_reports(skywright: Run) -> None:
    status, out, err = skywright("export", "b81e", "--format", "csv", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["output"], report["status"]) == ("b81e6d07", "incomplete")
    assert sorted(report["files"]) == ["b81e6d07/metadata.json", "b81e6d07/primary.csv"]
    assert skywright("export", "b81e", "--format", "csv")[0] == 2
    assert skywright("export", "b81e", "--format", "csv", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show", "nix"], "expected a uid"),
        (["show"], "name one run"),
        (["runs", "--since", "someday"], "--since 'someday' is no time"),
        (["runs", "--until", ""], "--until '' is no time"),
        (["runs", "--raw", "abcdef"], "no run whose uid starts with"),
        (["runs", "--raw", ""], "no run ''"),
        (["export", "4f0c", "--format", "csv", "--link"], "cannot link"),
        (["export", "4f0c", "--output", "not/there.nxs"], "there is no directory not"),
    ],
)
def test_bad_use_is_one_line_and_exit_status_2(skywright: Run, args: list[str], says: str) -> None:
    status, out, err = skywright(*args)
    assert (status, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--limit", "--scan-id"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_bad_use(skywright: Run, option: str, number: int) -> None:
    status, out, err = skywright("runs", option, str(number))
    assert (status, out) == (2, "")
    assert option in err


def test_recover(store: SampleStore, skywright: Run, tmp_path: Path) -> None:
    """A journal left by a dead process becomes an interrupted run; then nothing is left to do."""
    journal = Journal(tmp_path / "store" / "journal")
    start = compose_run(metadata={"plan_name": "left_behind"}).start_doc
    uid = start["uid"]
    journal("start", start)
    try:
        assert json.loads(skywright("recover", "--json")[1])["recording"] == [uid]
        journal.close()
        status, out, _ = skywright("recover", "--json")
        assert (status, json.loads(out)["finished"]) == (0, [uid])
        (run,) = json_lines(skywright("runs", "--json", "--plan", "left_behind")[1])
        assert (run["uid"], run["status"]) == (uid, "interrupted")
        assert skywright("recover")[1] == "0 changes\n"
    finally:
        store.client["raw"].delete_contents(uid, recursive=True, external_only=False)


def test_recover_fails_when_it_may_not_rename_a_journal(
    store: SampleStore, skywright: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "store" / "journal")
    run = compose_run(metadata={"plan_name": "kept_back"})
    uid = run.start_doc["uid"]
    journal("start", run.start_doc)
    journal("stop", run.compose_stop())
    path = tmp_path / "store" / "journal" / f"{uid}.jsonl"
    rename = Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if source == path:
            raise PermissionError(13, "Permission denied", str(source), None, str(target))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    try:
        status, out, _ = skywright("recover")
        assert status == 1
        assert "recording" not in out
        (line,) = (line for line in out.splitlines() if uid in line)
        assert line.startswith(f"failed {path}: user ")
        assert f"may not rename it to {path.parent / 'done' / path.name}: the directory" in line
        assert "has the permissions drwx" in line
        status, out, _ = skywright("recover", "--json")
        assert (status, json.loads(out)["recording"]) == (1, [])
        monkeypatch.setattr(Path, "rename", rename)
        status, out, _ = skywright("recover", "--json")
        assert (status, json.loads(out)["finished"]) == (0, [uid])
    finally:
        store.client["raw"].delete_contents(uid, recursive=True, external_only=False)


def test_nothing_but_json_on_the_stdout_of_a_process(store: SampleStore) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skywright.cli", "-vv", "runs", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert len(json_lines(done.stdout)) == 6


@pytest.mark.parametrize("name", ["find-runs.md", "export.md"])
def test_examples_of_the_documentation(
    skywright: Run, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text = (DOCS / name).read_text()
    blocks = list(BLOCK.finditer(text))
    assert {block[1] for block in blocks} == {"console", "python"}
    names: dict[str, object] = {}
    for block in blocks:
        line = text.count("\n", 0, block.start())
        if block[1] == "console":
            check_console(skywright, block[2], f"{name}, line {line + 1}")
            continue
        example = doctest.DocTestParser().get_doctest(block[2], names, name, name, line)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        with capsys.disabled():
            runner.run(example, out=report.append, clear_globs=False)
        assert runner.failures == 0, "".join(report)
        names = example.globs


def check_console(skywright: Run, block: str, where: str) -> None:
    """Run each ``$ skywright ...`` of a block and compare what it prints."""
    for command, expected in re.findall(r"^\$ skywright (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
        status, out, err = skywright(*shlex.split(command))
        assert status == 0, f"{where}: {command}: {err}"
        got = "".join(f"{line.rstrip()}\n" for line in (err + out).splitlines())
        matches = doctest.OutputChecker().check_output(expected, got, doctest.ELLIPSIS)
        assert matches, f"{where}: {command}\nexpected:\n{expected}\ngot:\n{got}"


RAW_RUN = RunSummary(
    uid="8f293804-eb2f",
    container="raw",
    scan_id=1234,
    plan="take_pictures",
    sample=None,
    purpose=None,
    analysis=None,
    raw_uid=None,
    raw_scan_id=None,
    time_s=1.8e9,
    duration_s=14.7,
    status="success",
    events={"primary": 15},
)


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (60, {"1234", "primary", "15"}, {"14.7"}),
        (50, {"take_pictures"}, {"1234", "primary"}),
        (32, {"take_pictures"}, {"1234", "primary"}),
    ],
)
def test_a_narrow_terminal_cuts_nothing_off_plan_and_status(
    width: int, shown: set[str], left_out: set[str]
) -> None:
    console = Console(width=width)
    with console.capture() as printed:
        console.print(catalog._runs_table([RAW_RUN], width))
    assert "…" not in printed.get()
    words = printed.get().split()
    assert {"8f293804", "success", *shown} <= set(words)
    assert left_out.isdisjoint(words)
    assert "take_pictures".startswith(next(word for word in words if word.startswith("take_")))


def test_of_many_streams_a_line_has_the_first_ones() -> None:
    run = replace(
        RAW_RUN, events={"empty": 0, "z": 1, "primary": 9, **{f"s{n}": n + 1 for n in range(3)}}
    )
    assert run.counts == "primary 9, s0 1, s1 2, s2 3, 1 more stream"


@pytest.mark.parametrize(
    ("scan_id", "shown"), [(7, "(collectLoopImages 7)"), (None, "(collectLoopImages)")]
)
def test_the_raw_run_of_an_analysis_may_have_no_number(scan_id: int | None, shown: str) -> None:
    raw = replace(RAW_RUN, scan_id=scan_id, plan="collectLoopImages")
    derived = replace(raw, container="analysis", analysis="loop_turn 1", raw_uid=raw.uid)
    view = RunView(derived, {}, {}, streams=(), raw=raw, analysis=None, derived=(), notes=())
    console = Console(width=100)
    with console.capture() as printed:
        catalog._print_view(console, view, everything=False)
    assert shown in printed.get()
