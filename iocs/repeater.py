"""Channel Access repeater: hands the beacons of one stack's IOCs to the clients on this machine.

Clients learn by a beacon that an IOC is back, at once instead of at their next search, minutes
later when it was away for long. Each stack has its own repeater, so users do not meet.

    python -m iocs.repeater --port 5065
"""

import argparse
import os

from skywright.process import announce_ready, end_with_parent, log_to_stderr


def main() -> None:
    """Run the repeater on the loopback interface until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5065, help="UDP")
    options = parser.parse_args()
    log_to_stderr()
    end_with_parent()
    os.environ["EPICS_CA_REPEATER_PORT"] = str(options.port)
    from caproto.sync.repeater import run

    announce_ready(port=options.port)
    run("127.0.0.1")  # returns at once when the port is taken
    raise SystemExit(f"UDP port {options.port} is taken")


if __name__ == "__main__":
    main()
