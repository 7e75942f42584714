"""PVs of PANOSETI modules over Channel Access: what the frames and the configuration tell."""

import asyncio
import json
import math
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ioc_process import running_ioc
from support.channels import channel
from support.pano_files import file_name, made_frames, run_directory
from support.turns import Turns, put_both
from support.waiting import until

from devices.panoseti.array import Panoseti
from devices.panoseti.view import PanosetiView
from iocs.panoseti import ioc
from skywright.errors import HardwareError
from skywright.instruments.panoseti.clock import NS, NSEC, SEC, TAI, USEC, Flag
from skywright.instruments.panoseti.pff import read_pff
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import module_id
from skywright.processes.scratch import KEPT

COUNT = 2500
LOST = [10, 11, 536, 1023, 1024, 2400]
MINOR = 1


def obs_config(azimuth: object) -> dict[str, Any]:
    """Return the configuration of module 1 alone."""
    module = {"name": "west", "ip_addr": "192.168.0.4", "azimuth": azimuth, "elevation": 79.4016}
    dome = {"name": "astrograph", "obslat": 37.3425, "obslon": -121.63777, "obsalt": 1283}
    return {"name": "Lick", "domes": [{**dome, "modules": [module]}]}


def write_run(data_dir: Path) -> Path:
    """Write a run of two modules: the first loses packets, the second has a board out of step."""
    assert module_id("192.168.0.4") == 1
    for module in (1, 3):
        frames = made_frames("img16", COUNT, seed=module, module=module)
        if module == 1:
            frames = frames[np.setdiff1d(np.arange(COUNT), LOST)]
        else:
            frames.numbers[:, 2, TAI] = (frames.numbers[:, 2, TAI] + 60) % 1024
        directory = run_directory(data_dir, module)
        (directory / file_name("img16", module)).write_bytes(encode_frames(frames))
    pulses = made_frames("ph256", 40)
    pulses.numbers[:, :, 0] //= 4  # each board counts its own packets
    directory = run_directory(data_dir)
    (directory / file_name("ph256")).write_bytes(encode_frames(pulses))
    (directory / "obs_config.json").write_text(json.dumps(obs_config(182.987)))
    return directory


def test_header_rates_losses_clocks_and_pointing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "data")
    source = ("--source", "rundir", "--data-dir", str(run.parents[1]))
    with running_ioc("iocs.panoseti", *source) as process:

        def value(name: str) -> Any:
            return channel(f"{process.prefix}{name}").get()

        def text(name: str) -> str:
            return channel(f"{process.prefix}{name}").get(as_string=True)

        assert value("M1:Clock_RBV") == 0
        panoseti = Panoseti(process.prefix, assets=tmp_path / "assets", name="panoseti")
        panoseti.wait_for_connection(timeout=60)
        panoseti.track().wait(60)
        until(lambda: value("M1:img16:Frame_RBV") == COUNT - len(LOST) - 1)
        until(lambda: value("M2:img16:Frame_RBV") == COUNT - 1)
        until(lambda: value("M1:ph256:Frame_RBV") == 39)
        slots = {int(value(f"M{slot}:Module_RBV")): f"M{slot}:" for slot in (1, 2)}
        one, three = slots[1], slots[3]
        header = json.loads(text(f"{one}img16:Header_RBV"))
        newest = made_frames("img16", COUNT).header(COUNT - 1)
        assert header == newest
        assert json.loads(text(f"{one}ph256:Header_RBV"))["quabo_num"] == 3
        assert abs(value(f"{three}img16:Rate_RBV") - 1000) < 1e-6
        assert value(f"{one}img16:PacketsLost_RBV") == 4 * len(LOST)
        assert value(f"{one}ph256:PacketsLost_RBV") == 0
        assert value(f"{three}img16:PacketsLost_RBV") == 0
        clocks = {name: channel(f"{process.prefix}{name}Clock_RBV") for name in (one, three)}
        assert {name: each.get(as_string=True) for name, each in clocks.items()} == {
            one: "Locked", three: "Unlocked",
        }  # fmt: skip
        assert clocks[one].severity == 0
        assert clocks[three].severity == MINOR
        boards = [text(f"{three}Q{board}:Clock_RBV") for board in range(4)]
        assert boards == ["Locked", "Locked", "Unlocked", "Locked"]
        until(lambda: text(f"{one}Telescope_RBV") == "west")
        assert text(f"{one}Dome_RBV") == "astrograph"
        until(lambda: value(f"{one}Elevation_RBV") == 79.4016)
        assert value(f"{one}Azimuth_RBV") == 182.987
        assert math.isnan(value(f"{one}PositionAngle_RBV"))
        assert math.isnan(value(f"{three}Azimuth_RBV"))
        (run / "obs_config.json").write_text(json.dumps(obs_config(90.0)))
        until(lambda: value(f"{one}Azimuth_RBV") == 90.0)
        view = PanosetiView(process.prefix, timeout_s=30.0)
        images = until(lambda: view.facts().images)
        images = view.facts().images  # as every second, with what it has connected
        facts = {(each.module, each.product): each for each in images}
        assert facts[1, "img16"].packets_lost == 4 * len(LOST)
        assert facts[1, "img16"].pointing_deg[:2] == (90.0, 79.4016)
        assert (facts[1, "img16"].clock, facts[3, "img16"].clock) == ("Locked", "Unlocked")
        assert facts[3, "img16"].rate_hz == value(f"{three}img16:Rate_RBV")
        panoseti.end_track().wait(60)
        other = run_directory(tmp_path / "data", 7, "other")
        frames = made_frames("img16", 30, module=7)
        (other / file_name("img16", 7)).write_bytes(encode_frames(frames))
        (other / "obs_config.json").write_text('{"domes": []}')
        until(lambda: text("Run_RBV") == other.name)
        panoseti.find_run(60.0).wait(90)
        panoseti.track().wait(60)
        until(lambda: value("M1:img16:Rows_RBV") == 30)
        assert (value("M1:Module_RBV"), value("M2:Module_RBV")) == (7, -1)
        assert panoseti.recorded() == ["m1_img16"]
        (image,) = view.facts().images
        assert (image.module, image.product) == (7, "img16")
        until(lambda: math.isnan(value("M1:Azimuth_RBV")))
        panoseti.end_track().wait(60)


