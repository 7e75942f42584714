"""Ports and addresses of servers, and the size of PVs that servers and clients agree on."""

import argparse
import errno
import random
import socket
from collections.abc import Collection
from pathlib import Path

from skywright.errors import ConfigError

ARRAY_BYTES_MAX = 40_000_000
"""Maximum size of the value of a PV, bytes."""


def port_number(text: str) -> int:
    """Return an argument of the command line as a port, 0 to 65535; a ``type`` of argparse.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is no port; argparse adds the name of the argument.
    """
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 0 to 65535")
    return int(text)


def http_url(host: str, port: int) -> str:
    """Return the address of an HTTP server; an IPv6 host may lack its brackets."""
    return f"http://[{host.strip('[]')}]:{port}" if ":" in host else f"http://{host}:{port}"


def address_family(host: str) -> socket.AddressFamily:
    """Return the family of a host's sockets: IPv6 if it has a colon, else IPv4."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_port(host: str = "127.0.0.1", taken: Collection[int] = ()) -> int:
    """Return a port that is free for both TCP and UDP on `host` at this moment.

    It is no ephemeral port, if the system leaves enough others: so a server that is restarted
    finds its port free, and no client that retries connects to itself.

    Parameters
    ----------
    host
        Address of this machine.
    taken
        Ports that must not be returned, because others will use them.

    Raises
    ------
    ConfigError
        If `host` is no address of this machine.
    OSError
        If no port is free.
    """
    first_ephemeral = 32768
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if kernel.is_file():
        first_ephemeral = int(kernel.read_text().split()[0])
    candidates = range(10000, first_ephemeral) if first_ephemeral > 11000 else range(49152, 65536)
    # Not the seeded generator: processes that seed it alike would try the same ports.
    for port in random.SystemRandom().sample(candidates, 200):
        if port not in taken and port_is_free(port, host):
            return port
    raise OSError(f"{host}: no port is free for both TCP and UDP")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether both TCP and UDP servers could take `port` on `host` now.

    Raises
    ------
    ConfigError
        If `host` is no address of this machine.
    """
    family = address_family(host)
    with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: past TIME_WAIT
        try:
            tcp.bind((host, port))
            udp.bind((host, port))
        except PermissionError:
            return False
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigError(
                f"host {host}: nothing can be served there, expected an address of this machine "
                f"({error})"
            ) from error
    return True
