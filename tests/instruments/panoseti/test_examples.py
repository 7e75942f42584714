import json
from pathlib import Path

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
