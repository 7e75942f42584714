"""Each clause of the UbloxControl contract, over real gRPC and a simulated receiver on a pty."""

import asyncio
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from pyubx2 import UBX_CONFIG_DATABASE, UBXReader
from support.pano_server import status
from support.waiting import until

from skywright.instruments.panoseti.ublox import service
from skywright.instruments.panoseti.ublox.config import (
    Position,
    parse_config,
    position_registers,
)
from skywright.instruments.panoseti.ublox.pulses import PulseErrors
from skywright.instruments.panoseti.ublox.receiver import Receiver
from skywright.instruments.panoseti.ublox.service import UbloxService
from skywright.instruments.panoseti.ublox.twin import NAV_TIMEUTC, TIM_TP, SimulatedF9t, frame
from skywright.wire.ubx import ublox_control_pb2 as pb
from skywright.wire.ubx.methods import Stub, handlers

Code = grpc.StatusCode
UID = "DF03A241BC"
SETTINGS = [
    {"key": "CFG_TP_PULSE_DEF", "value": 1},
    {"key": "CFG-TP-ANT_CABLEDELAY", "value": 10},
    {"key": "CFG_TP_FREQ_TP2", "value": 10_000_000},
    {"key": "CFG_TP_DUTY_TP2", "value": 50.0},
    {"key": "CFG_MSGOUT_UBX_TIM_TP_USB", "value": 1},
    {"key": "CFG_MSGOUT_UBX_NAV_TIMEUTC_USB", "value": 1},
]
REAL_OF_4_BYTES = next(name for name, (_, kind) in UBX_CONFIG_DATABASE.items() if kind == "R004")
POSITION = {
    "format": "LLH", "lat_deg": 37.4219999, "lon_deg": -122.0840575, "height_m": 12.345,
    "acc_m": 0.02,
}  # fmt: skip


class Served(NamedTuple):
    """A service, a client's stub of it, and the event loop that it runs in."""

    service: UbloxService
    stub: Stub
    loop: asyncio.AbstractEventLoop


@pytest.fixture
def served():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        service, server = UbloxService(), grpc.aio.server()
        server.add_generic_rpc_handlers([handlers(service)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return service, server, port

    async def stop():
        await service.stop()
        await server.stop(0.2)

    service, server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(service, Stub(channel), loop)
    asyncio.run_coroutine_threadsafe(stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def stub(served):
    return served.stub


@pytest.fixture
def twin():
    made = SimulatedF9t(period_s=0.1)
    yield made
    made.close()


def init(stub, device, force=False, **changes):
    request = pb.InitF9tRequest(force_init=force)
    config = {"device": device, "f9t_uid": UID, "cfg_key_settings": SETTINGS, **changes}
    request.f9t_config.update({key: value for key, value in config.items() if value is not None})
    return stub.InitF9t(request, timeout=90)


def noted_health(served):
    """Return the list to which each change of the service's health is added."""
    health = []

    async def set_health(serving):
        health.append(serving)

    served.service.set_health = set_health
    return health


def test_init_configures_and_messages_come(stub, twin):
    answer = init(stub, twin.device, position=POSITION)
    assert answer.init_status == pb.InitF9tResponse.SUCCESS
    assert MessageToDict(answer.f9t_config)["position"]["acc_m"] == 0.02
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    found = {}
    while len(found) < 2:
        message = next(call)
        found[message.name] = message
    assert set(found) == {"TIM-TP", "NAV-TIMEUTC"}
    tim = found["TIM-TP"]
    assert tim.type == pb.CaptureUbloxResponse.DATA
    assert len(tim.payload) == 16 + 8
    tow_ms, _, qerr, week, _, _ = struct.unpack("<IIiHBB", tim.payload[6:-2])
    fields = MessageToDict(tim.parsed_data)
    assert (fields["towMS"], fields["qErr"], fields["week"]) == (tow_ms, qerr, week)
    assert MessageToDict(found["NAV-TIMEUTC"].parsed_data)["tAcc"] == 62
    call.cancel()


def test_patterns_match_the_start_of_a_name(stub, twin):
    init(stub, twin.device)
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["NAV", "TP"]), timeout=90)
    assert {next(call).name for _ in range(5)} == {"NAV-TIMEUTC"}
    call.cancel()
    for pattern in ("(", "a{99999999999}", "(" * 5000):
        wrong = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=[pattern]), timeout=90)
        assert status(lambda call=wrong: next(call))[0] == Code.INVALID_ARGUMENT


