"""Whole blocks of a stored run on a Dask cluster: the same bits as here."""

import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from sacla_file import make_replay

from skywright.analysis.cluster import cluster
from skywright.cli import main
from skywright.errors import DataError
from skywright.instruments.sacla.live import LiveShots
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.replay import replay
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.twin import Beamline, TwinSettings

REGION = Region("all", "MPCCD-A", ((-5, -5), (40, -5), (40, 50), (-5, 50)))
EDGES = np.linspace(-2, 3, 7)


@pytest.fixture(scope="module", name="path")
def make_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sacla") / "run.h5"
    return make_replay(path, 6, 700, detectors=("MPCCD-A",))


@pytest.fixture(scope="module", name="here")
def make_here(path):
    return replay(path, [REGION], EDGES)


@pytest.fixture(scope="module", name="dask")
def make_dask():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


def image_bits(images):
    return {key: np.asarray(image).tobytes() for key, image in images.items()}


def values(report):
    return {key: value for key, value in report.values.items() if key != "perf"}


def test_replay_on_a_cluster_gives_the_same_bits(tmp_path, path, here, dask, capfd):
    corners = ";".join(f"{x},{y}" for x, y in REGION.points)
    arguments = ["sacla", "replay", str(path), "--roi", f"all:MPCCD-A:{corners}"]
    arguments += ["--bins", "-2:3:6", "--json", "--images", str(tmp_path / "out.npz")]
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--dask", dask.scheduler_address])
    out, err = capfd.readouterr()
    assert not ended.value.code, err
    found = json.loads(out)
    assert found.pop("perf")["wall_s"] > 0
    assert found == json.loads(json.dumps(values(here)))
    with np.load(tmp_path / "out.npz") as saved:
        assert image_bits(saved) == image_bits(here.images)


def test_live_on_a_cluster_gives_what_the_replay_gives(tmp_path, path, here, dask, capfd):
    corners = ";".join(f"{x},{y}" for x, y in REGION.points)
    arguments = ["sacla", "live", "--source", "replay", "--file", str(path), "--speed", "0"]
    arguments += ["--roi", f"all:MPCCD-A:{corners}", "--bins", "-2:3:6", "--json"]
    arguments += ["--images", str(tmp_path / "out.npz"), "--dask", dask.scheduler_address]
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capfd.readouterr()
    assert not ended.value.code, err
    found = json.loads(out)
    found.pop("perf")
    assert found == json.loads(json.dumps(values(here)))
    with np.load(tmp_path / "out.npz") as saved:
        assert image_bits(saved) == image_bits(here.images)


def test_frames_of_running_shots_are_sent_and_a_machine_that_dies_loses_none(dask):
    from distributed import Client

    settings = TwinSettings(shape=(256, 200), pool=16)
    region = Region("all", settings.detectors[0], ((-1, -1), (200, -1), (200, 260), (-1, 260)))
    sent = []

    def live(submit):
        source = SimSource(Beamline(settings, 4), 700, speed=0)
        analysis = LiveShots(source, [region], EDGES, 120, submit=submit)
        try:
            return analysis.run()
        finally:
            analysis.close()
            source.close()

    with cluster(dask.scheduler_address) as submit, Client(dask) as client:
        victim = next(iter(client.run(os.getpid).values()))

        def submit_and_kill(function, *arguments):
            future = submit(function, *arguments)
            if len(sent) == 1:
                os.kill(victim, signal.SIGKILL)
            sent.append(future)
            return future

        found = live(submit_and_kill)
    expected = live(None)
    assert len(sent) > 2
    assert found.values["counts"]["accepted"] > 500
    assert values(found) == values(expected)
    assert image_bits(found.images) == image_bits(expected.images)


def test_a_machine_that_dies_changes_no_bit(path, here, dask):
    from distributed import Client

    with Client(dask) as client:
        victim = next(iter(client.run(os.getpid).values()))
        done = []

        def submit(function, *arguments):
            future = client.submit(function, *arguments, pure=False)
            if len(done) == 1:
                os.kill(victim, signal.SIGKILL)
            done.append(future)
            return future

        found = replay(path, [REGION], EDGES, submit=submit)
    assert len(done) > 3
    assert values(found) == values(here)
    assert image_bits(found.images) == image_bits(here.images)


def test_any_executor_will_do(path, here):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = replay(path, [REGION], EDGES, submit=pool.submit)
    assert values(found) == values(here)
    assert image_bits(found.images) == image_bits(here.images)


def fail_to_read(*arguments):
    raise DataError("run.h5: no such file on node 7")


def test_a_file_that_the_cluster_does_not_see_is_named(path, dask):
    from distributed import Client

    with Client(dask) as client:

        def submit(function, *arguments):
            return client.submit(fail_to_read, *arguments, pure=False)

        with pytest.raises(DataError, match="node 7"):
            replay(path, [REGION], EDGES, submit=submit)
