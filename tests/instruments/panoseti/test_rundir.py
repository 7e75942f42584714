import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from support.pano_files import append, file_name, made_frames, run_directory

from skywright.errors import DataError
from skywright.instruments.panoseti.clock import NUM
from skywright.instruments.panoseti.housekeeping import RunHousekeeping
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import module_id
from skywright.instruments.panoseti.rundir import (
    is_under_way,
    open_run_directory,
    without_secrets,
)
from skywright.instruments.panoseti.sources.rundir import RunDirectorySource
from skywright.instruments.panoseti.telescopes import RunTelescopes, telescopes_in

RUN = "obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


@pytest.mark.parametrize("place", ["", "module_1"])
def test_the_real_run_is_read_from_either_place(test_data, place):
    run = open_run_directory(test_data / "panoseti/data_dir" / place / RUN)
    assert (run.name.observatory, run.name.run_type) == ("Lick", "sci-data")
    files = run.files()
    assert list(files) == [(1, "img16"), (1, "img8"), (1, "ph1024"), (1, "ph256")]
    assert [path.name[-11:] for path in files[1, "ph256"]] == ["seqno_0.pff", "seqno_1.pff"]
    assert run.markers() == {"recording_ended": "2024-07-25T01:19:53"}
    west, barnard = telescopes_in(run)
    assert (west.module, west.dome, west.azimuth_deg) == (1, "astrograph", 182.987)
    assert (barnard.module, barnard.altitude_m) == (3, 1239)
    configs = run.configs()
    assert configs["data_config"]["image"]["integration_time_usec"] == 1000
    assert "PASSWORD" not in json.dumps(configs)
    assert configs["obs_config"]["wps_barnard"]["url"] == "http://barnard-power"


def test_a_collected_copy_is_not_read_beside_its_original(tmp_path):
    frames = made_frames("ph256", 10)
    run = run_directory(tmp_path)
    path = run / file_name("ph256")
    path.write_bytes(encode_frames(frames[:6]))
    source = RunDirectorySource(tmp_path)
    source.open()
    source.rewind()
    assert len(source.next(5.0).frames) == 6
    copy = tmp_path / run.name
    copy.mkdir()
    shutil.copy2(path, copy)
    (copy / "recording_ended").touch()
    append(path, frames, 6, 10)
    block = source.next(5.0)
    assert (block.path, len(block.frames), source.next(1.0)) == (path, 4, None)
    source.close()
    for place in (run, copy):
        assert open_run_directory(place).files() == {(1, "ph256"): [path]}
    path.unlink()
    assert open_run_directory(copy).files() == {(1, "ph256"): [copy / path.name]}


def test_the_rest_of_a_file_that_was_moved_is_named(tmp_path, caplog):
    caplog.set_level("INFO", "skywright")
    frames = made_frames("ph256", 10)
    run = run_directory(tmp_path)
    path = run / file_name("ph256")
    path.write_bytes(encode_frames(frames[:6]))
    (run / path.name.replace("seqno_0", "seqno_1")).write_bytes(encode_frames(frames[:1]))
    source = RunDirectorySource(tmp_path)
    source.open()
    source.rewind()
    while source.next(1.0) is not None:
        pass
    copy = tmp_path / run.name
    copy.mkdir()
    shutil.copy2(path, copy)
    assert source.next(1.0) is None
    path.unlink()
    append(copy / path.name, frames, 6, 10)
    assert source.next(1.0) is None
    source.close()
    copies = [each for each in caplog.records if str(copy) in each.message]
    assert [each.levelname for each in copies] == ["INFO", "WARNING"]


def test_a_module_whose_directory_may_not_be_entered_hides_no_other(tmp_path, monkeypatch):
    frames = made_frames("ph256", 6)
    run = run_directory(tmp_path, 1)
    (run / file_name("ph256")).write_bytes(encode_frames(frames))
    closed = run_directory(tmp_path, 2).parent
    look = os.stat

    def refuse(path, *arguments, **options):  # root, as whom tests may run, enters it
        if not isinstance(path, int) and closed in Path(path).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    source = RunDirectorySource(tmp_path)
    source.open()
    source.rewind()
    assert len(source.next(5.0).frames) == 6
    source.close()
    assert list(open_run_directory(run).files()) == [(1, "ph256")]
    assert is_under_way(tmp_path, run.name)
    assert RunTelescopes(tmp_path).of(run.name) == {}
    assert RunHousekeeping(tmp_path).new_states(run.name) == []