def test_a_full_queue_drops_messages_of_that_client_only(served, caplog):
    caplog.set_level("WARNING", "skywright")
    twin = SimulatedF9t(period_s=600.0)
    try:
        init(served.stub, twin.device)
        requests = [pb.CaptureUbloxRequest(patterns=[name]) for name in ("FAST", "RARE")]
        fast, rare = (served.stub.CaptureUblox(request, timeout=60) for request in requests)
        publish = served.service._publish

        def of(name, number):
            publish((name, SimpleNamespace(), str(number).encode()))

        async def burst():  # in one turn of the loop, so no client can read in between
            for number in range(300):
                of("FAST", number)
                if number % 100 == 0:
                    of("RARE", number)

        def run(coroutine):
            asyncio.run_coroutine_threadsafe(coroutine, served.loop).result(20)

        async def first():
            of("FAST", "first")
            of("RARE", "first")

        run(first())
        assert next(fast).payload == next(rare).payload == b"first"
        run(burst())
        assert [int(next(fast).payload) for _ in range(200)] == list(range(200))
        assert [int(next(rare).payload) for _ in range(3)] == [0, 100, 200]
        run(first())
        assert next(fast).payload == next(rare).payload == b"first"
        run(served.service.stop())
        assert {status(lambda call=call: next(call))[0] for call in (fast, rare)} == {
            Code.CANCELLED
        }
    finally:
        twin.close()
    (warning,) = (each.getMessage() for each in caplog.records if "dropped" in each.message)
    assert warning.startswith("100 messages were dropped")


def test_a_receiver_that_is_unplugged_ends_the_streams(served, stub):
    twin, health = SimulatedF9t(period_s=0.1), noted_health(served)
    init(stub, twin.device)
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    next(call)
    twin.close()
    code, text = status(lambda: list(call))
    assert code == Code.UNAVAILABLE
    assert twin.device in text
    again = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    assert status(lambda: next(again)) == (Code.FAILED_PRECONDITION, f"{text}; call InitF9t first")
    assert health == [True, False]


def test_a_receiver_that_is_plugged_in_again_is_configured_and_read(
    served, stub, twin, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(service, "RETRY_S", (0.05, 0.1))
    device, health = tmp_path / "gnss", noted_health(served)
    first, stranger = SimulatedF9t(period_s=0.1), SimulatedF9t(uid="0011223344")
    device.symlink_to(first.device)
    init(stub, str(device))
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    next(call)

    def plug_in(other):
        (tmp_path / "new").symlink_to(other.device)
        (tmp_path / "new").rename(device)

    try:
        plug_in(stranger)
        first.close()
        assert status(lambda: list(call))[0] == Code.UNAVAILABLE
        until(lambda: "has the id 0011223344" in caplog.text, 60, "another receiver")
        assert health == [True, False]
    finally:
        stranger.close()
    plug_in(twin)
    until(lambda: health == [True, False, True], 60, "the receiver")
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    assert {next(call).name for _ in range(4)} == {"TIM-TP", "NAV-TIMEUTC"}
    call.cancel()


def test_a_receiver_that_falls_silent_is_reported_and_its_streams_go_on(
    served, stub, twin, monkeypatch, caplog
):
    caplog.set_level("INFO", "skywright")
    monkeypatch.setattr(service, "SILENCE_S", 1.0)
    health = noted_health(served)
    init(stub, twin.device)
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    next(call)
    twin.silent = True
    until(lambda: health[-1:] == [False], 60, "a silent receiver")
    assert f"{twin.device}: no message for 1 s" in caplog.text
    twin.silent = False
    until(lambda: health[-1:] == [True], 60, "a receiver that sends again")
    assert next(call).type == pb.CaptureUbloxResponse.DATA
    call.cancel()


@pytest.mark.parametrize("is_reported", [True, False])
def test_a_refused_init_does_not_make_a_silent_receiver_healthy(
    served, stub, twin, monkeypatch, is_reported
):
    monkeypatch.setattr(service, "SILENCE_S", 1.0 if is_reported else 600.0)
    health = noted_health(served)
    init(stub, twin.device)
    next(stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90))
    twin.silent = True
    if is_reported:
        until(lambda: health == [True, False], 60, "a silent receiver")
    monkeypatch.setattr(service, "SILENCE_S", 1.0)
    code, _ = status(lambda: init(stub, twin.device, force=True, f9t_uid="0000000000"))
    assert code == Code.INVALID_ARGUMENT
    until(lambda: health == [True, False], 60, "a silent receiver")
    twin.silent = False
    until(lambda: health == [True, False, True], 60, "a receiver that sends again")


