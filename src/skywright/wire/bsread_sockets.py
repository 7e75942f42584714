"""zmq sockets of bsread: whole messages in and out, queues bounded in bytes, drops counted.

zmq limits its queues in messages, the classes here in bytes. A receiver takes messages from zmq, in
which two wait at most, into a queue of its own, on a thread of its own; when that is full it stops
taking, and the sender keeps or drops them. zmq tells a sender when it is done with the last frame
of a message, so the sender knows the bytes that wait, and drops a message that would be too much.

One reader that stops reading must not stop the others. So zmq has two messages of a PUSH at most
for each reader. If no reader has room, the messages wait in one queue for all readers, and a thread
gives them to the readers that have room again. The messages of a PUB wait in zmq for each reader.

The high-water mark of an open connection must not be lowered to less than half: libzmq reports
messages as read only after half of the old mark, and the connection could stop. So the mark of a
PUB is lowered once only, to half, and `PUB_MARK` is a multiple of four.
"""

import contextlib
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from skywright.errors import ConfigError

QUEUE_BYTES = 256_000_000
FRAME_BYTES_MAX = 256_000_000
"""A peer that sends a larger frame is disconnected by zmq."""

RECEIVED_MARK = 2
"""Messages of one sender that wait in zmq itself."""

PUSH_MARK = 1000
"""Messages of a PUSH that wait for all readers together."""

PUSHED_MARK = 2
"""Messages of a PUSH that wait in zmq for one reader."""

PUB_MARK = 20
"""Maximum number of messages of a PUB that wait for one reader. It is halved once: when there are
several readers and `PUB_MARK` messages of the present size exceed `queue_bytes`."""

SYSTEM_BUFFER_BYTES = 262_144
"""Size of the system's send buffer of a connection, bytes. With this size a picture passes through
the processor's cache and not through the memory, which halves the time that both ends need (full
pictures over the loopback: 1.6 ms in place of 3.1 ms). It is enough for 10 Gbit/s at a round trip
of 0.2 ms."""

LINGER_S = 1.0
"""Longest time, s, that `Sender.close` waits for queued messages to be read."""
SLICE_S = 0.05
"""Longest time that waiting to send holds up `Sender.close`."""


