"""What every IOC does alike: arguments, ready line, clean end, puts that never hang."""

import argparse
import asyncio
import contextlib
import functools
import ipaddress
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from caproto import (
    AlarmSeverity,
    AlarmStatus,
    CaprotoConversionError,
    CaprotoError,
    ChannelAlarm,
    ChannelChar,
    ChannelData,
    ChannelEnum,
    ChannelInteger,
    ChannelType,
)
from caproto.asyncio.server import Context
from caproto.server import PVGroup, get_pv_pair_wrapper

from skywright.errors import ConfigError, SkywrightError, message_of
from skywright.processes.lifecycle import (
    END_SIGNALS,
    announce_ready,
    end_process,
    end_with_parent,
)
from skywright.processes.logs import log_to_stderr
from skywright.processes.memory import share_arenas
from skywright.processes.options import OptionParser, add_number, speed_factor
from skywright.processes.ports import ARRAY_BYTES_MAX, free_port, port_number

logger = logging.getLogger(__name__)

CA_PORT = 5064

setting = get_pv_pair_wrapper(setpoint_suffix="", readback_suffix="_RBV")
"""A pvproperty with its ``_RBV``, areaDetector's convention."""

PostError = Callable[[str], Awaitable[None]]
Putter = Callable[[Any, Any, Any], Awaitable[Any]]


def in_order(put: Putter) -> Putter:
    """Return a putter of which each PV group runs one call at a time.

    Each put is a task, and a later one would overtake an earlier one that waits for a thread.
    """
    locks: WeakKeyDictionary[PVGroup, asyncio.Lock] = WeakKeyDictionary()

    @functools.wraps(put)
    async def put_in_order(obj: Any, instance: Any, value: Any) -> Any:
        async with locks.setdefault(obj.parent, asyncio.Lock()):
            return await put(obj, instance, value)

    return put_in_order