def test_a_receiver_that_was_unplugged_before_anybody_listens_says_so():
    twin, failures = SimulatedF9t(period_s=0.1), []
    receiver = Receiver(twin.device, 9600)
    twin.close()
    receiver._thread.join(60)
    receiver.listen(pytest.fail, failures.append)
    receiver.close()
    assert failures == [receiver.failed]
    assert twin.device in receiver.failed


def test_a_refused_init_leaves_the_receiver_that_works(served, stub, twin):
    other, health = SimulatedF9t(uid="0011223344"), noted_health(served)
    wrong = {"f9t_uid": "0000000000"}
    init(stub, twin.device)
    try:
        for device in ("/dev/ttyUSB99", "/dev/null", other.device, twin.device):
            code, _ = status(lambda: init(stub, device, **wrong))  # noqa: B023
            assert code == (Code.UNAVAILABLE if device == "/dev/null" else Code.INVALID_ARGUMENT)
            call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
            next(call)
            call.cancel()
        assert False not in health
        served.service._opened = "/dev/ttyUSB99", 9600  # it cannot be opened again
        assert status(lambda: init(stub, twin.device, **wrong))[0] == Code.INVALID_ARGUMENT
        assert health[-1] is False
    finally:
        other.close()


def test_the_newest_messages_come_first(stub):
    twin = SimulatedF9t(period_s=3.0)
    try:
        init(stub, twin.device)
        first = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["TIM"]), timeout=90)
        seen = next(first)
        again = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["TIM"]), timeout=2)
        assert next(again).payload == seen.payload
        first.cancel()
        again.cancel()
    finally:
        twin.close()


def test_messages_of_a_receiver_that_is_closed_are_forgotten():
    """A message may come while the receiver is being closed; the next one is another receiver."""

    class Receiver:
        device, failed = "/dev/ttyACM0", ""

        def listen(self, listener, on_failure):
            self.listener = listener

        def close(self):
            self.listener(("TIM-TP", SimpleNamespace(qErrInvalid=1), b""))

    async def take_another():
        service, first, second = UbloxService(), Receiver(), Receiver()
        service._listen(first, 9600)
        await service.stop()
        service._listen(second, 9600)
        return dict(service._newest)

    assert asyncio.run(take_another()) == {}


def test_a_receiver_that_fails_while_it_is_closed_is_not_opened_again():
    """The configuration of the next one would be replaced by the former."""

    class Receiver:
        device, failed = "/dev/ttyACM0", ""

        def listen(self, listener, on_failure):
            self.on_failure = on_failure

        def close(self):
            self.on_failure("unplugged")

    async def take_another():
        service = UbloxService()
        service._configured = parse_config({"device": "/dev/ttyACM0", "f9t_uid": UID}), {}
        service._listen(Receiver(), 9600)
        await service.stop()
        return service._retrying

    assert asyncio.run(take_another()) is None