def tcp_address(host: str, port: int) -> str:
    """Return zmq's address of a host and port; an IPv6 address of a host may lack its brackets."""
    return f"tcp://[{host.strip('[]')}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class Receiver:
    """Takes whole messages from one sender; zmq connects, and connects again, by itself.

    Parameters
    ----------
    address
        ``tcp://host:port`` of the sender.
    kind
        ``pull``: the sender is a PUSH socket, each message goes to one of its readers. ``sub``:
        the sender is a PUB socket.
    queue_bytes
        Limit, bytes, of the messages that wait for `receive`. No further message is taken while
        they have this size or more, so the last one may exceed the limit. Those in zmq
        (`RECEIVED_MARK`) are not counted. While the queue is full, a PUSH keeps its messages, a PUB
        drops them.

    Raises
    ------
    ConfigError
        If zmq does not take the address.
    """

    def __init__(
        self,
        address: str,
        kind: Literal["pull", "sub"] = "pull",
        *,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._limit = queue_bytes
        self._queue: deque[tuple[list[zmq.Frame], int, float]] = deque()
        self.queued_bytes = 0
        """Number of bytes that wait for `receive`."""
        self.received_s = 0.0
        """Value of the monotonic clock when the last message that `receive` returned came."""
        self._changed = threading.Condition()
        self._closing = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB if kind == "sub" else zmq.PULL)
        self._socket.set(zmq.RCVHWM, RECEIVED_MARK)
        self._socket.set(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        self._socket.set(zmq.LINGER, 0)
        _prepare(self._socket, address)
        if kind == "sub":
            self._socket.set(zmq.SUBSCRIBE, b"")
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ConfigError(f"{address}: {error}; expected tcp://HOST:PORT") from error
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._take, name="bsread-receiver", daemon=True)
        self._thread.start()

    def receive(self, timeout_s: float) -> list[zmq.Frame] | None:
        """Return the frames of the next message; None after `timeout_s` or once closed.

        The frames own what they hold; nothing is copied. Any thread may call.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing, max(timeout_s, 0.0))
            if self._closing or not self._queue:
                return None
            frames, size, self.received_s = self._queue.popleft()
            was_full = self.queued_bytes >= self._limit
            self.queued_bytes -= size
            if was_full:
                self._changed.notify_all()
        return frames

    def close(self) -> int:
        """End a `receive` in any thread and free the socket; a second call does nothing.

        Return the number of messages that `receive` has not returned. They are dropped, as those in
        zmq are, whose number is not known.
        """
        with self._changed:
            if self._closing:
                return 0
            self._closing = True
            self._changed.notify_all()
        self._wake.send(b"x")
        self._thread.join()
        self._socket.close()
        self._context.term()
        self._wake.close()
        self._woken.close()
        dropped = len(self._queue)
        self._queue.clear()
        return dropped

    def _take(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        while not self._closing:
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                poller.poll()
                continue
            size = sum(map(len, frames))
            with self._changed:
                self._queue.append((frames, size, time.monotonic()))
                self.queued_bytes += size
                self._changed.notify_all()
                self._changed.wait_for(lambda: self.queued_bytes < self._limit or self._closing)
            del frames


class Sender:
    """Binds, and queues whole messages for its readers or drops them.

    It waits only in `send` with a timeout, `wait_for_reader` and `close`.

    If a reader stops reading, the others lose no message because of it, with two exceptions: a PUSH
    has given some messages to that reader already (`PUSHED_MARK`, and those in the connection), and
    a PUB whose `send` has a timeout drops the message for all readers if one has no room until
    then.

    Parameters
    ----------
    address
        ``tcp://*:9999``; port 0 takes a free one.
    kind
        ``push``: each message to one of the readers. ``pub``: to all of them.
    queue_bytes
        Limit, bytes, of the messages that are not yet written to readers; one message is always
        let in. PUSH: one limit for all readers. If there are several, half of it is reserved for
        messages that zmq does not have yet, so that a reader that hangs cannot use all of it. PUB:
        the limit of one reader. Several readers together have twice the limit, because a reader
        that hangs may use its own limit completely.

    Attributes
    ----------
    sent
        Messages that were queued. Those in the queue of a reader that goes away are lost with it,
        also those of a PUSH when its last reader goes away. They are not known here, nor are
        those that zmq leaves out for a slow reader of a PUB (`drops`).

    Raises
    ------
    ConfigError
        If the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        kind: Literal["push", "pub"] = "push",
        *,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.sent = 0
        self._drops: Counter[str] = Counter()
        self._pub = kind == "pub"
        self._limit = queue_bytes
        self._lowered = False
        """Whether the mark of a PUB is half of `PUB_MARK` now."""
        self._queue: deque[tuple[list[Any], zmq.MessageTracker, int]] = deque()
        """Messages of a PUSH that zmq does not have yet, with their numbers of bytes."""
        self._queue_bytes = 0
        self._in_zmq: list[tuple[zmq.MessageTracker, int]] = []
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._closing = False
        self._deadline = 0.0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB if self._pub else zmq.PUSH)
        self._socket.set(zmq.SNDHWM, PUB_MARK if self._pub else PUSHED_MARK)
        self._socket.set(zmq.SNDBUF, SYSTEM_BUFFER_BYTES)
        self._socket.set(zmq.LINGER, int(1e3 * LINGER_S))
        _prepare(self._socket, address)
        if self._pub:
            # So that sending raises zmq.Again when the queue of a reader is full
            self._socket.set(zmq.XPUB_NODROP, 1)
        self._readers = _Readers(self._context, self._socket)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._readers.close()
            self._context.destroy(linger=0)
            raise ConfigError(f"cannot bind {address} ({error}); choose another port") from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.port = int(self.address.rpartition(":")[2])
        self._thread: threading.Thread | None = None
        if not self._pub:
            self._wake, self._woken = socket.socketpair()
            self._wake.setblocking(False)
            self._thread = threading.Thread(target=self._push, name="bsread-sender", daemon=True)
            self._thread.start()

    @property
    def drops(self) -> dict[str, int]:
        """Messages dropped, by cause: ``no_reader``, ``queue_full``, ``closed``.

        A PUB with several readers may send a message to some of them only. Then ``queue_full``
        counts the first message that a slow reader misses; zmq does not report the next ones until
        this reader has room again.
        """
        with self._lock:
            return dict(self._drops)

    @property
    def readers(self) -> int:
        """Number of readers that are connected."""
        with self._lock:
            return 0 if self._closing else self._readers.count()

    @property
    def queued_bytes(self) -> int:
        """Number of bytes that are not yet written to readers."""
        with self._lock:
            return 0 if self._closing else self._update_waiting(self._readers.count())

    def send(self, frames: Sequence[Any], timeout_s: float = 0.0) -> bool:
        """Queue a message; return whether it was not dropped (of a slow PUB reader see `drops`).

        Parameters
        ----------
        frames
            Buffers of bytes. Large ones are not copied: leave them alone until they are read.
        timeout_s
            How long to wait for room or a reader. A PUB with 0 sends to the readers that have room;
            with a longer time it waits until all have.
        """
        deadline = time.monotonic() + timeout_s
        size = sum(memoryview(frame).nbytes for frame in frames)
        message, tracker = _tracked(frames)
        with self._lock:
            while True:
                cause = "closed" if self._closing else self._try(message, tracker, size, timeout_s)
                left = deadline - time.monotonic()
                if not cause or cause == "closed" or left <= 0.0:
                    break
                self._wait(min(left, SLICE_S))
            if cause:
                self._drops[cause] += 1
                return False
            self.sent += 1
            return True

    def wait_for_reader(self, timeout_s: float) -> bool:
        """Wait until a reader is connected; return whether one is."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            with self._lock:
                if self._closing:
                    return False
                if self._readers.count(min(left, SLICE_S)):
                    return True
            if not left:
                return False

    def close(self) -> None:
        """Send the queued messages, at most for `LINGER_S`, and free the port.

        A second call does nothing.
        """
        self._deadline = time.monotonic() + LINGER_S
        already, self._closing = self._closing, True
        if self._thread is not None and not already:
            self._alert()
            self._thread.join()
        with self._lock:
            if already or self._socket.closed:
                return
            self._readers.close()
            left = max(self._deadline - time.monotonic(), 0.0)
            self._socket.set(zmq.LINGER, int(1e3 * left))
            self._socket.close()
            self._context.term()
            self._in_zmq.clear()
            self._queue.clear()
            if self._thread is not None:
                self._wake.close()
                self._woken.close()

    def _try(
        self, message: list[Any], tracker: zmq.MessageTracker, size: int, timeout_s: float
    ) -> str:
        """Queue a message if there is room; return why not."""
        readers = self._readers.count()
        waiting = self._update_waiting(readers)
        if not readers:
            return "no_reader"
        if not self._pub:
            if waiting and waiting + size > self._limit and not self._is_room_for_others(size):
                return "queue_full"
            return self._queue_to_push(message, tracker, size)
        if readers > 1 and size * PUB_MARK > self._limit:
            self._lowered = True
        if self._lowered:
            # Each time: a new connection begins with the mark that the socket had at its binding.
            self._socket.set(zmq.SNDHWM, PUB_MARK // 2)
        if waiting and waiting + size > self._limit * min(readers, 2):
            return "queue_full"
        try:
            self._socket.send_multipart(message, zmq.DONTWAIT, copy=False)
        except zmq.Again:
            if readers > 1 and timeout_s <= 0.0:
                self._send_to_those_with_room(message)
                self._in_zmq.append((tracker, size))
            return "queue_full"
        self._in_zmq.append((tracker, size))
        return ""

    def _is_room_for_others(self, size: int) -> bool:
        """Return whether a PUSH takes a message beyond its limit.

        It does if it has several readers and its own queue is empty or stays within half of the
        limit, because readers that hang may hold the other bytes.
        """
        return self._readers.count() > 1 and (
            not self._queue or 2 * (self._queue_bytes + size) <= self._limit
        )

    def _queue_to_push(self, message: list[Any], tracker: zmq.MessageTracker, size: int) -> str:
        if len(self._queue) >= PUSH_MARK:
            return "queue_full"
        self._queue.append((message, tracker, size))
        self._queue_bytes += size
        if len(self._queue) == 1 and self._push_those_with_room():
            self._alert()
        return ""

    def _alert(self) -> None:
        """Wake the thread that pushes."""
        with contextlib.suppress(BlockingIOError):  # it has not yet read what woke it before
            self._wake.send(b"x")

    def _push(self) -> None:
        """Give the queued messages of a PUSH to readers that have room, until closed."""
        # A zmq socket must not be polled in one thread while another thread sends. So this thread
        # waits for the file descriptor by which zmq signals that a reader has room or is gone.
        signal_fd = self._socket.get(zmq.FD)
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        while True:
            with self._lock:
                self._socket.get(zmq.EVENTS)  # without this call, zmq does not signal again
                full = self._push_those_with_room()
                if self._closing and not (full and self._readers.count()):
                    return
            poller.register(signal_fd, zmq.POLLIN if full else 0)
            timeout_s = self._deadline - time.monotonic() if self._closing else None
            if timeout_s is not None and timeout_s <= 0.0:
                return
            events = poller.poll(None if timeout_s is None else int(1e3 * timeout_s) + 1)
            if self._woken.fileno() in dict(events):
                self._woken.recv(1000)

    def _push_those_with_room(self) -> bool:
        """Give messages to zmq until no reader has room; return whether some are left."""
        while self._queue:
            message, tracker, size = self._queue[0]
            try:
                self._socket.send_multipart(message, zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return True
            self._in_zmq.append((tracker, size))
            self._queue.popleft()
            self._queue_bytes -= size
            self._room.notify_all()
        return False

    def _update_waiting(self, readers: int) -> int:
        """Send what readers have room for; return the number of bytes that wait.

        Forget the messages that zmq has freed, and the queue of a PUSH that has no reader.
        """
        # zmq frees the messages of readers that have disconnected only in a call like this. The
        # call also clears the signal that a reader has room, so queued messages are sent here.
        self._socket.get(zmq.EVENTS)
        if not self._pub and not readers:
            self._queue.clear()
            self._queue_bytes = 0
        self._push_those_with_room()
        self._in_zmq = [(tracker, size) for tracker, size in self._in_zmq if not tracker.done]
        return self._queue_bytes + sum(size for _, size in self._in_zmq)

    def _wait(self, timeout_s: float) -> None:
        """Wait for a reader, or for room."""
        readers = self._readers.count(timeout_s)
        if not readers:
            return
        if self._queue:
            self._room.wait(timeout_s)
        elif self._update_waiting(readers):
            with contextlib.suppress(zmq.NotDone):
                self._in_zmq[0][0].wait(timeout_s)
        elif self._pub:
            self._socket.poll(int(1e3 * timeout_s), zmq.POLLOUT)

    def _send_to_those_with_room(self, frames: Sequence[Any]) -> None:
        self._socket.set(zmq.XPUB_NODROP, 0)
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
        finally:
            self._socket.set(zmq.XPUB_NODROP, 1)


def _tracked(frames: Sequence[Any]) -> tuple[list[Any], zmq.MessageTracker]:
    """Return a message of these frames, and the tracker that reports when zmq has freed it."""
    # zmq frees the frames in their order. When it has freed the last one, it has freed all.
    last = zmq.Frame(memoryview(frames[-1]), track=True, copy=False, copy_threshold=0)
    return [*frames[:-1], last], last.tracker


class _Readers:
    """Counts the connections of a bound socket, by zmq's own events.

    zmq's handshake event does not say which connection it belongs to. So from the first handshake
    on, all connections are counted, also one without a handshake, until none is left. zmq ends a
    connection without a handshake after 30 s.
    """

    EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

    def __init__(self, context: zmq.Context[Any], watched: zmq.Socket[Any]) -> None:
        address = f"inproc://readers-{id(self)}"
        watched.monitor(address, self.EVENTS)
        self._watched = watched
        self._events = context.socket(zmq.PAIR)
        self._events.set(zmq.RCVHWM, 0)  # zmq's thread must not wait for us to read them
        self._events.set(zmq.LINGER, 0)
        self._events.connect(address)
        self._connected: set[int] = set()
        self._has_handshake = False

    def count(self, timeout_s: float = 0.0) -> int:
        """Return the number of readers; if there is none, wait for an event for `timeout_s`."""
        if timeout_s and not self._has_handshake:
            self._events.poll(int(1e3 * timeout_s))
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self._events, zmq.DONTWAIT)
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._connected.add(event["value"])
                elif event["event"] == zmq.EVENT_DISCONNECTED:
                    self._connected.discard(event["value"])
                    self._has_handshake &= bool(self._connected)
                else:
                    self._has_handshake = True
        return len(self._connected) if self._has_handshake else 0

    def close(self) -> None:
        """Stop listening; must come before the socket's own closing."""
        self._watched.disable_monitor()
        self._events.close()


def _prepare(own: zmq.Socket[Any], address: str) -> None:
    """Let a socket take IPv6 where asked, and find out in half a minute that a peer is gone."""
    # Not for names: zmq then takes only the first address, and "localhost" may be ::1 and 127.0.0.1
    own.set(zmq.IPV6, "://[" in address)
    own.set(zmq.TCP_KEEPALIVE, 1)
    own.set(zmq.TCP_KEEPALIVE_IDLE, 10)
    own.set(zmq.TCP_KEEPALIVE_INTVL, 5)
    own.set(zmq.TCP_KEEPALIVE_CNT, 4)
