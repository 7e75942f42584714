"""Housekeeping of real and growing files."""

import math

import pytest

from skywright.instruments.panoseti import housekeeping
from skywright.instruments.panoseti.housekeeping import VALUES, HousekeepingFile, RunHousekeeping
from skywright.instruments.panoseti.rundir import run_of


def test_the_real_file_is_read_up_to_its_cut_end(test_data):
    file = HousekeepingFile(test_data / "panoseti/hk_sample.pff")
    assert file.follow()
    assert not file.follow()
    assert file.skipped == 0
    boards = {board.quabo: board for board in file.boards()}
    assert {board.module for board in boards.values()} == {254}
    assert sorted(boards) == [0, 1, 2, 3]
    first = boards[3]
    assert (first.seconds, first.uid) == (1687995222.5777988, "0x1716151413121110")
    assert first.values["HVMON0"] == -55.67592
    assert first.values["TEMP1"] == 40.25
    assert file.newest["GPSPRIM"]["TOW"] == "253515"
    # The sixth object of board 0 is the last one, and cut.
    assert boards[0].seconds < 1690936804.7447193


def test_a_growing_file_is_read_piece_by_piece(tmp_path):
    path = tmp_path / "hk.pff"
    file = HousekeepingFile(path)
    assert not file.follow()
    piece = '{"QUABO_9": {"Computer_UTC": "%s", "TEMP1": "%s"}}\n\n'
    path.write_text((piece % (1, 20.5))[:20])
    assert not file.follow()
    path.write_text(piece % (1, 20.5) + "GARBAGE\n\n[]\n\n" + piece % (2, "warm"))
    assert file.follow()
    assert file.skipped == 2
    (board,) = file.boards()
    assert (board.module, board.quabo, board.seconds) == (2, 1, 2.0)
    assert math.isnan(board.values["TEMP1"])
    path.write_text(piece % (3, 21.5))
    assert file.follow()
    assert file.boards()[0].values["TEMP1"] == 21.5


def test_more_than_is_read_at_a_time_is_read_in_whole_objects(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "BYTES_MAX", 100)
    piece = '{"QUABO_%d": {"Computer_UTC": "%d", "UID": "%s"}}\n\n'
    path = tmp_path / "hk.pff"
    pieces = [piece % (board, board, 30 * "x") for board in range(8)]
    path.write_text("".join([*pieces[:4], 250 * "x", "\n\n", *pieces[4:]]))
    file = HousekeepingFile(path)
    assert file.follow()
    assert [board.seconds for board in file.boards()] == list(range(8))
    assert file.skipped == 3


def test_of_a_night_only_the_newest_states_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "NEWEST_BYTES", 500)
    piece = '{"QUABO_%d": {"Computer_UTC": "%d"}}\n\n'
    path = tmp_path / "hk.pff"
    path.write_text("GARBAGE\n\n" + "".join(piece % (at % 4, at) for at in range(1000)))
    file, parsed = HousekeepingFile(path), []
    loads = housekeeping.json.loads
    monkeypatch.setattr(housekeeping.json, "loads", lambda text: parsed.append(1) or loads(text))
    assert file.follow()
    assert {board.seconds for board in file.boards()} == {996, 997, 998, 999}
    assert len(parsed) < 15
    assert file.skipped == 0
    with path.open("a") as out:
        out.write(piece % (3, 1000))
    assert file.follow()
    assert max(board.seconds for board in file.boards()) == 1000


def test_currents_are_in_amperes():
    assert {unit for name, unit in VALUES.items() if name.startswith("HVI")} == {"A"}
    assert {unit for name, unit in VALUES.items() if name.endswith("_CURR")} == {"A"}


def test_keys_and_values_that_no_board_sends_are_passed_over(tmp_path):
    path = tmp_path / "hk.pff"
    keys = ("QUABO_²", "QUABO_" + 5000 * "9", "QUABO_", "QUABO_9")
    objects = [f'{{"{key}": {{"Computer_UTC": "1"}}}}' for key in keys]
    path.write_text("\n\n".join([100_000 * "[", *objects, ""]) + "\n")
    file = HousekeepingFile(path)
    assert file.follow()
    assert file.skipped == 1
    assert [(board.module, board.quabo) for board in file.boards()] == [(2, 1)]


def test_pieces_that_are_no_objects_are_logged_once(tmp_path, caplog):
    path = tmp_path / "hk.pff"
    path.write_text(100 * "GARBAGE\n\n")
    file = HousekeepingFile(path)
    assert not file.follow()
    assert file.skipped == 100
    assert caplog.text.count("is no housekeeping object") == 1


def test_each_state_is_new_once_and_the_next_run_is_followed(tmp_path):
    piece = '{"QUABO_%d": {"Computer_UTC": "%d"}}\n\n'
    states = RunHousekeeping(tmp_path)
    assert states.new_states("obs_a.pffd") == []
    (tmp_path / "obs_a.pffd").mkdir()
    path = tmp_path / "obs_a.pffd/hk.pff"
    path.write_text(piece % (8, 1) + piece % (9, 1))
    assert [board.quabo for board in states.new_states("obs_a.pffd")] == [0, 1]
    with path.open("a") as out:
        out.write(piece % (9, 2))
    assert [board.quabo for board in states.new_states("obs_a.pffd")] == [1]
    assert states.new_states("obs_a.pffd") == []
    (tmp_path / "module_2/obs_b.pffd").mkdir(parents=True)
    (tmp_path / "module_2/obs_b.pffd/hk.pff").write_text(piece % (8, 3))
    assert [board.seconds for board in states.new_states("obs_b.pffd")] == [3.0]


@pytest.mark.parametrize("place", ["", "obs_a.pffd"])
def test_metadata_of_a_run_holds_no_password_and_no_dots(tmp_path, place):
    run = tmp_path / "obs_a.pffd"
    run.mkdir()
    (run / "net.json").write_text('{"192.168.0.4": {"url": "http://u:pass@h", "password": "p"}}')
    (run / "broken.json").write_text("{")
    (run / "large.json").write_text(str(list(range(100_000))))
    metadata = run_of(tmp_path / place, "obs_a.pffd").metadata()
    assert metadata == {
        "pff_run": "obs_a.pffd",
        "run_configs": {
            "net": {"192_168_0_4": {"url": "http://h"}},
            "large": "left out: more than 200000 bytes",
        },
    }
