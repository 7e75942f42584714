"""The ways in which the files of a tree arrive, as a watcher may meet them."""

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import Write, visit_files

Step = Callable[[], None]


def small_visit(seed: int) -> list[Write]:
    """Return the writes of a visit of two grids with about 60 micrographs."""
    plan = plan_visit(seed=seed, grids=2, squares=4, imaged=2, holes=3, areas=(4, 6))
    return list(visit_files(plan))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _last(writes: list[Write]) -> list[Write]:
    """Return one write a path, the last."""
    return list({write.path: write for write in writes}.values())


def in_order(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """As EPU writes."""
    for write in writes:
        yield lambda write=write: write.put(root)


def children_first(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """Micrographs, then holes, squares, sessions and atlases."""
    return in_order(root, _last(writes)[::-1], rng)


def reordered(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """Any order."""
    writes = _last(writes)
    rng.shuffle(writes)
    return in_order(root, writes, rng)


def partial(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """Files are closed empty or cut, and completed some files later."""
    waiting: list[Write] = []
    for write in writes:
        cut = rng.choice((0, 1, len(write.content) // 2, len(write.content) - 1))
        yield lambda write=write, cut=cut: _write(root / write.path, write.content[:cut])
        waiting.append(write)
        while len(waiting) > 5:
            done = waiting.pop(0)
            yield lambda done=done: done.put(root)
    for done in waiting:
        yield lambda done=done: done.put(root)


def growing(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """Files are rewritten in place, piece by piece through one open handle."""
    for write in writes:
        path = root / write.path

        def grow(path: Path = path, content: bytes = write.content) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for start in range(0, len(content), 4000):
                    file.write(content[start : start + 4000])
                    file.flush()

        yield grow


def renamed(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """As rsync does: under a temporary name, renamed into place; some with an old time."""
    for write in writes:
        path = root / write.path

        def rename(path: Path = path, content: bytes = write.content) -> None:
            temporary = path.with_name(f".{path.name}.Ab12Cd")
            _write(temporary, content)
            temporary.replace(path)

        yield rename


def all_at_once(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """A whole tree is moved in."""
    elsewhere = root.with_name(root.name + "_elsewhere")
    for write in writes:
        write.put(elsewhere)

    def move() -> None:
        for entry in elsewhere.iterdir():
            shutil.move(entry, root / entry.name)

    yield move


def mixed(root: Path, writes: list[Write], rng: random.Random) -> Iterator[Step]:
    """Each file arrives in a way of its own; the steps of all files are mixed at random."""
    by_path: dict[str, list[Write]] = {}
    for write in writes:
        by_path.setdefault(write.path, []).append(write)
    ways = [
        list(rng.choice((in_order, partial, growing, renamed))(root, own, rng))
        for own in by_path.values()
    ]
    order = [steps for steps in ways for _ in steps]  # each file once for each of its steps
    rng.shuffle(order)
    for steps in order:
        yield steps.pop(0)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        in_order,
        children_first,
        partial,
        reordered,
        growing,
        renamed,
        all_at_once,
        mixed,
    )
}


def run_steps(steps: Iterator[Step], pause: float, started: threading.Event | None = None) -> None:
    """Do the steps, `pause` seconds apart on average; `started` is set after a third of them."""
    todo = list(steps)
    never = threading.Event()
    for number, step in enumerate(todo):
        if started is not None and number >= len(todo) // 3:
            started.set()
        step()
        if pause:
            never.wait(pause)
    if started is not None:
        started.set()
