"""Backgrounds over REST: sent, kept, chosen, recorded, read; and bodies that go wrong."""

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from support.psss_old_client import PsssProcessingClient
from support.psss_scripted import COLUMNS, PICTURE, ROWS, ScriptedSource
from support.waiting import until

from skywright.errors import ConfigError, DataError
from skywright.instruments.psss.background import DATASET, History, uploaded
from skywright.instruments.psss.endpoints import pixels
from skywright.instruments.psss.endpoints import rest as psss_rest
from skywright.instruments.psss.endpoints.service import Service


def test_fractions_are_cut(http: httpx.Client, service: Service) -> None:
    body = {"filename": "f", "data": [[0.9, 1], [65535.5, -0.5]]}
    assert http.post("/background", json=body).json()["state"] == "ok"
    background = service.processor.settings.background
    assert background is not None
    assert background.tolist() == [[0, 1], [65535, 0]]


def test_backgrounds_are_kept_and_chosen_by_name(http: httpx.Client, service: Service) -> None:
    for name, level in (("first / one", 1), ("second", 2), ("second", 2)):
        lists = np.full((ROWS, COLUMNS), level).tolist()
        http.post("/background", json={"filename": name, "data": lists})
    listed = http.get("/backgrounds").json()["backgrounds"]
    names = [info["name"] for info in listed]
    assert names.count("second") == 1  # the same pixels are not kept twice
    info = next(info for info in listed if info["name"] == "first / one")
    assert info["origin"] == "uploaded"
    assert info["shape"] == [ROWS, COLUMNS]
    answer = http.post("/parameters", json={"background": "first / one"}).json()
    assert answer["parameters"]["background"] == "first / one"
    background = service.processor.settings.background
    assert background is not None
    assert (background == 1).all()


def test_a_background_used_again_is_the_newest_of_its_name(
    http: httpx.Client, service: Service
) -> None:
    for level in (3, 4, 3):
        lists = np.full((ROWS, COLUMNS), level).tolist()
        http.post("/background", json={"filename": "again", "data": lists})
    http.post("/parameters", json={"background": ""})
    http.post("/parameters", json={"background": "again"})
    background = service.processor.settings.background
    assert background is not None
    assert (background == 3).all()


def test_a_background_without_a_name_gets_one_and_can_be_cleared(
    http: httpx.Client, service: Service
) -> None:
    http.post("/background", json={"filename": "", "data": PICTURE.tolist()})
    name = http.get("/parameters").json()["parameters"]["background"]
    assert name.startswith("uploaded 20")
    assert service.history.load(name).info.name == name
    http.post("/parameters", json={"background": ""})
    assert service.processor.settings.background is None
    service.processor.change(background=PICTURE)  # by somebody in this process
    http.post("/parameters", json={"background": ""})
    assert service.processor.settings.background is None


def test_a_background_is_recorded_from_the_pulses(
    http: httpx.Client, service: Service, source: ScriptedSource
) -> None:
    assert "only 0 of 3" in http.post("/background/record", json={"pulses": 3}).json()["status"]
    wanted = {"pulses": 10_000, "limit_s": 100}  # as long as they take at 100 Hz
    assert "only 0 of 10000" in http.post("/background/record", json=wanted).json()["status"]
    http.post("/start")
    answers: list[Any] = []

    def ask() -> None:
        answers.append(http.post("/background/record", json={"pulses": 3, "name": "live"}).json())

    thread = threading.Thread(target=ask)
    feeds = service.processor._queues
    thread.start()
    until(lambda: len(service.processor._queues) > len(feeds))
    for pulse_id, level in ((21, 1), (22, 2), (23, 4)):
        source.put(pulse_id, image=np.full((ROWS, COLUMNS), level, np.uint16))
        until(lambda: (r := service.processor.newest) and r.pulse.pulse_id == pulse_id)  # noqa: B023
    thread.join(90)
    info = answers[0]["background"]
    assert (info["name"], info["pulses"]) == ("live", 3)
    assert (info["first_pulse_id"], info["last_pulse_id"]) == (21, 23)
    background = service.processor.settings.background_used
    assert background is not None
    assert background.dtype == np.uint16  # clipped, as the old service: whole numbers
    assert (background == 2).all()
    http.post("/parameters", json={"background_mode": "signed"})  # has all that was measured
    background = service.processor.settings.background_used
    assert background is not None
    np.testing.assert_allclose(background, 7 / 3, rtol=1e-6)
    http.post("/parameters", json={"background_mode": "clipped", "background": ""})


def test_a_recording_ends_with_its_client(
    http: httpx.Client, service: Service, source: ScriptedSource
) -> None:
    http.post("/start")
    with pytest.raises(httpx.ReadTimeout):
        http.post("/background/record", json={"pulses": 3}, timeout=0.3)
    until(lambda: service.background_recorder._cancelled is None)
    source.put(1, 2, 3)
    until(lambda: (r := service.processor.newest) and r.pulse.pulse_id == 3)
    assert http.get("/parameters").json()["parameters"]["background"] == ""


