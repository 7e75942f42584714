"""Recordings that a test writes, and what a replay has made of them."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from skywright.instruments.epu.recording.replay import Pace

BURST = Pace(float("inf"), None)


def contents(root: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def archive(path: Path, events: list[dict], extra: list[tarfile.TarInfo] | None = None) -> Path:
    """Write a recording as another program does: compact, without lines."""
    data = json.dumps({"metadata": {"version": "2.0"}, "events": events}).encode()
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("recording.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        for member in extra or ():
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def event(kind: str, path: str, time: float = 0.0, **values) -> dict:
    content = values.get("content")
    digest = hashlib.sha256(content.encode()).hexdigest() if content is not None else None
    return {"timestamp": time, "event_type": kind, "src_path": path, "is_directory": False,
            "content_hash": digest, **values}  # fmt: skip


def old(kind: str, path: str, data: bytes, **values) -> dict:
    """Return an event as smartem-decisions' recorder writes it: size and sha256 of the file."""
    digest = hashlib.sha256(data).hexdigest()
    return event(kind, path, size=len(data)) | {"content_hash": digest, **values}
