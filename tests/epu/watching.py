"""A watcher that runs beside a test, and what it has recorded."""

import errno
import json
import os
import threading
from pathlib import Path

from arrivals import small_visit
from epu_trees import comparable, read_document
from support.waiting import until

from skywright.instruments.epu.database import Database
from skywright.instruments.epu.watch.changes import changed_files
from skywright.instruments.epu.watch.database_document import database_chunks
from skywright.instruments.epu.watch.watcher import Watcher

LIMIT_S = 120.0


def recorded(database: Database, root: Path) -> dict:
    with database.read() as connection:
        return json.loads("".join(database_chunks(connection, root.resolve())))


def refuse_watches(monkeypatch, name: str) -> None:
    """Let the kernel's limit of watches be reached by each directory `name`."""
    from inotify_simple import INotify

    add_watch = INotify.add_watch

    def add(self, path, mask):
        if Path(path).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add_watch(self, path, mask)

    monkeypatch.setattr(INotify, "add_watch", add)


class Following:
    """A watcher in a thread."""

    def __init__(self, root: Path, database: Database, **options) -> None:
        self.events = []
        self.watcher = Watcher(
            root, database, on_commit=lambda outcome: self.events.extend(outcome.events), **options
        )
        self.thread = threading.Thread(target=self.watcher.run, daemon=True)
        self.thread.start()

    def wait_for(self, condition, seconds: float = LIMIT_S) -> None:
        until(condition, seconds)

    def caught_up(self) -> bool:
        """Whether nothing waits and the tree's files are the known ones."""
        watcher = self.watcher
        return (
            not len(watcher.backlog)
            and watcher.state.scanned
            and not list(changed_files(watcher.root, dict(watcher.known)))
        )

    def stop(self) -> None:
        self.watcher.stop()
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


def check(database: Database, root: Path, events: list, seed: int) -> None:
    document = recorded(database, root)
    assert comparable(document) == comparable(read_document(root))
    assert document["issues"] == []
    plan = {write.path.rpartition("/")[2] for write in small_visit(seed) if "/Data/" in write.path}
    files = [
        m["file"].rpartition("/")[2] for grid in document["grids"] for m in grid["micrographs"]
    ]
    assert sorted(files) == sorted(plan)
    created = [event.id for event in events if event.kind == "micrograph"]
    assert len(created) == len(set(created)) == len(plan)  # each once
