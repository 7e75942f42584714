"""Each clause of the UbloxControl contract, over real gRPC and a simulated receiver on a pty."""

import asyncio
import struct
import threading

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from pyubx2 import UBXReader

from skywright.instruments.panoseti.ublox.config import Position, position_registers
from skywright.instruments.panoseti.ublox.pulses import PulseErrors
from skywright.instruments.panoseti.ublox.service import UbloxService
from skywright.instruments.panoseti.ublox.twin import TIM_TP, SimulatedF9t, frame
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
POSITION = {
    "format": "LLH", "lat_deg": 37.4219999, "lon_deg": -122.0840575, "height_m": 12.345,
    "acc_m": 0.02,
}  # fmt: skip


@pytest.fixture
def stub():
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
        yield Stub(channel)
    asyncio.run_coroutine_threadsafe(stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def twin():
    made = SimulatedF9t(period_s=0.1)
    yield made
    made.close()


def init(stub, device, force=False, **changes):
    request = pb.InitF9tRequest(force_init=force)
    config = {"device": device, "f9t_uid": UID, "cfg_key_settings": SETTINGS, **changes}
    request.f9t_config.update({key: value for key, value in config.items() if value is not None})
    return stub.InitF9t(request, timeout=20)


def status(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_init_configures_and_messages_come(stub, twin):
    answer = init(stub, twin.device, position=POSITION)
    assert answer.init_status == pb.InitF9tResponse.SUCCESS
    assert MessageToDict(answer.f9t_config)["position"]["acc_m"] == 0.02
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=20)
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
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["NAV", "TP"]), timeout=20)
    assert {next(call).name for _ in range(5)} == {"NAV-TIMEUTC"}
    call.cancel()
    wrong = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["("]), timeout=5)
    assert status(lambda: next(wrong))[0] == Code.INVALID_ARGUMENT


def test_the_newest_messages_come_first(stub):
    twin = SimulatedF9t(period_s=3.0)
    try:
        init(stub, twin.device)
        first = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["TIM"]), timeout=20)
        seen = next(first)
        again = stub.CaptureUblox(pb.CaptureUbloxRequest(patterns=["TIM"]), timeout=2)
        assert next(again).payload == seen.payload
        first.cancel()
        again.cancel()
    finally:
        twin.close()


def test_capture_before_init_is_a_failed_precondition(stub):
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=5)
    assert status(lambda: next(call))[0] == Code.FAILED_PRECONDITION


def test_poll_message_is_unimplemented(stub):
    code, _ = status(lambda: stub.PollMessage(pb.PollRequest(), timeout=5))
    assert code == Code.UNIMPLEMENTED


def test_init_needs_force_while_streams_are_active(stub, twin):
    init(stub, twin.device)
    call = stub.CaptureUblox(pb.CaptureUbloxRequest(), timeout=20)
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


@pytest.mark.parametrize("device", [None, 5, "", "/nowhere/tty", "/tmp"])
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


def test_a_position_is_split_into_coarse_and_fine_parts():
    registers = position_registers(Position(**POSITION))
    lat = registers["CFG_TMODE_LAT"] * 1e-7 + registers["CFG_TMODE_LAT_HP"] * 1e-9
    height = registers["CFG_TMODE_HEIGHT"] * 0.01 + registers["CFG_TMODE_HEIGHT_HP"] * 1e-4
    assert lat == pytest.approx(37.4219999, abs=5e-10)
    assert height == pytest.approx(12.345, abs=5e-5)
    assert registers["CFG_TMODE_FIXED_POS_ACC"] == 200
    assert all(abs(v) <= 99 for k, v in registers.items() if k.endswith("_HP"))


def test_a_quantization_error_is_of_the_next_pulse():
    real = frame(TIM_TP, struct.pack("<IIiHBB", 273_244_000, 0, 2558, 2379, 0, 0))
    parsed = UBXReader.parse(real)
    errors = PulseErrors()
    assert errors.pulse() is None
    errors.message(parsed)
    error = errors.pulse()
    assert (error.tow_ms, error.late_ps, error.week) == (273_244_000, 2558, 2379)
    assert errors.pulse() is None