def test_a_call_that_ends_while_the_device_is_opened_leaves_it_closed(monkeypatch):
    """The receiver that worked before is read again."""
    opening, go = threading.Event(), threading.Event()
    opened = []

    class Receiver:
        failed = ""

        def __init__(self, device, baud):
            self.device, self.closed = device, False
            opened.append(self)
            if device == "/dev/new":
                opening.set()
                go.wait(30)

        def listen(self, listener, on_failure):
            """Send nothing."""

        def close(self):
            self.closed = True

    monkeypatch.setattr(service, "Receiver", Receiver)
    monkeypatch.setattr(service, "check_device", lambda device: None)

    async def take():
        made = UbloxService()
        made._listen(Receiver("/dev/old", 9600), 9600)
        request = pb.InitF9tRequest()
        request.f9t_config.update({"device": "/dev/new", "f9t_uid": UID})
        call = asyncio.create_task(made.init_f9t(request, None))
        await asyncio.to_thread(opening.wait, 30)
        call.cancel()  # as a deadline does
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        return made._receiver

    receiver = asyncio.run(take())
    assert [(each.device, each.closed) for each in opened] == [
        ("/dev/old", True), ("/dev/new", True), ("/dev/old", False),
    ]  # fmt: skip
    assert receiver is opened[-1]


@pytest.mark.parametrize("step", ["check_device", "configure"])
def test_a_capture_waits_for_an_init_that_is_under_way(stub, twin, monkeypatch, step):
    if step == "check_device":  # the receiver is read meanwhile
        init(stub, twin.device)
    reached, go, work = threading.Event(), threading.Event(), getattr(service, step)

    def work_later(*arguments):
        reached.set()
        go.wait(30)
        work(*arguments)

    monkeypatch.setattr(service, step, work_later)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(init, stub, twin.device)
        reached.wait(30)
        short = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=0.2)
        assert status(lambda: next(short))[0] == Code.DEADLINE_EXCEEDED
        call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
        first = pool.submit(next, call)
        go.set()
        assert answer.result(90).init_status == pb.InitF9tResponse.SUCCESS
        assert first.result(90).type == next(call).type == pb.CaptureUbloxResponse.DATA
    call.cancel()


def test_capture_before_init_is_a_failed_precondition(stub):
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=5)
    assert status(lambda: next(call))[0] == Code.FAILED_PRECONDITION


def test_poll_message_is_unimplemented(stub):
    code, _ = status(lambda: stub.PollMessage(pb.PollRequest(), timeout=5))
    assert code == Code.UNIMPLEMENTED


def test_init_needs_force_while_streams_are_active(stub, twin):
    init(stub, twin.device)
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=90)
    next(call)
    code, text = status(lambda: init(stub, twin.device))
    assert code == Code.FAILED_PRECONDITION
    assert "force_init" in text
    next(call)
    assert init(stub, twin.device, force=True).init_status == pb.InitF9tResponse.SUCCESS
    with pytest.raises(grpc.RpcError):
        for _ in call:
            pass
    assert call.code() == Code.CANCELLED


@pytest.mark.parametrize("device", [None, 5, "", "/nowhere/tty", "/tmp", "/dev/tty\0"])
def test_a_wrong_device_is_an_invalid_argument(stub, device):
    code, text = status(lambda: init(stub, device))
    assert code == Code.INVALID_ARGUMENT
    assert "device" in text


def test_a_device_that_cannot_be_opened_is_unavailable(stub):
    assert status(lambda: init(stub, "/dev/null"))[0] == Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"model": "ZED-F9P"}, Code.INVALID_ARGUMENT, "ZED-F9P"),
        ({"uid": "0011223344"}, Code.INVALID_ARGUMENT, "0011223344"),
        ({"refused": ["CFG_TP_FREQ_TP2"]}, Code.INTERNAL, "refused"),
        ({"forgotten": ["CFG_TP_FREQ_TP2"]}, Code.INTERNAL, "CFG_TP_FREQ_TP2 is 0"),
    ],
)
def test_a_receiver_that_does_not_fit(stub, options, code, text):
    twin = SimulatedF9t(**options)
    try:
        found, message = status(lambda: init(stub, twin.device))
    finally:
        twin.close()
    assert found == code
    assert text in message


