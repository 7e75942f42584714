"""Demo of the spectrometer: 800 pulses at 100 Hz from the twin, their fits against the truth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings
from skywright.instruments.psss.demos.figure import FWHM_PER_SIGMA, draw
from skywright.store.results import last_result

SEED, PULSES, DARK = 5, 800, 20
ROI = (900, 1260)
"""Rows with the line: its middle is row 1080, and it is 120 rows high."""
CENTER_LIMIT_EV, WIDTH_LIMIT = 0.15, 0.03
"""Limits of the errors of mean center and width, for 800 pulses with some 60 modes each and jitter
of both."""


def iocs() -> dict[str, IocSettings]:
    """Return the IOC of the spectrometer, with the simulated instrument."""
    args = ("--source", "sim", "--seed", str(SEED))
    return {"psss": IocSettings(module="iocs.psss", prefix="PSSS1:", args=args)}


@dataclass(frozen=True, eq=False)
class Acquired:
    """Data of an acquisition in the catalog, and true values of its pulses.

    Parameters
    ----------
    axis_ev
        (columns,) photon energies.
    spectra
        (n, columns) counts.
    center, fwhm, amplitude, offset
        Figures of the fits, (n,), eV and counts; NaN without a fit.
    good
        Whether the status of the fit is OK, (n,).
    pulse_ids
        Pulse ids, (n,).
    true_center, true_fwhm
        True center and width of the envelopes, (n,) eV.
    true_length_fs
        Mean length of the pulses, FWHM.
    mean
        Results of the analysis that are single values.
    mean_spectrum
        (columns,) counts.
    """

    axis_ev: NDArray[np.float64]
    spectra: NDArray[np.float64]
    center: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    offset: NDArray[np.float64]
    good: NDArray[np.bool_]
    pulse_ids: NDArray[np.int64]
    true_center: NDArray[np.float64]
    true_fwhm: NDArray[np.float64]
    true_length_fs: float
    mean: Mapping[str, Any]
    mean_spectrum: NDArray[np.float64]


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Take a background in the dark, then record every pulse of eight seconds."""
    engine, psss = session["RE"], session["psss"]
    session["psss_spectra"].wait_ready()
    _prepare(session)
    outcome = engine(session["acquire_spectra"](psss, PULSES))
    uid = outcome.run_start_uids[0]
    (derived,) = wait_for_derived(session["tiled"], uid, "psss_spectra")
    found = read_back(session["stored"](uid), derived, np.asarray(psss.axis.get()))
    picture = draw(found, Path(session["settings"].directory) / "pictures" / f"psss-{uid[:8]}.png")
    return [_result(uid, derived.metadata["start"]["uid"], found, picture, outcome.exit_status)]


def _prepare(session: Mapping[str, Any]) -> None:
    """Set the accurate chain (ROI, signed background, no smoothing), and take a background."""
    from ophyd import EpicsSignal

    engine, psss, bps = session["RE"], session["psss"], session["bps"]
    engine(bps.mv(psss.background_mode, "signed", psss.smoothing, "none"))
    engine(bps.abs_set(psss.roi, ROI, wait=True))
    shutter = EpicsSignal(f"{psss.prefix}SIM:Beam", name="beam", put_complete=True)
    shutter.wait_for_connection(timeout=10)
    engine(session["take_background"](psss, DARK, shutter=shutter, closed=0))


def read_back(raw: Any, derived: Any, axis: NDArray[np.float64]) -> Acquired:
    """Read an acquisition from the catalog, and compute the true values of its pulses."""
    from skywright.instruments.psss.processing import FitStatus
    from skywright.instruments.psss.settings import axis_of
    from skywright.instruments.psss.twin.sase import SpectrumModel
    from skywright.instruments.psss.twin.settings import InstrumentSettings

    names = ("spectrum", "center", "fwhm", "amplitude", "offset", "status", "pulse_id")
    stream = raw["primary"].read([f"psss_{name}" for name in names])
    columns = {name: stream[f"psss_{name}"].values for name in names}
    model = SpectrumModel(InstrumentSettings())
    # The twin makes a pulse from its id, so the true values need no PV
    generators = (
        np.random.Generator(np.random.Philox(key=[SEED, int(i)])) for i in columns["pulse_id"]
    )
    truth = [model.parameters(rng) for rng in generators]
    last = last_result(derived)
    scalars = {key: value.item() for key, value in last.items() if not value.ndim}
    return Acquired(
        axis_ev=axis_of(axis, columns["spectrum"].shape[1]),
        spectra=columns["spectrum"],
        **{name: columns[name] for name in ("center", "fwhm", "amplitude", "offset")},
        good=columns["status"] == FitStatus.OK,
        pulse_ids=columns["pulse_id"],
        true_center=np.array([each.center_ev for each in truth]),
        true_fwhm=np.array([each.fwhm_ev for each in truth]),
        true_length_fs=float(np.mean([each.length_fs for each in truth])),
        mean=scalars,
        mean_spectrum=np.asarray(last["mean_spectrum"]),
    )


def _result(
    uid: str, derived_uid: str, found: Acquired, picture: Path, exit_status: str
) -> DemoResult:
    """Compare the mean of the centers and the width of the mean spectrum with the true values."""
    good = found.good
    center = float(found.center[good].mean()) if good.any() else math.nan
    true_center = float(found.true_center.mean())
    # The mean spectrum is as wide as the envelopes and their jitter together.
    jitter = FWHM_PER_SIGMA * float(found.true_center.std())
    true_width = math.hypot(float(found.true_fwhm.mean()), jitter)
    width = float(found.mean["mean_fwhm"])
    gaps = int(found.pulse_ids[-1] - found.pulse_ids[0] + 1 - len(found.pulse_ids))
    ok = (
        exit_status == "success"
        and len(found.pulse_ids) == PULSES
        and bool((np.diff(found.pulse_ids) > 0).all())
        and found.mean["n_frames"] == PULSES
        and abs(center - true_center) < CENTER_LIMIT_EV
        and abs(width / true_width - 1.0) < WIDTH_LIMIT
    )
    return DemoResult(
        plan="acquire_spectra",
        raw_uid=uid,
        derived_uids=[derived_uid],
        truth={
            "pulses": PULSES,
            "center_ev": round(true_center, 2),
            "width_ev": round(float(found.true_fwhm.mean()), 2),
            "width_of_mean_ev": round(true_width, 2),
        },
        result={
            "pulses": len(found.pulse_ids),
            "center_ev": round(center, 2),
            "width_ev": round(float(found.fwhm[good].mean()), 2) if good.any() else None,
            "width_of_mean_ev": round(width, 2),
            "good_fits": int(good.sum()),
            "ids_left_out": gaps,
            "spikes": round(float(found.mean["spike_count_mean"]), 1),
        },
        ok=ok,
        pictures=[str(picture)],
    )
