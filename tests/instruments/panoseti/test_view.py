import asyncio
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import grpc
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from support.pano_files import file_name, made_frames, run_directory
from support.pano_server import served_here
from typer.testing import CliRunner

from skywright.cli import app
from skywright.errors import ConfigError, HardwareError
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.grpc_serving import GrpcServer
from skywright.instruments.panoseti.live import client, views
from skywright.instruments.panoseti.live.client import ping, services, stream
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.show import show
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.live.views import MaxPixels, Preview, Speed, View
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.wire.daqdata import SERVICE
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.methods import handlers

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


def bare(product, **numbers):
    """Return an image as the observatory's own server sends it: without time and message."""
    slots = Slots()
    slot = slots.subscribe(movie=True, pulse_height=True)
    Publisher(slots).publish(made_frames(product, 1, module=9), 0)
    image = pb.StreamImagesResponse.FromString(slot.next()).pano_image
    header = image.header if product == "ph256" else image.header["quabo_0"]
    header.update(numbers)
    return pb.UploadImageRequest(pano_image=image)


@pytest.mark.parametrize("product", ["img16", "ph256"])
def test_an_image_without_a_time_has_that_of_its_header(server, product):
    async def uploaded(**numbers):
        server.stub.UploadImages(iter([bare(product, **numbers)]), timeout=90)
        image = await anext(stream(server.address, modules=[9]))
        return image.time_ns, image.message

    expected = int(made_frames(product, 1).time_ns[0])
    assert asyncio.run(uploaded()) == (expected, "")
    unlocked = asyncio.run(uploaded(pkt_tai=1, tv_usec=7))
    assert unlocked == (expected // NS * NS + 7_000, "unlocked")
    for odd in (1e300, -5.0, 0.5):
        assert "missing quabo" in asyncio.run(uploaded(tv_sec=odd))[1]


class QuietSky:
    """Ends each stream as the observatory's newer server does when no image comes."""

    def __init__(self):
        self.calls = 0

    async def stream_images(self, request, context):
        self.calls += 1
        sky = Slots()
        slot = sky.subscribe(movie=True, pulse_height=True)
        frames = made_frames("img16", 3)
        for row in range(self.calls):
            Publisher(sky).publish(frames, row)
            if row >= self.calls - 2:  # the newest of the call before, and a new one
                await context.write(slot.next())
        code = grpc.StatusCode.DEADLINE_EXCEEDED if self.calls < 3 else grpc.StatusCode.CANCELLED
        await context.abort(code, "no image for 5 s")

    ping = init_hp_io = upload_images = None


def test_a_stream_that_the_server_ends_because_nothing_comes_is_opened_again():
    async def numbers():
        served = GrpcServer(SERVICE, handlers(QuietSky()))
        port = served.listen("127.0.0.1", 0)
        await served.server.start()
        try:
            return [image.frame_number async for image in stream(f"127.0.0.1:{port}")]
        finally:
            await served.server.stop(0)

    assert asyncio.run(numbers()) == [0, 1, 2]


def test_ping_and_services(server):
    ping(server.address)
    assert services(server.address)["daqdata.DaqData"] == [
        "StreamImages", "InitHpIo", "Ping", "UploadImages",
    ]  # fmt: skip


LEAN = """
import sys

for name in ("caproto", "epics", "ophyd", "bluesky", "event_model", "tiled", "databroker",
             "bluesky_tiled_plugins", "dask", "zarr", "xarray", "scipy", "skimage"):
    sys.modules[name] = None  # an import of it fails

from skywright.cli import app

sys.argv = ["skywright", *sys.argv[1:]]
app()
"""


def test_client_and_views_need_neither_epics_nor_bluesky_nor_tiled(server, tmp_path):
    options = ["--ping", "--reflect-services", "--plot-view", "--plot-phdist", "--plot-speed"]
    done = subprocess.run(
        [
            sys.executable, "-c", LEAN, "panoseti", "view", "--host", server.address, *options,
            "--png", tmp_path, "--seconds", "2",
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{server.address}: answers" in done.stdout
    assert "daqdata.DaqData: StreamImages" in done.stdout
    for name in ("view", "phdist"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").size


def test_no_server_is_a_clear_error():
    with pytest.raises(HardwareError, match=r"127\.0\.0\.1:9"):
        ping("127.0.0.1:9", 0.3)


@pytest.mark.parametrize(
    ("host", "target"),
    [("::1", "[::1]:50051"), ("[::1]:5", "[::1]:5"), ("[::1]", "[::1]:50051"), ("a:1", "a:1")],
)
def test_an_address_of_ipv6_has_the_usual_port(host, target):
    assert client.target_of(host) == target


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


def test_the_command_lists_reflects_and_starts_what_is_read(server, tmp_path, monkeypatch):
    limits = {server.address: 20.0, "127.0.0.1:9": 0.1}
    checked = client.ping
    monkeypatch.setattr(client, "ping", lambda host, _=0.0: checked(host, limits[host]))

    def run(*options):
        done = CliRunner().invoke(app, ["panoseti", "view", "--host", server.address, *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    hosts = tmp_path / "daq_config.json"
    hosts.write_text(json.dumps({"daq_nodes": [{"ip_addr": host} for host in limits]}))
    listed = run("--list-hosts", str(hosts)).splitlines()
    assert listed[0] == f"{server.address}: answers"
    assert listed[1].startswith("127.0.0.1:9: no answer")
    assert run("--list-hosts") == f"{server.address}: answers\n"
    assert run("--ping") == f"{server.address}: answers\n"
    methods = "StreamImages, InitHpIo, Ping, UploadImages"
    assert f"daqdata.DaqData: {methods}" in run("--reflect-services")
    config = tmp_path / "hp_io_config.json"
    read = {"data_dir": str(tmp_path / "data"), "module_ids": [254], "force": True}
    config.write_text(json.dumps({**read, "update_interval_seconds": 0.01}))
    run("--init", str(config))
    assert {image.module for image in server.images(5)} == {254}
    run("--init-sim")
    assert {image.module for image in server.images(2)} == {224}


def test_several_modules_follow_one_option(server, tmp_path):
    command = ["panoseti", "view", "--host", server.address, "--plot-view", "--seconds", "0.5"]
    command += ["--png", str(tmp_path), "--module-ids", "7", "9"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "no image of modules 7, 9 came" in refused.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["7"], "modules follow --module-ids"),
        (["nodes.json"], "only --list-hosts reads"),
        (["--list-hosts", "nodes.json"], "daq_nodes[].ip_addr"),
        (["--init", "hp_io_config.json", "--init-sim"], "one of --init and --init-sim"),
        (["--plot-speed", "--module-ids", "-1"], "modules -1: expected 0 to 255"),
        (["--plot-speed", "--module-ids", "1", "99999999999"], "modules 1, 99999999999: expected"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, text):
    refused = CliRunner().invoke(app, ["panoseti", "view", *options])
    assert refused.exit_code == 2
    assert text in refused.stderr


def test_modules_without_images_and_an_impossible_directory_are_said(server, tmp_path):
    views: dict = {"view": Preview()}
    where = tmp_path / "pictures"
    with pytest.raises(HardwareError, match=r"no image of modules 7, 9 came in 0\.5 s"):
        asyncio.run(show(views, server.address, modules=[9, 7], png=where, seconds=0.5))
    assert (where / "view.png").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/pictures cannot be made: Not a directory"):
        asyncio.run(show(views, server.address, png=tmp_path / "file" / "pictures"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--port", "99999"], "65535"),
        (["--data-dir", ".", "--update-interval", "nan"], "expected a time above 0 s"),
        (["--data-dir", ".", "--simulate"], "one of --data-dir, --simulate and --hp-io-config"),
        (["--module-ids", "1"], "--module-ids goes with --data-dir"),
        (["--data-dir", ".", "--module-ids", "900"], "255"),
    ],
)
def test_options_of_serve_that_cannot_be_are_refused(options, text):
    refused = CliRunner().invoke(app, ["panoseti", "serve", *options])
    assert refused.exit_code == 2
    assert text in refused.stderr


class HeldView(View):
    """Its first picture is drawn until `release` is set."""

    def __init__(self):
        self.begun, self.release = threading.Event(), threading.Event()
        self.drawing = self.most = 0

    def update(self, image):
        """Take nothing."""

    def draw(self, figure):
        self.drawing += 1
        self.most = max(self.most, self.drawing)
        if not self.begun.is_set():
            self.begun.set()
            self.release.wait(30)
        self.drawing -= 1


def test_a_stream_that_ends_while_a_picture_is_drawn(tmp_path, monkeypatch):
    """The last picture is drawn after it: both are written to one file."""
    from skywright.instruments.panoseti.live import show as module

    view = HeldView()

    async def images(*arguments, **options):
        yield None
        await asyncio.to_thread(view.begun.wait, 30)
        asyncio.get_running_loop().call_soon(view.release.set)

    monkeypatch.setattr(module, "stream", images)
    asyncio.run(show({"held": view}, png=tmp_path, period_s=0.001))
    assert view.most == 1
    assert [path.name for path in tmp_path.iterdir()] == ["held.png"]


def test_a_window_of_largest_pixels_that_is_over_is_drawn_empty(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(views, "time", SimpleNamespace(monotonic=lambda: now[0]))
    view = MaxPixels()
    view.update(SimpleNamespace(movie=False, module=1, image=np.arange(4)))

    def filled():
        figure = Figure()
        view.draw(figure)
        return [bool(panel.patches) for panel in figure.axes]

    now[0] = 10.0
    assert filled() == [True, True, True]
    now[0] = 10.5
    assert filled() == [False, True, True]
    now[0] = 700.0
    assert filled() == [False, False, False]


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