def test_an_unknown_register_is_named(stub, twin):
    settings = [{"key": "CFG_NO_SUCH_KEY", "value": 1}]
    code, text = status(lambda: init(stub, twin.device, cfg_key_settings=settings))
    assert code == Code.INVALID_ARGUMENT
    assert "CFG_NO_SUCH_KEY" in text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("CFG_TP_PULSE_DEF", 300, "from 0 to 255, it is 300"),
        ("CFG_TP_PULSE_DEF", -1, "from 0 to 255"),
        ("CFG_TP_PULSE_DEF", 1.7, "whole number"),
        ("CFG_TP_ANT_CABLEDELAY", -32769, "from -32768 to 32767"),
        ("CFG_TP_TP1_ENA", 2, "from 0 to 1"),
        ("CFG_INFMSG_UBX_USB", 256, "from 0 to 255"),
        ("CFG_TP_FREQ_TP2", 1e300, "from 0 to 4294967295"),
        ("CFG_TP_FREQ_TP2", float("inf"), "f9t_config"),
        ("CFG_TP_DUTY_TP2", float("nan"), "f9t_config"),
        ("CFG_TP_DUTY_TP2", float("inf"), "f9t_config"),
    ],
)
def test_a_value_that_a_register_cannot_have_is_an_invalid_argument(stub, twin, key, value, text):
    settings = [{"key": key, "value": value}]
    code, message = status(lambda: init(stub, twin.device, cfg_key_settings=settings))
    assert code == Code.INVALID_ARGUMENT
    assert text in message


@pytest.mark.parametrize(
    "changes",
    [
        {"position": {**POSITION, "format": "ECEF", "ecef_x_m": 1e300}},
        {"position": {**POSITION, "height_m": float("inf")}},
        {"position": {**POSITION, "height_m": 1e305}},
        {"position": {**POSITION, "acc_m": 1e305}},
        {"baud": 1e300},
    ],
)
def test_other_odd_numbers_are_invalid_arguments(stub, twin, changes):
    assert status(lambda: init(stub, twin.device, **changes))[0] == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("form", "missing"), [("LLH", "lat_deg"), ("LLH", "height_m"), ("ECEF", "ecef_x_m")]
)
def test_a_position_without_one_of_its_coordinates_is_an_invalid_argument(
    stub, twin, form, missing
):
    position = {name: value for name, value in POSITION.items() if name != missing}
    code, message = status(lambda: init(stub, twin.device, position={**position, "format": form}))
    assert code == Code.INVALID_ARGUMENT
    assert f"{missing} is missing; {form} has it" in message


def test_registers_of_every_type_are_set_and_verified(stub, twin):
    settings = [
        {"key": "CFG_INFMSG_UBX_USB", "value": 31},  # X
        {"key": "CFG_TP_TP1_ENA", "value": True},  # L
        {"key": "CFG_TP_ANT_CABLEDELAY", "value": -32768},  # I
        {"key": "CFG_TP_FREQ_TP2", "value": 4294967295},  # U
        {"key": REAL_OF_4_BYTES, "value": 0.1},
    ]
    answer = init(stub, twin.device, cfg_key_settings=settings)
    assert answer.message == "5 registers are set and verified"


def test_a_position_is_split_into_coarse_and_fine_parts():
    registers = position_registers(Position(**POSITION))
    lat = registers["CFG_TMODE_LAT"] * 1e-7 + registers["CFG_TMODE_LAT_HP"] * 1e-9
    height = registers["CFG_TMODE_HEIGHT"] * 0.01 + registers["CFG_TMODE_HEIGHT_HP"] * 1e-4
    assert lat == pytest.approx(37.4219999, abs=5e-10)
    assert height == pytest.approx(12.345, abs=5e-5)
    assert registers["CFG_TMODE_FIXED_POS_ACC"] == 200
    assert all(abs(v) <= 99 for k, v in registers.items() if k.endswith("_HP"))