def test_an_angle_that_is_no_number_stops_no_housekeeping(tmp_path: Path) -> None:
    run = run_directory(tmp_path)
    (run / file_name("img16")).write_bytes(encode_frames(made_frames("img16", 5)))
    (run / "obs_config.json").write_text(json.dumps(obs_config("TBD")))
    (run / "hk.pff").write_text('{"QUABO_4": {"TEMP1": "21.5", "Computer_UTC": "1.0"}}\n\n')
    group = built("rundir", "--data-dir", tmp_path)
    assert group.tracker.start_recording(tmp_path / "index.h5") == ""
    until(lambda: group.tracker.slots.modules == [1], 60, "the module has a slot")
    asyncio.run(group._post_housekeeping(run.name))
    assert group.slot0.board0.temp1.value == 21.5
    assert math.isnan(group.slot0.azimuth.value)
    group.close()


def test_boards_show_no_housekeeping_of_the_run_before(tmp_path: Path) -> None:
    runs = [run_directory(tmp_path, run=run) for run in "ab"]
    for run in runs:
        (run / file_name("img16")).write_bytes(encode_frames(made_frames("img16", 5)))
    (runs[0] / "hk.pff").write_text('{"QUABO_4": {"TEMP1": "21.5", "Computer_UTC": "1.0"}}\n\n')
    group = built("rundir", "--data-dir", tmp_path)
    assert group.tracker.start_recording(tmp_path / "index.h5") == ""
    until(lambda: group.tracker.slots.modules == [1], 60, "the module has a slot")
    for run, seconds in zip([*runs, runs[0]], (1.0, 0.0, 1.0), strict=True):
        group._housekeeping_due = 0.0
        asyncio.run(group._post_housekeeping(run.name))
        assert group.slot0.board0.seconds.value == seconds
        assert math.isnan(group.slot0.board0.temp1.value) == (not seconds)
    group.close()


def test_an_idle_ioc_does_not_ask_whether_a_run_has_ended(tmp_path: Path) -> None:
    group = built("rundir", "--data-dir", run_directory(tmp_path))

    class Idle(type(group.tracker.source)):  # type: ignore[misc]
        has_ended = property(lambda self: pytest.fail("it walks the data directory"))

    group.tracker.source.__class__ = Idle
    asyncio.run(group._post())
    assert group.run_state.value == "Waiting"
    group.close()


def test_a_put_does_not_overtake_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait() -> None:
        """No PVs are posted here."""

    group, runs = built("rundir", "--data-dir", tmp_path), list[str]()
    group.runs = SimpleNamespace(
        start=lambda: runs.append("start"), stop=lambda: runs.append("stop"), close=lambda: None
    )
    group.in_thread = turns = Turns()
    monkeypatch.setattr(group, "wait_until_posted", wait)
    running = group.sim.running.setpoint
    asyncio.run(put_both((running, "Yes"), (running, "No")))
    assert turns.order == ["begin", "end"] * 2
    assert runs == ["start", "stop"]
    group.close()


def test_packets_of_all_interfaces_are_received_unless_one_is_named(tmp_path: Path) -> None:
    for options, host in (((), "0.0.0.0"), (("--packet-host", "127.0.0.1"), "127.0.0.1")):
        group = built("sockets", "--packet-port", 0, "--data-dir", tmp_path, *options)
        assert group.runs.address[0] == host
        group.close()


