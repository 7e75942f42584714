"""Channel Access repeater: hands the beacons of one stack's IOCs to the clients on this machine.

Clients learn by a beacon that an IOC is back, at once instead of at their next search, minutes
later when it was away for long. Each stack has its own repeater, so that the stacks of two users
on one machine do not share one.

    python -m iocs.repeater --port 5065

Messages are those of the Channel Access protocol specification, "Repeater operation". A client
registers by a message REPEATER_REGISTER or by an empty one. The C client library sends empty ones,
and complains until they are confirmed; caproto's repeater does not confirm them.
"""

import argparse
import socket
import struct

from skywright.processes.lifecycle import announce_ready, end_with_parent
from skywright.processes.logs import log_to_stderr
from skywright.processes.ports import port_number

HEADER = struct.Struct(">HHHHII")
"""Command, size of the payload, data type, count, parameters 1 and 2."""
BEACON, CONFIRM, REGISTER = 13, 17, 24
Address = tuple[str, int]


def main() -> None:
    """Run the repeater on the loopback interface until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=port_number, default=5065, help="UDP")
    options = parser.parse_args()
    log_to_stderr()
    end_with_parent()
    try:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", options.port))
    except OSError as error:
        raise SystemExit(f"UDP port {options.port}: {error.strerror}") from error
    announce_ready(port=options.port)
    clients: set[Address] = set()
    while True:
        data, sender = server.recvfrom(65536)
        repeat(server, clients, data, sender)


def repeat(server: socket.socket, clients: set[Address], data: bytes, sender: Address) -> None:
    """Register the client that sent a message, or send the message to the registered clients.

    Parameters
    ----------
    server
        The repeater's UDP socket.
    clients
        Addresses of the clients; changed in place.
    data, sender
        The datagram and where it came from.
    """
    if not data or is_command(data, REGISTER):
        clients.difference_update([each for each in clients if is_gone(each)])
        clients.add(sender)
        address = struct.unpack(">I", socket.inet_aton(sender[0]))[0]
        server.sendto(HEADER.pack(CONFIRM, 0, 0, 0, 0, address), sender)
        data = data[HEADER.size :]
    if data:
        for client in clients - {sender}:
            server.sendto(with_address(data, sender), client)


def is_command(data: bytes, command: int) -> bool:
    """Return whether the first message of a datagram is `command`."""
    return len(data) >= HEADER.size and HEADER.unpack_from(data)[0] == command


def with_address(data: bytes, sender: Address) -> bytes:
    """Return the datagram with the sender's address in a beacon that has none."""
    if not is_command(data, BEACON) or HEADER.unpack_from(data)[5]:
        return data
    return data[:12] + socket.inet_aton(sender[0]) + data[16:]


def is_gone(client: Address) -> bool:
    """Return whether a client has closed its socket: its port is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(client)
        except OSError:
            return False
    return True


if __name__ == "__main__":
    main()