def test_the_error_of_a_pulse_is_with_its_time(stub, twin):
    init(stub, twin.device)
    request = pb.CaptureUbloxRequest(patterns=["NAV-TIMEUTC"])
    call = stub.CaptureUblox(request, timeout=90)
    found = [MessageToDict(next(call).parsed_data) for _ in range(5)]
    call.cancel()
    truth = dict(twin.pulses)
    if "pulseQErr" not in found[0]:  # its TIM-TP came before the messages were turned on
        del found[0]
    assert [each["pulseQErr"] for each in found] == [truth[each["iTOW"]] for each in found]
    assert len({each["pulseQErr"] for each in found}) > 1


def test_the_simulated_receiver_announces_the_next_pulse_and_keeps_to_the_clock():
    sent = []

    class Heard(SimulatedF9t):
        def _enabled(self, kind):
            return True

        def _send(self, kind, payload):
            sent.append((time.time(), kind, struct.unpack_from("<I", payload)[0]))

    receiver = Heard()
    try:
        until(lambda: len(sent) >= 8, 60, "four pulses")
    finally:
        receiver.close()
    kinds = [kind for _, kind, _ in sent]
    assert kinds[:8] == [NAV_TIMEUTC, TIM_TP] * 4
    weeks_ms = [tow_ms for _, _, tow_ms in sent]
    assert all(tim == nav + 1000 for nav, tim in zip(weeks_ms[::2], weeks_ms[1::2], strict=False))
    # GPS time is ahead of UTC by 18 s; its weeks begin on Sundays, unix time on a Thursday.
    for heard_s, kind, tow_ms in sent:
        if kind == NAV_TIMEUTC:
            pulse_s = tow_ms / 1000 - 18 + 3 * 86400
            assert 0 <= (heard_s - pulse_s + 86400) % (7 * 86400) - 86400 < 2
    assert (dict(receiver.pulses).keys()) >= set(weeks_ms[1::2])


def tim_tp(tow_ms, qerr_ps, flags=0, sub_ms=0):
    return UBXReader.parse(
        frame(TIM_TP, struct.pack("<IIiHBB", tow_ms, sub_ms, qerr_ps, 2379, flags, 0))
    )


def time_utc(tow_ms, valid=7, second=4, day=12):
    # A Tuesday, the third day of the week.
    date_and_time = (2025, 8, day, 3, 53, second)
    return UBXReader.parse(
        frame(NAV_TIMEUTC, struct.pack("<IIiHBBBBBB", tow_ms, 62, -5, *date_and_time, valid))
    )


def test_a_pulse_is_found_by_its_time_whatever_comes_first():
    errors = PulseErrors()
    assert errors.error_of(time_utc(186_844_000)) is None
    errors.announce(tim_tp(186_844_000, 2558))
    errors.announce(tim_tp(186_844_999, -7, sub_ms=2**32 - 1))
    assert errors.error_of(time_utc(186_844_000)) == 2558
    assert errors.error_of(time_utc(186_845_000)) == -7
    errors.announce(tim_tp(186_846_000, 9, flags=1 << 4))
    assert errors.error_of(time_utc(186_846_000)) is None
    errors.announce(tim_tp(2 * 86_400_000 + 14_026_000, 11, flags=1))  # its time base is UTC
    assert errors.error_of(time_utc(186_844_001, second=46)) == 11
    assert errors.error_of(time_utc(186_844_001, valid=0, second=46)) is None
    assert errors.error_of(time_utc(186_844_001, day=0)) is None  # no such day
    for second in range(4):
        errors.announce(tim_tp(1000 * second, second))
    assert errors.error_of(time_utc(186_844_000)) is None