def test_a_run_directory_that_may_not_be_read_hides_no_other(tmp_path, monkeypatch):
    run, closed = (run_directory(tmp_path, module) for module in (1, 2))
    for module, directory in ((1, run), (2, closed)):
        frames = made_frames("ph256", 6, module=module)
        (directory / file_name("ph256", module)).write_bytes(encode_frames(frames))
    listdir = os.listdir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert list(open_run_directory(run).files()) == [(1, "ph256")]


def test_secrets_are_left_out_at_any_depth():
    value = {"a": [{"url": "http://u:p@h/x?y", "Password": "p", "api_key": "k"}], "b": "a@b"}
    assert without_secrets(value) == {"a": [{"url": "http://h/x?y"}], "b": "a@b"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://admin:p@ss@10.0.0.1", "http://10.0.0.1"),
        ("http://admin:pa/ss@host/x", "http://host/x"),
        ("admin:pa/ss@host", "host"),
        ("admin:pw@host", "host"),
        ("http://:pw@host:80/a?b=c", "http://host:80/a?b=c"),
        ("http://user@host", "http://host"),
        ("at http://a:b@c and http://d:e@f/g", "at http://c and http://f/g"),
        ("http://host:80/x", "http://host:80/x"),
        ("http://host/x?mail=a@b", "http://host/x?mail=a@b"),
        ("2024-07-25T04:34:06Z", "2024-07-25T04:34:06Z"),
        ("mail a@b, 10:30 @ Lick", "mail a@b, 10:30 @ Lick"),
    ],
)
def test_passwords_are_taken_out_of_addresses(text, kept):
    assert without_secrets([text]) == [kept]


def test_keys_that_name_a_secret_are_left_out():
    secret = ("pwd", "pass", "auth", "wps_pw", "userPass", "Authorization", "passphrase", "passwd")
    plain = ("bypass", "author", "authors", "passband", "pwm", "name")
    value = dict.fromkeys((*secret, *plain), 1)
    assert list(without_secrets(value)) == list(plain)


def test_a_configuration_that_is_nested_without_end_is_left_out(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    (tmp_path / "b.json").write_text("{}")
    assert open_run_directory(tmp_path).configs() == {"b": {}}


def test_a_marker_in_any_encoding_ends_the_run(tmp_path):
    (tmp_path / "recording_ended").write_bytes("5. Mär 2026".encode("latin-1"))
    assert list(open_run_directory(tmp_path).markers()) == ["recording_ended"]
    assert not is_under_way(tmp_path.parent, tmp_path.name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path, encoding):
    (tmp_path / "obs_config.json").write_text('{"name": "Größe"}', encoding)
    assert open_run_directory(tmp_path).configs() == {"obs_config": {"name": "Größe"}}


def test_module_numbers_come_from_addresses():
    assert [module_id(a) for a in ("192.168.3.248", "192.168.0.4", "192.168.0.12")] == [254, 1, 3]
    with pytest.raises(DataError):
        module_id("192.168.0")


def test_no_directory_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no directory"):
        open_run_directory(tmp_path / "x")


def test_each_cut_frame_of_a_growing_file_is_counted_once(tmp_path):
    path = run_directory(tmp_path) / file_name("img16")
    frames = made_frames("img16", 12)
    source = RunDirectorySource(tmp_path)
    source.open()
    seen: list[int] = []

    def read_on():
        source._listed = 0.0
        while (block := source.next(0.0)) is not None:
            seen.extend(block.frames.numbers[:, 0, NUM].tolist())

    append(path, frames, 0, 3)
    read_on()
    for first, torn in ((3, 1), (6, 2), (9, 3)):
        with path.open("ab") as out:
            out.write(encode_frames(frames[first : first + 1])[:1000])
        append(path, frames, first + 1, first + 3)
        read_on()
        assert source.lost == {"frame torn": torn}
    source.close()
    assert seen == [0, 1, 2, 4, 5, 7, 8, 10, 11]