def argument_parser(description: str, prefix: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all IOCs take.

    Parameters
    ----------
    description
        The module's docstring.
    prefix
        Default PV prefix, with its colon.
    """
    parser = OptionParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prefix", default=prefix, help="PV prefix, with its colon (%(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=0, help="CA port, TCP and UDP; 0: a free port"
    )
    parser.add_argument("--host", default="127.0.0.1", help="interface to serve on (%(default)s)")
    parser.add_argument("--list-pvs", action="store_true", help="print the PV names and end")
    add_number(parser, "--seed", 0, 0, 2**32 - 1, "seed of the simulation")
    parser.add_argument(
        "--speed",
        type=speed_factor,
        default=1.0,
        help="speed of simulated time, or inf (%(default)s)",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more; -vv: debug")
    return parser


def run(
    build: Callable[[argparse.Namespace], tuple[PVGroup, Mapping[str, Any]]],
    parser: argparse.ArgumentParser,
) -> None:
    """Parse the arguments, build the IOC, serve it until SIGTERM, and exit.

    Parameters
    ----------
    build
        Makes the PV group of the arguments, and what its ready line says beside prefix and port.
        The group may have ``post_error(text)``, ``serving()`` (coroutines), ``close()`` and
        ``served_on(port)`` (see `serve`).
    parser
        From `argument_parser`.
    """
    share_arenas()
    args = parser.parse_args()
    log_to_stderr(args.verbose)
    try:
        group, facts = build(args)
        if args.list_pvs:
            sys.stdout.write("\n".join(sorted(group.pvdb)) + "\n")
            return
        asyncio.run(serve(group, args, facts))
    except ConfigError as error:
        logger.critical("%s", error)
        sys.exit(2)
    except (SkywrightError, OSError) as error:
        logger.critical("%s", error)
        sys.exit(1)
    except KeyboardInterrupt:  # while it starts; later SIGINT ends it as SIGTERM does
        sys.exit(130)
    end_process()


async def serve(group: PVGroup, args: argparse.Namespace, facts: Mapping[str, Any]) -> None:
    """Serve a PV group until SIGTERM; `run` calls it with the arguments of the command line.

    Parameters
    ----------
    group, facts
        As `run`'s ``build`` gives them.
    args
        What a parser of `argument_parser` has read. With a ``port`` of None searches are answered
        on UDP port 5064, or ``EPICS_CA_SERVER_PORT``, shared with other IOCs; the TCP port is
        another one if that is taken. If the group has ``served_on(port)``, it is called with the
        TCP port.

    Raises
    ------
    ConfigError
        If the port is taken, or the host is no address of this machine.
    SkywrightError
        If ``serving()`` of the group has failed.
    """
    shares = args.port is None
    usual = int(os.environ.get("EPICS_CA_SERVER_PORT") or CA_PORT)
    port = usual if shares else args.port or free_port(args.host)
    os.environ["EPICS_CA_SERVER_PORT"] = str(port)
    os.environ.setdefault("EPICS_CA_MAX_ARRAY_BYTES", str(ARRAY_BYTES_MAX))
    _keep_beacons_local(args.host)
    post_error = getattr(group, "post_error", None)
    for pv, channel in group.pvdb.items():
        _own_alarm(channel)
        _never_hang(channel, pv, post_error)
        for name, each in channel.fields.items():
            _never_hang(each, f"{pv}.{name}", post_error)
    context = Context(group.pvdb, [args.host])
    # Beacons only make clients reconnect sooner; no error if a beacon cannot be sent
    context.log.addFilter(lambda record: "send beacon" not in record.msg)

    async def started(_library: Any) -> None:
        # caproto calls this when its TCP and UDP sockets are bound: searches are answered now.
        if context.port != port and not shares:
            raise ConfigError(f"--port {port}: in use on {args.host}; choose another, or 0")
        if context.port != port:
            logger.warning("TCP port %d is taken: PVs are served on %d", port, context.port)
        if hasattr(group, "served_on"):
            group.served_on(context.port)
        if hasattr(group, "serving"):
            serving = asyncio.create_task(group.serving())
            background.append(serving)
            # An IOC that cannot post any more must not look alive.
            serving.add_done_callback(lambda task: server.cancel())
        announce_ready(prefix=args.prefix, port=context.port, **facts)
        end_with_parent()

    background: list[asyncio.Task[None]] = []
    server = asyncio.ensure_future(context.run(startup_hook=started))
    for number in END_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, server.cancel)
    try:
        await server
    except asyncio.CancelledError:
        logger.info("%s: ends on a signal, or because its posting has ended", args.prefix)
    except OSError as error:
        if context.udp_socks:
            raise
        raise ConfigError(f"port {port} on {args.host}: cannot be used ({error})") from error
    finally:
        for task in background:
            task.cancel()
        ended = await asyncio.gather(*background, return_exceptions=True)
        if hasattr(group, "close"):
            await asyncio.get_running_loop().run_in_executor(None, group.close)
    for failed in ended:
        if isinstance(failed, Exception):
            raise SkywrightError(f"{args.prefix}: {type(failed).__name__}: {failed}") from failed


def _keep_beacons_local(host: str) -> None:
    """Keep beacons on this machine if no other one can reach `host`; else broadcast them.

    Clients on other machines notice by the beacons that a server was restarted.
    """
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        is_loopback = host == "localhost"
    if is_loopback:
        os.environ.setdefault("EPICS_CAS_AUTO_BEACON_ADDR_LIST", "NO")
        os.environ.setdefault("EPICS_CAS_BEACON_ADDR_LIST", host)


async def wait_at_most(limit_s: float | None, event: asyncio.Event) -> None:
    """Wait until an event is set, at most `limit_s` s; None: no limit.

    `asyncio.wait_for` of Python 3.11 loses a cancellation that comes together with the event, and a
    task that waits in a loop then never ends.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()


def _own_alarm(channel: ChannelData) -> None:
    """Give a PV, with the fields of its record, an alarm; caproto shares one among a group."""
    channel.alarm = alarm = ChannelAlarm()
    for each in channel.fields.values():
        each.alarm = alarm
    if channel.field_inst is not None:  # which keeps STAT and SEVR
        channel.field_inst._alarm = alarm  # noqa: SLF001  caproto has no other way
        alarm.connect(channel.field_inst)


def _never_hang(channel: ChannelData, name: str, post_error: PostError | None) -> None:
    """Answer every put: a refused one raises the PV's alarm and says why on the message PV.

    If a putter raises, caproto's error reply does not end put completion, and the client would
    wait until its own timeout.
    """
    write = channel.write_from_dbr
    channel.preprocess_value = _plain_value(channel.preprocess_value)

    async def answered(data: Any, data_type: Any, metadata: Any, *, flags: int = 0) -> Any:
        if isinstance(channel, ChannelEnum) and data_type == ChannelType.STRING:
            given = data[0].decode("latin-1")
            if given.isdecimal() and given not in channel.enum_strings:
                data, data_type = [int(given)], ChannelType.LONG  # an index, as for an EPICS IOC
        if isinstance(channel, ChannelChar) and data_type == ChannelType.CHAR and not any(data):
            data, data_type = [b""], ChannelType.STRING  # caproto cannot convert an empty CHAR text
        try:
            result = await write(data, data_type, metadata, flags=flags)
        except Exception as error:
            reason = _reason(channel, error, data, data_type)
            logger.warning("%s: put refused: %s", name, reason)
            logger.debug("because of", exc_info=True)
            await channel.alarm.write(
                status=AlarmStatus.WRITE, severity=AlarmSeverity.INVALID_ALARM
            )
            if post_error is not None:
                await post_error(f"{name}: {reason}")
            return None
        if channel.alarm.severity and channel.alarm.status == AlarmStatus.WRITE:
            await channel.alarm.write(status=AlarmStatus.NO_ALARM, severity=AlarmSeverity.NO_ALARM)
        return result

    channel.write_from_dbr = answered


def _plain_value(preprocess: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a `preprocess_value` that gives a number of numpy as a number of Python.

    What a client has put as text or as another type of number comes as a number of numpy, which
    `deque` and JSON, for example, do not take for an integer.
    """

    def plain(value: Any) -> Any:
        value = preprocess(value)
        return value.item() if isinstance(value, np.generic) else value

    return plain


def _reason(channel: ChannelData, error: Exception, data: Any, data_type: ChannelType) -> str:
    """Return why a put was refused."""
    if error.args or not isinstance(error, CaprotoConversionError):
        reason = message_of(error)
    else:  # caproto says nothing of the value
        is_text = data_type == ChannelType.STRING
        reason = repr(b" ".join(data).decode("latin-1")) if is_text else str(np.squeeze(data))
        if channel.data_type in (ChannelType.INT, ChannelType.LONG):
            reason += ", expected a whole number"
        elif channel.data_type in (ChannelType.FLOAT, ChannelType.DOUBLE):
            reason += ", expected a number"
    if isinstance(channel, ChannelEnum) and isinstance(error, CaprotoError):
        reason += f"; expected one of {', '.join(channel.enum_strings)}"
    return reason


def alarm_if(
    condition: object, severity: AlarmSeverity = AlarmSeverity.MINOR_ALARM
) -> AlarmSeverity:
    """Return a severity if a condition is true, else that of no alarm."""
    return severity if condition else AlarmSeverity.NO_ALARM


async def post(
    channel: ChannelData,
    value: Any,
    severity: int | None = None,
    time_s: float | None = None,
) -> None:
    """Post a value (of an enum: the index) and a severity, if either differs from what is posted.

    Parameters
    ----------
    channel
        The PV; its putter is not called.
    value
        Number, text, or index. An integer PV has 32 bits: a larger number becomes 2**31 - 1. Text
        is sent as Latin-1, with ``?`` for other letters; that of a CHAR PV is cut to its length.
    severity
        Severity of its alarm; None leaves the alarm as it is.
    time_s
        Unix time of the value, s; None: now. A value with a time may be an array, and is posted
        also if nothing differs.
    """
    if isinstance(channel, ChannelEnum):
        value = channel.enum_strings[value]
    elif isinstance(channel, ChannelInteger):
        value = min(value, 2**31 - 1)
    elif isinstance(value, str):
        # caproto would raise for other letters, and the posts after this one would be missing
        value = value.encode("latin-1", "replace").decode("latin-1")
        if isinstance(channel, ChannelChar):
            value = value[: channel.max_length]
    metadata: dict[str, Any] = {} if time_s is None else {"timestamp": time_s}
    if severity is not None and severity != channel.alarm.severity:
        status = AlarmStatus.STATE if severity else AlarmStatus.NO_ALARM
        metadata |= {"status": status, "severity": severity}
    if metadata or channel.value != value:
        await channel.write(value, verify_value=False, **metadata)


async def post_pair(pair: Any, value: Any) -> None:
    """Post a value to the readback and the setpoint of a pair, where it has changed (`post`)."""
    for channel in (pair.readback, pair.setpoint):
        await post(channel, value)


async def write_pair(pair: Any, value: Any) -> None:
    """Write a value, also an array, to both PVs of a pair, without a call of the putter."""
    await pair.setpoint.write(value, verify_value=False)
    await pair.readback.write(value)


def decode_char_array(value: str | bytes) -> str:
    """Return the text that a client has put to a CHAR PV.

    It ends at the first NUL, and has no blanks at its ends.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value.split("\0")[0].strip()