def test_a_background_is_read_from_a_file(http: httpx.Client, service: Service) -> None:
    assert service.history.directory is not None
    path = service.history.directory / "mine" / "frames.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["pictures"] = np.stack([np.full((3, 4), 1), np.full((3, 4), 4)]).astype("u2")
    wanted = {"path": "mine/frames.h5", "dataset": "/pictures", "name": "file"}
    answer = http.post("/background/load", json=wanted).json()
    assert answer["background"]["name"] == "file"
    assert answer["background"]["shape"] == [3, 4]
    assert http.get("/parameters").json()["parameters"]["background"] == "file"
    reply = http.post("/background/load", json={**wanted, "dataset": "/nothing"}).json()
    assert "/nothing" in reply["status"]


def test_a_long_label_of_many_bytes_is_kept(tmp_path: Path) -> None:
    name = "\u6697" * 80
    History(tmp_path).keep(uploaded(name, PICTURE))
    assert History(tmp_path).load(name).info.name == name


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_file_of_another_program_may_have_its_name_as_bytes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file[DATASET] = PICTURE
        file[DATASET].attrs["name"] = np.full(shape, np.bytes_("dark \xe4".encode()))
    history = History(tmp_path)
    assert [info.name for info in history.list()] == ["dark \xe4"]
    assert np.array_equal(history.load("dark \xe4").pixels, PICTURE)


def test_odd_files_in_the_history_are_left_out(tmp_path: Path) -> None:
    history = History(tmp_path)
    kept = history.keep(uploaded("dark", PICTURE))
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file[DATASET] = PICTURE
        file[DATASET].attrs["pulses"] = "100 pulses"
    assert history.list() == [kept]
    with pytest.raises(ConfigError, match="null"):
        history.read_file("a\0b", DATASET, "")
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    with pytest.raises(DataError, match=r"loop\.h5: cannot be read"):
        history.read_file("loop.h5", DATASET, "")


def test_a_large_upload_holds_up_nothing(
    http: httpx.Client, service: Service, address: str
) -> None:
    large = np.random.default_rng(0).integers(100, 999, (2160, 2560), dtype=np.uint16)
    done = threading.Event()

    def upload() -> None:
        assert PsssProcessingClient(address).set_background("large", large) == "ok"
        done.set()

    thread = threading.Thread(target=upload)
    thread.start()
    answers = 0
    while not done.is_set():
        assert http.get("/status").json()["state"] == "ok"
        answers += 1
    thread.join()
    assert answers > 3
    background = service.processor.settings.background
    assert background is not None
    np.testing.assert_array_equal(background, large)


def test_a_process_that_starts_slowly_holds_up_nothing(
    http: httpx.Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, begun, may_go_on = pixels.start_module, threading.Event(), threading.Event()

    def start_slowly(*arguments: Any, **options: Any) -> Any:
        begun.set()
        may_go_on.wait(10)
        return start(*arguments, **options)

    monkeypatch.setattr(pixels, "start_module", start_slowly)
    picture = np.full((400, 400), 100, np.uint16)
    assert len(str(picture.tolist())) > pixels.SMALL_BYTES
    upload = threading.Thread(
        target=PsssProcessingClient(address).set_background, args=("slow", picture)
    )
    upload.start()
    assert begun.wait(90)
    assert http.get("/status", timeout=5).json()["state"] == "ok"
    may_go_on.set()
    upload.join()
    assert http.get("/parameters").json()["parameters"]["background"] == "slow"


def test_too_large_a_body(
    address: str, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert psss_rest.BODY_BYTES_MAX == 80_000_000
    monkeypatch.setattr(psss_rest, "BODY_BYTES_MAX", 1000)
    request = urllib.request.Request(f"{address}/background", b" " * 2000, method="POST")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == 413
    assert raised.value.headers["content-type"].startswith("text/html")
    reply = http.post("/background", content=iter([b" " * 700] * 3))  # of a length not told
    assert reply.status_code == 413


def test_an_upload_that_breaks_off_changes_nothing(http: httpx.Client, address: str) -> None:
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /background HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n[[1,2"
        )
    assert http.get("/parameters").json()["parameters"] == {"background": ""}


def test_uploads_that_hang_give_their_places_to_others(
    http: httpx.Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psss_rest, "SILENCE_LIMIT_S", 0.2)
    host, _, port = address.removeprefix("http://").partition(":")
    hung = [socket.create_connection((host, int(port))) for _ in range(psss_rest.UPLOADS_MAX)]
    try:
        for connection in hung:
            connection.sendall(
                b"POST /background HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n[[1,2"
            )
        answer = http.post("/background", json={"filename": "next", "data": [[1]]}).json()
        assert answer["state"] == "ok"
        for connection in hung:
            connection.settimeout(20)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    finally:
        for connection in hung:
            connection.close()
