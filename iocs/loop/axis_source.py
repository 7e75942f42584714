"""Arguments of the camera's IOC for its source, and the source that they name."""

import argparse
import logging
import math
from pathlib import Path
from typing import Any, get_type_hints

from skywright.arguments import first_problem
from skywright.errors import ConfigError
from skywright.instruments.loop.detection import SIDE_MIN_PX
from skywright.instruments.loop.sources import Source
from skywright.processes.ports import port_number

logger = logging.getLogger(__name__)

SOURCES = ("sim", "push", "mjpeg", "snapshot", "replay")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `make_source` reads."""
    add = parser.add_argument
    add("--source", choices=SOURCES, default="sim")
    add("--fps", type=float, help="sim, replay: pictures per second (30); snapshot: requests (5)")
    add("--size", help="WIDTHxHEIGHT; sim: 704x480, others: learnt from the pictures")
    add("--turn", type=float, default=0.0, help="sim: spindle speed, deg/s")
    add("--kind", help="sim: nylon, mitegen, pin or none; default: random, by the seed")
    add("--scene", default="{}", help="sim: JSON, fields of mount and camera to fix")
    add("--goniometer", default="", help="sim: PV prefix of the goniometer that moves the sample")
    add("--listen", type=port_number, default=8171, help="push: HTTP port, 0 takes a free one")
    add("--url", default="", help="mjpeg, snapshot: URL of the camera, or of its pictures")
    add("--user", help="user for the camera (mjpeg, snapshot), or of --http")
    add("--password-file", type=Path, help="file; its first line is the password of --user")
    add("--delay", type=float, default=0.0, help="push, mjpeg, snapshot: exposure to arrival, s")
    add(
        "--dating",
        choices=["arrival", "sender"],
        default="arrival",
        help="push, mjpeg: date by arrival, or by the sender's clock with its offset fitted",
    )
    add("--path", type=Path, help="replay: folder of pictures, or HDF5 file")
    add("--dataset", help="replay: path in the HDF5 file")
    add("--once", action="store_true", help="replay: end after the last picture")


def make_source(args: argparse.Namespace) -> Source:
    """Return the source that the arguments name.

    Raises
    ------
    ConfigError
        Naming the argument that cannot be used.
    """
    size = _size(args.size) if args.size else None
    if args.fps is not None and not args.fps > 0.0:
        raise ConfigError(f"--fps {args.fps}: expected pictures per second, above 0")
    if not math.isfinite(args.turn):
        raise ConfigError(f"--turn {args.turn}: expected deg/s")
    if args.source == "sim":
        return _simulated(args, size or (704, 480))
    if args.source == "replay":
        return _replay(args)
    if not 0.0 <= args.delay <= 10.0:
        raise ConfigError(f"--delay {args.delay}: expected 0 to 10 s")
    from skywright.instruments.loop.sources import fetched

    date = fetched.make_dating(args.delay, args.dating)
    if args.source == "push":
        from skywright.instruments.loop.sources.push import PushedPictures

        return PushedPictures(args.host, args.listen, size, date=date)
    if not args.url:
        raise ConfigError(f"--source {args.source}: name the camera with --url")
    login = args.user, password_of(args)
    if args.source == "mjpeg":
        return fetched.StreamedPictures(args.url, *login, size=size, date=date)
    period = 1.0 / (args.fps * args.speed) if args.fps else fetched.PERIOD_S
    return fetched.SnapshotPictures(args.url, *login, size=size, date=date, period_s=period)


def password_of(args: argparse.Namespace) -> str:
    """Return the password of ``--user``; a command line shows it to everybody, a file does not."""
    if args.password_file is None:
        return ""
    try:
        lines = args.password_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--password-file {args.password_file}: {error}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"--password-file {args.password_file}: its first line is empty")
    return str(lines[0])


def _simulated(args: argparse.Namespace, size: tuple[int, int]) -> Source:
    from scipy.spatial import QhullError

    from skywright.instruments.loop.sources.sim import LATENCY_S, SimulatedCamera, turning_pose

    # Without pauses the pictures have no simulated time: the spindle turns by the clock
    turn_speed = args.speed if math.isfinite(args.speed) else 1.0
    pose_at = turning_pose(deg_per_s=args.turn * turn_speed)
    fps, scene = _fps(args) * args.speed, _scene(args)
    try:
        camera = SimulatedCamera(args.seed, fps, size, pose_at, **scene)
        camera.latency_s = LATENCY_S if args.goniometer else 0.0
        if not args.list_pvs:
            logger.info("warming up: the kernels of the simulated sample are compiled or loaded")
            camera.prepare([pose_at(0.0)])  # the first picture compiles, or loads, the kernels
    except (ArithmeticError, QhullError, ValueError) as error:  # numbers that make no picture
        raise ConfigError(f"--scene {args.scene}: {error}") from error
    return camera


def _replay(args: argparse.Namespace) -> Source:
    if args.path is None:
        raise ConfigError("--source replay: name a folder or an HDF5 file with --path")
    from skywright.instruments.loop.sources.replay import Replay

    return Replay(args.path, _fps(args) * args.speed, loop=not args.once, dataset=args.dataset)


def _fps(args: argparse.Namespace) -> float:
    return float(args.fps or 30.0)


def _scene(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the scene that the arguments fix."""
    from pydantic import ConfigDict, ValidationError, create_model

    from skywright.instruments.loop.twin.mount import Mount
    from skywright.instruments.loop.twin.optics import Optics

    types = get_type_hints(Mount) | get_type_hints(Optics)
    fields: dict[str, Any] = {name: (kind, None) for name, kind in types.items()}
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model = create_model("Scene", __config__=config, **fields)
    try:
        scene = model.model_validate_json(args.scene).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ConfigError(
            f"--scene {args.scene}: expected a JSON object of fields of Mount and Optics: "
            f"{first_problem(error)}"
        ) from error
    return {**scene, "kind": args.kind} if args.kind else scene


def _size(value: str) -> tuple[int, int]:
    width, _, height = value.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or min(int(width), int(height)) < SIDE_MIN_PX:
        raise ConfigError(
            f"--size {value}: expected WIDTHxHEIGHT, such as 704x480, at least {SIDE_MIN_PX} each"
        )
    return int(width), int(height)
