"""The output stream as readers of either version see it, read by a library of the old kind."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bsread_old import OldSender, OldSource, frames_of
from support.psss_scripted import PICTURE, PREFIX, ROWS, TIME_NS, ScriptedSource, running_service
from support.waiting import until

from skywright.instruments.psss.endpoints.service import Service
from skywright.instruments.psss.sources.bsread import BsreadSource
from skywright.processes.ports import free_port

CHANNEL = f"{PREFIX}:FPICTURE"
SUMS = PICTURE.sum(axis=0)
README = {CHANNEL} | {
    f"{CHANNEL}.{name}" for name in ("spectrum", "center", "fwhm", "processing_parameters")
}
NEWER = {
    f"{PREFIX}:{name}"
    for name in (
        *("SPECTRUM_X", "SPECTRUM_Y", "SPECTRUM_CENTER", "SPECTRUM_FWHM"),
        "processing_parameters",
    )
}


@contextmanager
def reading(service: Service, port: str = "output_port") -> Iterator[OldSource]:
    with OldSource("127.0.0.1", service.facts[port], receive_timeout=90_000) as reader:
        sender = service.stream._sender if port == "output_port" else service.stream._images
        assert sender is not None
        assert sender.wait_for_reader(20)
        yield reader


def test_default_names_on_one_stream(tmp_path: Path) -> None:
    source = ScriptedSource()
    with running_service(source, "--auto-start", directory=tmp_path) as service:
        service.processor.change(roi=(0, 10), background=PICTURE // 2, background_name="dark")
        service.begin(True)
        with reading(service) as reader:
            source.put(5)
            source.put(6, image=None, time_ns=None)
            data = reader.receive().data
            assert data.pulse_id == 5
            assert (data.global_timestamp, data.global_timestamp_offset) == divmod(TIME_NS, 10**9)
            assert set(data.data) == README
            values = {name.removeprefix(CHANNEL): each.value for name, each in data.data.items()}
            np.testing.assert_array_equal(values[""], PICTURE)
            expected = (PICTURE - PICTURE // 2)[:10].sum(axis=0)
            np.testing.assert_array_equal(values[".spectrum"], expected)
            assert values[".spectrum"].dtype == np.uint32
            assert values[".center"] == pytest.approx(60, abs=0.05)
            assert values[".fwhm"] > 10
            made = json.loads(values[".processing_parameters"])
            assert (made["roi"], made["background"]) == ([0, 10], "dark")
            data = reader.receive().data  # a pulse without picture and time
            assert data.pulse_id == 6
            assert data.global_timestamp > 1e9
            assert data.data[CHANNEL].value is data.data[f"{CHANNEL}.spectrum"].value is None
            made = json.loads(data.data[f"{CHANNEL}.processing_parameters"].value)
            assert made["status"] == "NO_IMAGE"
            statistics = until(
                lambda: (s := service.processor.statistics.as_json({}, {}))["n_sent"] == 2 and s
            )
            assert statistics["last_sent_pulse_id"] == 6
            delays = service.stream.delays()
            assert 0 < delays["median"] <= delays["p99"]


def test_newer_names_and_a_stream_of_pictures(tmp_path: Path) -> None:
    source = ScriptedSource()
    with running_service(
        source, "--names", "1.8", "--image-port", "0", directory=tmp_path
    ) as service:
        service.begin(True)
        with reading(service) as results, reading(service, "image_port") as pictures:
            axis = np.linspace(9000, 8900, PICTURE.shape[1])
            service.processor.change(axis=axis, roi=(0, ROWS + 9))
            service.processor.change(background=np.ones((3, 4)), background_name="small")
            source.put(7)
            data = results.receive().data
            assert set(data.data) == NEWER
            values = {name.partition(":")[2]: each.value for name, each in data.data.items()}
            np.testing.assert_array_equal(values["SPECTRUM_X"], axis)
            np.testing.assert_array_equal(values["SPECTRUM_Y"], SUMS)
            assert values["SPECTRUM_CENTER"] == pytest.approx(axis[60], abs=0.1)
            made = json.loads(values["processing_parameters"])
            assert made["roi"] == [0, 0]  # what was not applied is not claimed
            assert made["background"] == ""
            picture = pictures.receive().data
            assert picture.pulse_id == 7
            assert set(picture.data) == {CHANNEL}
            np.testing.assert_array_equal(picture.data[CHANNEL].value, PICTURE)


def test_both_names_and_the_bytes_as_received(tmp_path: Path) -> None:
    port = free_port()
    source = BsreadSource(f"tcp://127.0.0.1:{port}", CHANNEL)
    with (
        running_service(source, "--names", "both", directory=tmp_path) as service,
        OldSender(port, data_compression="bitshuffle_lz4") as sender,
    ):
        service.begin(True)
        with reading(service) as reader:
            for pulse_id in range(100, 130):
                image = (PICTURE + pulse_id).astype(">u2" if pulse_id % 2 else "<u2")
                sender.send({"other": 1.5, CHANNEL: image}, pulse_id, (pulse_id, 17))
            for pulse_id in range(100, 130):
                message = reader.receive()
                assert message.data.pulse_id == pulse_id
                assert message.data.global_timestamp == pulse_id
                assert set(message.data.data) == README | NEWER
                image = (PICTURE + pulse_id).astype(">u2" if pulse_id % 2 else "<u2")
                assert message.data.data[CHANNEL].timestamp_offset == 17
                np.testing.assert_array_equal(message.data.data[CHANNEL].value, image)
                spectrum = message.data.data[f"{PREFIX}:SPECTRUM_Y"].value
                np.testing.assert_array_equal(spectrum, image.sum(axis=0, dtype=np.uint32))
                assert message.frames[2] == _compressed(image)
    assert service.processor.lost == {}


def test_a_missing_picture_is_declared_like_the_one_before(tmp_path: Path) -> None:
    """Readers parse the data header anew when it changes."""
    port = free_port()
    source = BsreadSource(f"tcp://127.0.0.1:{port}", CHANNEL)
    with (
        running_service(source, directory=tmp_path) as service,
        OldSender(port, data_compression="bitshuffle_lz4") as sender,
    ):
        service.begin(True)
        with reading(service) as reader:
            for pulse_id, image in enumerate((PICTURE, None, PICTURE)):
                sender.send({CHANNEL: image}, pulse_id, (pulse_id, 17))
            frames = frames_of(3, (3, 17), {CHANNEL: PICTURE}, "bitshuffle_lz4")
            sender.send_frames([*frames[:2], frames[2][:-1], frames[3]])  # cannot be decoded
            messages = [reader.receive().data for _ in range(4)]
    assert [message.format_changed for message in messages] == [True, False, False, False]
    for missing in (messages[1].data, messages[3].data):
        assert missing[CHANNEL].value is missing[f"{CHANNEL}.spectrum"].value is None


def _compressed(image: Any) -> bytes:
    from support.bsread_old import bitshuffle_frame

    return bytes(bitshuffle_frame(image))


def test_a_reader_that_never_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skywright.instruments.psss.endpoints import service as psss_service

    original = psss_service.StreamEndpoint

    def small(*args: Any, **kwargs: Any) -> Any:
        return original(*args, queue_bytes=3 * 10**6, **kwargs)

    monkeypatch.setattr(psss_service, "StreamEndpoint", small)
    source = ScriptedSource()
    big = np.zeros((512, 1024), np.uint16)
    with running_service(source, directory=tmp_path) as service:
        service.begin(True)
        with reading(service):
            # More than zmq's queues and the system's buffers hold.
            source.put(*range(60), image=big)
            until(lambda: service.processor.state().items == 60)
            state = service.processor.state()
            processed, sent = service.processor.statistics.counts
            assert processed == 60
            assert state.unsent["queue_full"] == 60 - sent > 0
            newest = service.processor.newest
            assert newest is not None
            assert newest.pulse.pulse_id == 59
