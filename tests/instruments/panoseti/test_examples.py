import asyncio
import json
import runpy
import sys
from pathlib import Path

import matplotlib.image
import pytest

from skywright.errors import ConfigError
from skywright.instruments.panoseti.live.config import load_hp_io_config, load_server_config
from skywright.instruments.panoseti.ublox.config import parse_config

EXAMPLES = Path(__file__).parents[3] / "examples" / "panoseti"


def test_each_example_is_read_as_it_is():
    server = load_server_config(EXAMPLES / "daq_data_server_config.json")
    assert server.max_concurrent_rpcs == 100
    assert (EXAMPLES / server.default_hp_io_config_file).is_file()
    assert load_hp_io_config(EXAMPLES / "hp_io_config.json").data_dir == "/mnt/panoseti"
    assert load_hp_io_config(EXAMPLES / "hp_io_config_simulate.json").simulate_daq
    config = parse_config(json.loads((EXAMPLES / "f9t_config.json").read_text()))
    assert len(config.registers()) == 4 + 9


def test_the_own_view_writes_its_picture(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(EXAMPLES / "brightest_pixel.py")
    asyncio.run(example["main"](server.address, 3))
    assert matplotlib.image.imread("brightest_pixel.png").std() > 0


def test_the_example_says_that_no_server_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["brightest_pixel.py", "127.0.0.1:1"])
    with pytest.raises(SystemExit, match="UNAVAILABLE"):
        runpy.run_path(EXAMPLES / "brightest_pixel.py", run_name="__main__")


def test_archived_files_are_found_beside_the_configuration_or_above_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package" / "daq_data"
    (package / "config").mkdir(parents=True)
    movie = package / "start_x.dp_img16.bpp_2.module_1.seqno_0.pff"
    movie.touch()
    config = package / "config" / "server.json"
    named = {"movie_pff_path": f"daq_data/{movie.name}", "ph_pff_path": "nowhere.pff"}
    config.write_text(json.dumps({"simulate_daq_cfg": {"source_data": named}}))
    source = load_server_config(config).simulate_daq_cfg.source_data
    assert Path(source.movie_pff_path) == movie
    assert source.ph_pff_path == "nowhere.pff"


def test_a_path_that_is_too_long_and_a_file_nested_too_deep_are_no_crash(tmp_path):
    config = tmp_path / "server.json"
    long = "x" * 5000
    config.write_text(json.dumps({"simulate_daq_cfg": {"source_data": {"ph_pff_path": long}}}))
    assert load_server_config(config).simulate_daq_cfg.source_data.ph_pff_path == long
    config.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is not JSON"):
        load_server_config(config)


def test_the_first_name_of_the_simulation_by_files_is_read(tmp_path):
    config = tmp_path / "server.json"
    config.write_text(json.dumps({"simulate_daq_cfg": {"simulation_mode": "filesystem"}}))
    assert load_server_config(config).simulate_daq_cfg.simulation_mode == "filesystem_poll"
    config.write_text(json.dumps({"simulate_daq_cfg": {"simulation_mode": ["filesystem"]}}))
    with pytest.raises(ConfigError, match="simulation_mode"):
        load_server_config(config)


def test_a_module_that_there_cannot_be_is_refused(tmp_path):
    config = tmp_path / "hp_io_config.json"
    config.write_text(json.dumps({"data_dir": ".", "module_ids": [1, -1]}))
    with pytest.raises(ConfigError, match=r"module_ids\.1"):
        load_hp_io_config(config)


def test_a_configuration_of_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"hp_io_config\.json: none of its keys is known"):
        load_server_config(EXAMPLES / "hp_io_config.json")
