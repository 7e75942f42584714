"""Plans that set up the simulated array, over Channel Access, against the twin's truth."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from bluesky import RunEngine
from ioc_process import running_ioc

from devices.panoseti.array import Panoseti
from plans.panoseti.calibration import calibrate_gain, dark_run, tune_threshold
from skywright.errors import ConfigError, DataError
from skywright.files.readers import locate, open_reader

BOARDS, DARK_RATE_HZ, NOISE_ADC = 16, 20.0, 15.0


@pytest.fixture(scope="module")
def panoseti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panoseti]:
    folder = tmp_path_factory.mktemp("array")
    where = ("--data-dir", str(folder / "data"), "--flash-rate", "5")
    with running_ioc("iocs.panoseti", "--source", "sim", *where) as ioc:
        device = Panoseti(ioc.prefix, assets=folder / "assets", name="panoseti")
        device.wait_for_connection(timeout=60)
        yield device


def column(documents, key):
    """Read a column of the run that refers to it."""
    resource = next(d for n, d in documents if n == "stream_resource" and d["data_key"] == key)
    path, dataset = locate(resource)
    with open_reader(resource["mimetype"], path, dataset) as reader:
        return reader.read(dataset)


def test_a_dark_run_has_neither_sky_nor_flashes(RE: RunEngine, panoseti: Panoseti) -> None:
    documents = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    RE(dark_run(panoseti, 3.0))
    assert documents[0][1]["shutter"] == "closed"
    images = column(documents, "panoseti_m1_img16_image")
    assert images.mean() == pytest.approx(1000 * 0.005, rel=0.05)
    heights = column(documents, "panoseti_events_largest")
    # Exponential above 4.5 sigma with a mean of 0.5: 12 sigma would be a pulse of 3e-7.
    assert heights.max() < 12 * NOISE_ADC
    assert panoseti.shutter.get(as_string=True) == "Open"


def test_a_gain_run_has_light_in_every_pixel_and_ends_dark(RE: RunEngine, panoseti) -> None:
    documents = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    RE(calibrate_gain(panoseti, 1.0, flasher_pe=60.0))
    assert (documents[0][1]["flasher_pe"], documents[0][1]["shutter"]) == (60.0, "closed")
    images = column(documents, "panoseti_m1_ph256_image")
    boards = column(documents, "panoseti_m1_ph256_quabo")
    for board in range(4):
        light = np.median(images[boards == board], axis=0)
        # 60 photoelectrons of 15 ADC, gain and light of pixels spread by 10 % and 5 %.
        assert np.median(light) == pytest.approx(60 * 15, rel=0.05)
        assert light.min() > 300
    assert panoseti.flasher.get() == 0
    assert panoseti.shutter.get(as_string=True) == "Open"
    with pytest.raises(ConfigError, match="flasher_pe = 0"):
        RE(calibrate_gain(panoseti, 1.0, flasher_pe=0))


def test_the_threshold_for_a_rate_is_the_twins(RE: RunEngine, panoseti: Panoseti) -> None:
    documents = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    panoseti.open_shutter(False).wait(10)  # flashes would add to the rate
    wanted = 100.0
    tuned = RE(tune_threshold(panoseti, wanted)).plan_result
    truth = NOISE_ADC * (4.5 + 0.5 * math.log(BOARDS * DARK_RATE_HZ / wanted))
    # 200 counts tell the rate to 7 %; with the tolerance of 10 % that is 1.3 ADC, 4 sigma of which
    # are 3 ADC.
    assert tuned.threshold_adc == pytest.approx(truth, abs=3.0)
    assert panoseti.threshold.get() == pytest.approx(tuned.threshold_adc)
    events = [doc for name, doc in documents if name == "event"]
    rates = [doc["data"]["panoseti_trigger_rate"] for doc in events]
    assert rates[-1] == tuned.rate_hz
    thresholds = [doc["data"]["panoseti_threshold"] for doc in events]
    assert (np.diff(np.array(rates)[np.argsort(thresholds)]) <= 20).all()


def test_a_rate_out_of_reach_leaves_the_threshold(RE: RunEngine, panoseti: Panoseti) -> None:
    former = panoseti.threshold.get()
    with pytest.raises(DataError, match="is not between"):
        RE(tune_threshold(panoseti, 50_000.0, seconds=0.5))
    assert panoseti.threshold.get() == former
    with pytest.raises(ConfigError, match="least_adc 90"):
        RE(tune_threshold(panoseti, 10.0, least_adc=90.0, most_adc=80.0))
