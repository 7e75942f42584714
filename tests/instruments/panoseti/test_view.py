import asyncio
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from support.pano_files import file_name, made_frames, run_directory
from support.pano_server import served_here
from typer.testing import CliRunner

from skywright.cli import app
from skywright.errors import ConfigError, HardwareError
from skywright.instruments.panoseti.live.client import ping, services, stream
from skywright.instruments.panoseti.live.show import show
from skywright.instruments.panoseti.live.views import Preview, Speed
from skywright.instruments.panoseti.pff_writer import encode_frames

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorials" / "first-live-view.md"


@pytest.fixture
def server(tmp_path):
    for module in (1, 254):
        for product in ("img16", "ph256"):
            frames = made_frames(product, 8, seed=module)
            path = run_directory(tmp_path / "data", module) / file_name(product, module)
            path.write_bytes(encode_frames(frames))
    with served_here(tmp_path, tmp_path / "data") as running:
        yield running


def test_images_are_streamed_in_a_loop(server):
    async def first(count):
        found = []
        async for image in stream(server.address, modules=[254]):
            found.append(image)
            if len(found) == count:
                return found

    images = asyncio.run(first(5))
    assert {image.module for image in images} == {254}
    movie = next(image for image in images if image.movie)
    np.testing.assert_array_equal(movie.image, made_frames("img16", 8, seed=254).image[7])
    assert movie.time_ns == made_frames("img16", 8).time_ns[7]


def test_ping_and_services(server):
    ping(server.address)
    assert services(server.address)["daqdata.DaqData"] == [
        "StreamImages", "InitHpIo", "Ping", "UploadImages",
    ]  # fmt: skip


def test_no_server_is_a_clear_error():
    with pytest.raises(HardwareError, match=r"127\.0\.0\.1:9"):
        ping("127.0.0.1:9", 0.3)


def test_the_command_checks_the_connection_and_writes_pictures(server, tmp_path):
    runner = CliRunner()
    checked = runner.invoke(app, ["panoseti", "view", "--host", server.address])
    assert checked.exit_code == 0
    assert "answers" in checked.stdout
    # The speed is printed, so it needs neither windows nor files.
    counted = runner.invoke(
        app,
        ["panoseti", "view", "--host", server.address, "--plot-speed", "--seconds", "1.5"],
    )  # fmt: skip
    assert counted.exit_code == 0, counted.output
    assert "module 254 movie:" in counted.stdout
    shown = runner.invoke(
        app,
        ["panoseti", "view", "--host", server.address, "--plot-view", "--plot-phdist",
         "--png", str(tmp_path / "out"), "--seconds", "2.5"],
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    for name in ("view", "phdist"):
        picture = matplotlib.image.imread(tmp_path / "out" / f"{name}.png")
        assert picture.std() > 0.05


def test_modules_without_images_and_an_impossible_directory_are_said(server, tmp_path):
    views: dict = {"view": Preview()}
    where = tmp_path / "pictures"
    with pytest.raises(HardwareError, match=r"no image of modules 7, 9 came in 0\.5 s"):
        asyncio.run(show(views, server.address, modules=[9, 7], png=where, seconds=0.5))
    assert (where / "view.png").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/pictures cannot be made: Not a directory"):
        asyncio.run(show(views, server.address, png=tmp_path / "file" / "pictures"))


def test_a_port_beyond_the_range_is_refused():
    refused = CliRunner().invoke(app, ["panoseti", "serve", "--port", "99999"])
    assert refused.exit_code == 2
    assert "65535" in refused.output


def test_speed_counts_images(server):
    speed = Speed()

    async def count():
        number = 0
        async for image in stream(server.address):
            speed.update(image)
            number += 1
            if number == 10:
                return

    asyncio.run(count())
    assert set(speed.rates()) == {
        f"module {module} {kind}" for module in (1, 254) for kind in ("movie", "pulse height")
    }


def test_the_tutorial_does_what_it_says(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = "\n".join(re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S))
    names: dict = {}
    exec(typed.replace('"localhost"', repr(server.address)), names)
    assert {int(line.split()[0]) for line in capsys.readouterr().out.splitlines()} <= {1, 254}
    assert set(names["curve"].points) == {1, 254}
    assert matplotlib.image.imread(tmp_path / "pictures" / "lightcurve.png").std() > 0.05
