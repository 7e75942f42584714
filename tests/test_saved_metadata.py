"""What lasts of `RE.md`: each value is on the disk as it is, or as it was before."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import msgpack
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import PersistentDict
from ophyd.sim import SynAxis

from skywright.config import Settings
from skywright.rooms import startup_files
from skywright.session.metadata import next_scan_id
from skywright.session.saved_metadata import SavedMetadata


@pytest.fixture(autouse=True)
def own_log_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the log of plans as it is: other tests of this process read it."""
    monkeypatch.setattr("skywright.session.steps.show_steps", lambda: None)


@contextmanager
def no_room() -> Iterator[None]:
    """Context in which this process can write no file; the system says "File too large"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start_engine(directory: Path, **settings: Any) -> RunEngine:
    """Return the RunEngine of a session on the store `directory`, without instruments."""
    file = startup_files() / "10-engine.py"
    names = {"settings": Settings(iocs={}, store={"directory": directory}, **settings)}
    exec(compile(file.read_text(), file, "exec"), names)
    engine: RunEngine = names["RE"]
    return engine


def saved(directory: Path) -> dict[str, Any]:
    """Return what a later session finds."""
    return dict(SavedMetadata(directory))


@pytest.mark.parametrize("packed", [b"", msgpack.packb(1000)[:2], bytes(3)])
@pytest.mark.parametrize("before", [{"scan_id#6": msgpack.packb(6)}, {}])
def test_a_session_starts_with_a_file_that_a_power_cut_has_damaged(
    before: dict[str, bytes], packed: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "md"
    directory.mkdir()
    files = {"sample#3": msgpack.packb("lysozyme"), **before, "scan_id#7": packed}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    engine = start_engine(tmp_path)
    assert f"{directory / 'scan_id#7'}: is damaged" in caplog.text
    starts: list[dict[str, Any]] = []
    engine.subscribe(lambda name, doc: starts.append(doc), "start")
    engine(bp.count([SynAxis(name="motor")]))
    assert starts[0]["scan_id"] == (7 if before else 1)
    assert starts[0]["sample"] == "lysozyme"
    caplog.clear()
    assert saved(directory)["scan_id"] == starts[0]["scan_id"]
    assert caplog.text == ""


def test_a_value_that_cannot_be_written_is_as_before_on_the_disk_and_stops_no_run(
    RE: RunEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = SavedMetadata(tmp_path)
    RE.md, RE.scan_id_source = metadata, next_scan_id
    RE.md["scan_id"] = 7
    starts: list[dict[str, Any]] = []
    RE.subscribe(lambda name, doc: starts.append(doc), "start")
    with no_room():
        for _ in range(2):
            assert RE(bp.count([SynAxis(name="motor")])).exit_status == "success"
    assert [start["scan_id"] for start in starts] == [8, 9]
    assert saved(tmp_path) == {"scan_id": 7}
    (message,) = (each.getMessage() for each in caplog.records if each.levelname == "ERROR")
    assert message.startswith(f"RE.md: {tmp_path}: cannot be written: File too large; ")
    metadata.flush()
    assert saved(tmp_path) == {"scan_id": 9}


def test_what_persistent_dict_has_saved_goes_on_in_files_of_ours(tmp_path: Path) -> None:
    values = {"scan_id": 41, "a b": {"list": [1, 2.5, None, "µ"]}, "when": np.float64(2.0)}
    PersistentDict(tmp_path).update(values)
    metadata = SavedMetadata(tmp_path)
    assert metadata == values
    metadata["scan_id"] += 1
    metadata["array"] = np.arange(3)
    metadata.flush()
    assert {path.name for path in tmp_path.iterdir()} == {"scan_id", "a%20b", "when", "array"}
    assert saved(tmp_path)["array"].tolist() == [0, 1, 2]
    del metadata["array"]
    assert saved(tmp_path) == values | {"scan_id": 42}
    PersistentDict(tmp_path)["scan_id"] = 50  # as an older version does
    assert saved(tmp_path) == values | {"scan_id": 50}


def test_a_deleted_value_is_gone(tmp_path: Path) -> None:
    PersistentDict(tmp_path)["proposal"] = "p17"
    metadata = SavedMetadata(tmp_path)
    del metadata["proposal"]
    assert list(tmp_path.iterdir()) == []
    assert "proposal" not in metadata
    with pytest.raises(KeyError):
        del metadata["proposal"]


def test_a_file_that_is_not_complete_is_no_value(tmp_path: Path) -> None:
    (tmp_path / ".scan_id.0a1b2c3d").write_bytes(b"")
    assert saved(tmp_path) == {}


def test_a_value_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    metadata = SavedMetadata(tmp_path)
    metadata["sample"] = "s1"
    with pytest.raises(TypeError, match="object"):
        metadata["sample"] = object()
    assert metadata == saved(tmp_path) == {"sample": "s1"}


def start_document(directory: Path, **settings: Any) -> dict[str, Any]:
    """Return the start document of a run in a session of its own."""
    engine, starts = start_engine(directory, **settings), []
    engine.subscribe(lambda name, doc: starts.append(doc), "start")
    engine(bp.count([SynAxis(name="motor")]))
    engine.md.flush()
    start: dict[str, Any] = starts[0]
    return start


def test_what_the_configuration_does_not_give_any_more_is_in_no_run(tmp_path: Path) -> None:
    first = start_document(tmp_path)
    assert first["instrument"] == "simulated beamline"
    second = start_document(tmp_path, metadata={"proposal": "p17", "sample": {"name": "s1"}})
    assert second["proposal"] == "p17"
    third = start_document(tmp_path, metadata={"sample": {"name": "s2"}})
    assert third["sample"] == {"name": "s2"}
    for gone in ("project", "instrument", "proposal"):
        assert gone not in third
    assert third["scan_id"] == 3
    assert third["versions"] == first["versions"]


def test_what_is_set_by_hand_lasts_unless_the_configuration_has_the_key(tmp_path: Path) -> None:
    engine = start_engine(tmp_path, metadata={"proposal": "p17", "contact": {"name": "ada"}})
    engine.md["sample"] = "lysozyme"
    engine.md["proposal"] = "p18"
    engine.md["contact"]["room"] = 7
    engine.md.flush()
    later = start_engine(tmp_path, metadata={"contact": {"name": "ada"}})
    assert (later.md["sample"], later.md["proposal"]) == ("lysozyme", "p18")
    assert later.md["contact"] == {"name": "ada"}
    assert start_engine(tmp_path, metadata={"proposal": "p19"}).md["proposal"] == "p19"
    assert "proposal" not in start_engine(tmp_path, metadata={}).md


def test_the_default_that_an_earlier_version_has_saved_is_removed(tmp_path: Path) -> None:
    values = {"instrument": "simulated beamline", "project": "mine", "sample": "lysozyme"}
    PersistentDict(tmp_path / "md").update(values)
    start = start_document(tmp_path, metadata={"proposal": "p17"})
    assert "instrument" not in start
    assert (start["project"], start["sample"]) == ("mine", "lysozyme")


def test_a_default_that_is_set_by_hand_lasts(tmp_path: Path) -> None:
    start_engine(tmp_path, metadata={}).md["instrument"] = "simulated beamline"
    later = start_engine(tmp_path, metadata={"proposal": "p17"})
    assert later.md["instrument"] == "simulated beamline"


def test_a_key_may_begin_with_a_dot(tmp_path: Path) -> None:
    SavedMetadata(tmp_path)[".note"] = "x"
    assert saved(tmp_path) == {".note": "x"}


def test_a_directory_beside_the_files_is_no_value(tmp_path: Path) -> None:
    SavedMetadata(tmp_path)["sample"] = "s1"
    (tmp_path / "copy").mkdir()
    assert saved(tmp_path) == {"sample": "s1"}


def test_the_keys_of_a_dictionary_may_be_numbers(tmp_path: Path) -> None:
    engine = start_engine(tmp_path)
    engine.md["magazine"] = [{1: "lysozyme", 2.5: None}]
    assert engine(bp.count([SynAxis(name="motor")])).exit_status == "success"
    assert start_document(tmp_path)["magazine"] == [{1: "lysozyme", 2.5: None}]


CHANGES = """
import sys
from pathlib import Path
from skywright.session.saved_metadata import SavedMetadata

metadata = SavedMetadata(Path(sys.argv[1]))
metadata["odd"], metadata["sample"] = {}, {"name": "s1"}
metadata["odd"]["key"] = object()
metadata["sample"]["shape"] = "bar"
"""


def test_a_change_within_a_value_is_saved_at_the_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHANGES, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert saved(tmp_path) == {"odd": {}, "sample": {"name": "s1", "shape": "bar"}}
    assert done.stderr.startswith("RE.md['odd'] cannot be saved: ")
    assert len(done.stderr.splitlines()) == 1
