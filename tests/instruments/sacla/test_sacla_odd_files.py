"""Replay files with odd but legal contents give what the contract, written a second time, gives."""

import json
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from sacla_file import make_replay
from sacla_plain import ROIS, assert_same, plain_replay
from typer.testing import CliRunner

from skywright.cli import app
from skywright.errors import DataError
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.replay import replay
from skywright.instruments.sacla.replay_file import ReplayFile

DAMAGES = 100
EDGES = np.linspace(-2, 3, 7)


def rule(**values):
    return lambda file: file["analysis"].attrs.update(values)


def root(**changes):
    def edit(file):
        for key, change in changes.items():
            file.attrs[key] = file.attrs[key] + change

    return edit


def replaced(where, make, **options):
    """Write a dataset anew."""

    def edit(file):
        values = file[where][()]
        del file[where]
        file.create_dataset(where, data=make(values), **options)

    return edit


def stored(dtype, **options):
    """Store the frames otherwise: whole numbers, so that every type holds them exactly."""

    def edit(file):
        for name in file["detectors"]:
            where = f"detectors/{name}/data"
            replaced(where, lambda data: np.clip(np.rint(data), 0, 2000).astype(dtype), **options)(
                file
            )

    return edit


def emptied(channel):
    def edit(file):
        for name in set(file[channel]) - {"mask"}:
            replaced(f"{channel}/{name}", lambda values: values[:0])(file)

    return edit


def shifted(file):
    """Give all shots negative tags."""
    for key in ("tag_first", "tag_last"):
        file.attrs[key] -= 5000
    for group in (*file["detectors"].values(), *file["equipment"].values()):
        group["tag"][...] -= 5000


def spiked(file):
    """Let one tag be far ahead: whatever follows is late."""
    file["equipment/i0/tag"][40] += 1_000_000


def at_once(file):
    """Let everything arrive at the same time."""
    for group in (*file["detectors"].values(), *file["equipment"].values()):
        group["arrival"][...] = 0.0


def fixed_texts(file):
    for name in file["equipment"]:
        replaced(f"equipment/{name}/raw", lambda texts: texts.astype("S24"))(file)


def without_i0(file):
    """Accept shots whose I0 is 0: sum / I0 is infinite, and 0 / 0 where the sum is 0 too."""
    rule(i0_min=-1.0, beam_min=-1.0)(file)
    raw = file["equipment/i0/raw"][()]
    raw[20:30] = b"0V"
    file["equipment/i0/raw"][...] = raw
    file["detectors/MPCCD-A/data"][22:26] = 0.0


def linked(file):
    """Have the frames of a detector in another file, at the same place and with the same row 0."""
    where = "detectors/MPCCD-B/data"
    file.flush()
    other = Path(file.filename).with_name("frames.h5")
    shutil.copyfile(file.filename, other)
    with h5py.File(other, "a") as copy:
        copy[where][:, 1:] *= 2
    del file[where]
    file[where] = h5py.ExternalLink(other.name, f"/{where}")


MASK = "detectors/MPCCD-A/mask"
CASES = {
    "threshold 0": rule(threshold_ev=0.0),
    "negative threshold": rule(threshold_ev=-5000.0),
    "many photons": rule(photon_ev=137.0),
    "center of rings outside": rule(radial_cx=-50.3, radial_cy=99.9, radial_dr=0.37),
    "one ring": rule(radial_dr=1e4),
    "no cut of I0 and beam": rule(i0_min=-1.0, beam_min=-1.0),
    "I0 of 0": without_i0,
    "stage the other way": rule(ps_per_pulse=-6.666e-3),
    "no bad pixel": replaced(MASK, lambda mask: mask * 0),
    "mask of 255": replaced(MASK, lambda mask: mask * 255),
    "big-endian frames": stored(">f4"),
    "compressed frames": stored("<f4", chunks=(1, 40, 30), compression="gzip", shuffle=True),
    "frames in odd chunks": stored("<f4", chunks=(5, 7, 9)),
    "frames of 16 bits": stored("<u2"),
    "frames in double precision": stored("<f8"),
    "frames in another file": linked,
    "texts of fixed length": fixed_texts,
    "format in an array": lambda file: file.attrs.update(format=np.array([b"sacla-replay"])),
    "no value of I0": emptied("equipment/i0"),
    "no timing tool": emptied("equipment/timing"),
    "a detector without frames": emptied("detectors/MPCCD-B"),
    "negative tags": shifted,
    "a tag far ahead": spiked,
    "all at once": at_once,
    "last tag between shots": root(tag_last=-3),
    "fewer shots": root(tag_last=-60),
    "more shots": root(tag_last=999),
    "first tag between shots": root(tag_first=-501),
    "a later first tag": root(tag_first=50),
    "a smaller step": root(tag_step=-1),
    "another step": root(tag_step=5),
}


@pytest.mark.parametrize("case", CASES)
def test_an_odd_file_gives_what_the_contract_says(tmp_path, case):
    path = make_replay(tmp_path / "run.h5", sorted(CASES).index(case), 90)
    with h5py.File(path, "a") as file:
        CASES[case](file)
    expected, images = plain_replay(path, ROIS, EDGES.tolist(), 120)
    regions = [Region(name, detector, tuple(points)) for name, detector, points in ROIS]
    found = replay(path, regions, EDGES)
    values = json.loads(json.dumps(found.values, allow_nan=False))
    del values["perf"]
    assert_same(values, expected)
    for key, image in images.items():
        np.testing.assert_allclose(found.images[key], image, rtol=1e-9, atol=1e-3, err_msg=key)


def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path):
    whole = make_replay(tmp_path / "whole.h5", 1, 6, shape=(4, 4)).read_bytes()
    path, rng, refused = tmp_path / "damaged.h5", random.Random(4), []
    for _ in range(DAMAGES):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 4])):
            damaged[rng.randrange(len(whole))] = rng.choice([0, 255, rng.randrange(256)])
        path.write_bytes(damaged)
        try:
            with ReplayFile(path) as file:
                for _, record in file.timed_records():
                    if record.channel in file.info.tiles:
                        shape = file.info.tiles[record.channel].bad.shape
                        file.read_frame(record.channel, record.payload, np.empty(shape, "f4"))
        except DataError as error:
            refused.append(str(error))
    assert DAMAGES / 10 < len(refused) < DAMAGES / 2
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in refused)


@pytest.mark.parametrize("command", [("live", "--bins", "-2:3:6"), ("record",)])
def test_a_source_of_a_damaged_file_does_not_seem_to_end(tmp_path, command):
    path, out = make_replay(tmp_path / "run.h5", 1, 6), tmp_path / "out.h5"
    with h5py.File(path, "a") as file:
        replaced("equipment/i0/tag", lambda tags: tags[:-1])(file)
    name, *options = command
    arguments = ["sacla", name, *([str(out)] if name == "record" else []), *options]
    done = CliRunner().invoke(app, [*arguments, "--source", "replay", "--file", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "equipment/i0: 6 arrival, 5 tag" in done.stderr


@pytest.mark.parametrize(("key", "value"), [("hightag", 1 << 40), ("tag_last", 2.0**70)])
def test_identities_of_more_than_64_bits_are_refused(tmp_path, key, value):
    path = make_replay(tmp_path / "run.h5", 1, 6)
    with h5py.File(path, "a") as file:
        file.attrs[key] = value
    with pytest.raises(DataError, match="has more than 64 bits"):
        ReplayFile(path)