def test_packets_that_were_written_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for source, takes_run, stays in (("sockets", 1, 1), ("sockets", 0, 0), ("sim", 1, 0)):
        port = ("--packet-port", 0) if source == "sockets" else ()
        group = built(source, *port, lists=False)
        if takes_run:
            group.runs.start()
        group.close()
        assert group.tracker.source.data_dir.is_dir() == stays


@pytest.mark.parametrize("takes_run", [False, True])
def test_a_simulated_run_that_was_indexed_stays_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_run: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    group = built("sim", lists=False)
    directory = group.temporary
    if takes_run:
        group.runs.start()
    assert group.recording.start_capture(tmp_path / "index.h5", 0, False) == ""
    assert (directory / KEPT).exists()
    group.close()
    assert directory.exists() == takes_run


def test_the_indexes_are_closed_also_if_the_run_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = built("sim", "--data-dir", tmp_path)
    assert group.recording.start_capture(tmp_path / "index.h5", 0, False) == ""

    def stop() -> None:
        raise HardwareError("the run does not end; try again")

    monkeypatch.setattr(group.runs, "stop", stop)
    with pytest.raises(HardwareError, match="does not end"):
        group.close()
    assert not group.recording.is_capturing


def test_a_temporary_directory_may_be_removed_by_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    group = built("sockets", "--packet-port", 0, lists=False)
    group.temporary.rmdir()
    reason = group.recording.start_capture(tmp_path / "index.h5", 0, False)
    assert str(group.temporary / KEPT) in reason
    group.close()


def test_a_run_directory_may_be_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_directory(tmp_path)
    (run / file_name("img16")).write_bytes(encode_frames(made_frames("img16", 5)))
    monkeypatch.chdir(run)
    latest = tmp_path / "latest"
    latest.symlink_to(run, target_is_directory=True)
    for source, directory in (("rundir", "."), ("replay", "."), ("rundir", latest)):
        group = built(source, "--data-dir", directory)
        assert group.tracker.source.run == run.name
        group.close()
    link = tmp_path / "link"
    link.symlink_to(run.parent, target_is_directory=True)
    group = built("rundir", "--data-dir", link)
    assert group.tracker.source.data_dir == link  # its target may have another name elsewhere
    group.close()


def test_a_data_directory_may_be_below_the_home_and_a_list_of_pvs_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    group = built("sim", "--data-dir", "~/pano")
    assert group.tracker.source.data_dir == tmp_path / "home" / "pano"
    group.close()
    built("sim").close()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("modules", [(), (3, 1)])
def test_live_clients_get_the_modules_of_the_ioc(tmp_path: Path, modules: tuple[int, ...]) -> None:
    chosen = [option for module in modules for option in ("--module-id", module)]
    group = built("rundir", "--data-dir", tmp_path, "--grpc-port", 0, *chosen)

    async def served() -> tuple[int, ...]:
        await group.live.start()
        try:
            return tuple(group.live._server.service.hp_io.config.module_ids)
        finally:
            await group.live.stop()

    assert asyncio.run(served()) == tuple(sorted(modules))
    group.close()


def built(source: str, *options: object, lists: bool = True) -> Any:
    """Return the PVs of an IOC that does not serve; with `lists` it would list them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["ioc", *["--list-pvs"] * lists, "--source", source, *map(str, options)]
        )
        groups: list[Any] = []
        patch.setattr(
            ioc, "run", lambda build, parser: groups.append(build(parser.parse_args())[0])
        )
        ioc.main()
    return groups[0]


def test_options_set_the_simulated_array(tmp_path: Path) -> None:
    options = (
        f"--data-dir {tmp_path} --module-id 254 --product img8 "
        "--product ph1024 --movie-rate 50000 --buffered --max-file-mb 3 --unlocked 254"
    )
    group = built("sim", *options.split())
    run = group.runs.start()
    directory = tmp_path / "module_254" / run
    until(lambda: list(directory.glob("*img8*seqno_1.pff")), 60, "the first file is full")
    group.close()
    assert group.runs.error == ""
    assert [path.name for path in tmp_path.glob("module_*")] == ["module_254"]
    written = {path.name.split(".")[1] for path in directory.iterdir() if path.stat().st_size}
    assert written == {"dp_img8", "dp_ph1024"}
    movie = read_pff(next(directory.glob("*img8*seqno_0.pff")))
    assert len(movie) == -(-3_000_000 // 1516)
    assert (movie.flags & Flag.UNLOCKED).all()
    # Of a free clock Hashpipe writes nanoseconds beyond 10^9 as 999999999: all of them, perhaps.
    (came,) = movie.present[:, 0].nonzero()
    numbers = movie.numbers[came, 0]
    assert ((numbers[:, NSEC] >= 0) & (numbers[:, NSEC] < NS)).all()
    arrival = numbers[:, SEC] * NS + numbers[:, USEC] * 1000
    rate_hz = (came[-1] - came[0]) / (arrival[-1] - arrival[0]) * NS
    assert rate_hz == pytest.approx(50_000, rel=0.02)  # 40 ms, delays scatter by some 10 us
