"""The blocks of a recording of the simulated beamline, analyzed again on a cluster."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from skywright.analysis.cluster import Submit
from skywright.files.beside import sibling
from skywright.instruments.sacla.analyzed_shot import AnalyzedShot
from skywright.instruments.sacla.frames import FileFrames
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.layouts import (
    IMAGE_COUNTS,
    IMAGE_KEYS,
    IMAGES,
    SHOTS,
    TAG,
    detector_key,
)
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.shots import EQUIPMENT
from skywright.instruments.sacla.twin import Beamline
from skywright.instruments.sacla.twin.beamline import FIRST_TAG

ROWS = 512
"""Read at once: the profiles of all rows may be much."""
EDGES = np.linspace(-2.0, 3.0, 41)


def write_pool(path: Path, beamline: Beamline) -> None:
    """Write the images that a simulated beamline shows again and again, as a replay file.

    Parameters
    ----------
    path
        Of the file.
    beamline
        Of the images.
    """
    info, size = beamline.info, beamline.settings.pool
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="sacla-replay", version=1, run=info.run, hightag=info.hightag,
            tag_step=1, tag_first=0, tag_last=size - 1,
        )  # fmt: skip
        rules = asdict(info.shot_rules) | asdict(info.pixel_rules)
        file.create_group("analysis").attrs.update(rules)
        for name, tile in info.tiles.items():
            rows, columns = tile.bad.shape
            group = file.create_group(f"detectors/{name}")
            group.attrs.update(mp_absgain=tile.gain, xsize=columns, ysize=rows)
            group["mask"] = tile.bad.astype(np.uint8)
            group["data"] = beamline.images[name][:size]


def images_of(beamline: Beamline) -> Iterator[tuple[int, int]]:
    """Yield tag and number of the image of each shot that a simulated beamline makes."""
    for number in count():
        deque(beamline.shot(number), maxlen=0)
        yield FIRST_TAG + number * beamline.settings.tag_step, beamline.truth.image


def batches(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a recording, some at a time, by the last part of their path."""
    with h5py.File(path, "r") as file:
        for start in range(0, len(file[TAG.path]), ROWS):
            yield {key: column[start : start + ROWS] for key, column in file[SHOTS].items()}


def compare_blocks(
    path: Path,
    pool: Path,
    beamline: Beamline,
    regions: Sequence[Region],
    block_tags: int,
    submit: Submit,
) -> int:
    """Analyze the blocks of a recording again, and compare all bits with what is in its files.

    Parameters
    ----------
    path
        Of the rows of the recording.
    pool
        Of `write_pool`.
    beamline
        As that of the recording, before its first shot.
    regions, block_tags
        As they were then.
    submit
        Of the cluster.

    Returns
    -------
    int
        Number of shots whose images were analyzed.
    """
    info = beamline.info
    found: list[AnalyzedShot] = []
    pipeline = ShotPipeline(
        info, regions, EDGES, 0, FileFrames(pool), keep_rows=False, block_tags=block_tags,
        on_shot=found.append, submit=submit, profiles=True,
    )  # fmt: skip
    waiting: list[dict[str, Any]] = []
    compared, shown = 0, images_of(beamline)

    def compare() -> None:
        nonlocal compared
        while waiting and len(found) >= len(waiting[0]["tag"]):
            rows = waiting.pop(0)
            shots = [found.pop(0) for _ in range(len(rows["tag"]))]
            compared += _compare(rows, shots, list(info.tiles))

    with closing(pipeline):
        for rows in batches(path):
            waiting.append(rows)
            for k, identity in enumerate(rows["tag"].tolist()):
                tag = identity & 0xFFFFFFFF
                image = next(image for made, image in shown if made == tag)
                for name in info.tiles:
                    pipeline.add(Record(name, tag, info.run, image))
                for key in EQUIPMENT:
                    pipeline.add(Record(key, tag, info.run, float(rows[key][k])))
            compare()
        pipeline.finish()
        compare()
        assert not found
        assert not waiting
        images = {name: each.result() for name, each in pipeline.images.items()}
    with h5py.File(sibling(path, "images"), "r") as file:
        for number, name in enumerate(info.tiles):
            for key in (*IMAGE_KEYS, *IMAGE_COUNTS):
                recorded = np.asarray(file[f"{IMAGES}/{detector_key(number)}_{key}"][-1])
                again = np.asarray(images[name][key], recorded.dtype)
                assert again.tobytes() == recorded.tobytes(), f"{name} {key}"
    return compared


def _compare(rows: dict[str, Any], shots: Sequence[AnalyzedShot], detectors: list[str]) -> int:
    """Compare rows of a recording with shots; return the number of those with images."""
    compared = 0
    for k, shot in enumerate(shots):
        assert shot.identity == rows["tag"][k]
        assert (shot.found is not None) == rows["accepted"][k]
        if shot.found is None:
            continue
        compared += 1
        for key in ("sum_ev", "photons", "photon_hist"):
            recorded = rows[key][k][: len(shot.found[key])]
            assert np.asarray(shot.found[key], recorded.dtype).tobytes() == recorded.tobytes(), key
        for number, name in enumerate(detectors):
            recorded = rows[f"{detector_key(number)}_profile"][k]
            again = np.asarray(shot.found[f"profile/{name}"], recorded.dtype)
            assert again.tobytes() == recorded.tobytes(), name
    return compared
