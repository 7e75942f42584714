"""Sets the energy axis of the spectrometer, from known points or a monochromator's energies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator
from numpy.typing import ArrayLike

from plans.checks import MOTOR, Needs, check_devices, check_limits, finite_numbers, whole
from plans.psss.stubs import PULSES, SCANNED, recorded, take_point
from plans.run_stubs import in_run, start_metadata, with_device_errors, with_restored
from skywright.errors import ConfigError, DataError

DEGREE_MAX = 3
CALIBRATION = "calibration"
ENERGY_MIN_EV = 100.0
"""Photon energies are above this, eV: a value in keV is refused."""
ORDER_MIN = 0.9
"""Rank correlation of measured columns and energies below which the columns are taken for noise. Of
2 to 4 points each must follow the one before; of more, neighbors may be out of order."""


@dataclass(frozen=True)
class EnergyCalibration:
    """An energy axis that is in use.

    Parameters
    ----------
    coefficients
        Photon energy, eV, as polynomial of the column number: (first, step, ...).
    columns, energies_ev
        Points to which it was fitted.
    rms_ev
        Standard deviation of the points from the polynomial; 0 if there are no more points than
        coefficients.
    uid
        Uid of the run.
    """

    coefficients: tuple[float, ...]
    columns: tuple[float, ...]
    energies_ev: tuple[float, ...]
    rms_ev: float
    uid: str


def calibrate_energy_axis(
    psss: Readable,
    energies_ev: Sequence[float],
    columns: Sequence[float] | None = None,
    *,
    monochromator: Movable | None = None,
    degree: int = 1,
    pulses: int = 20,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[EnergyCalibration]:
    """Set the energy axis of the spectrometer: a polynomial through known points.

    Parameters
    ----------
    psss
        The spectrometer.
    energies_ev
        Known photon energies, at least degree + 1 different ones.
    columns
        Columns of the picture at these energies; None with a monochromator.
    monochromator
        Monochromator that is set to each energy; the column is then the mean center of the fits.
    degree
        Degree of the polynomial, 1 to 3.
    pulses
        Number of pulses at each energy.
    md
        Metadata for the start document.

    Returns
    -------
    EnergyCalibration
        Energy axis, which is in use from the next pulse on.

    Raises
    ------
    ConfigError
        If the points are not valid, before anything moves; or if the polynomial does not rise or
        fall throughout, and the axis is then what it was.
    TypeError
        If a device cannot do its part.
    DataError
        If too few energies gave a spectrum with a good fit, or the centers neither rise nor fall
        with the energy; the axis is then what it was.
    HardwareError
        If a device fails; the axis is then what it was.
    """
    plan = "calibrate_energy_axis"
    energies, places = _checked(energies_ev, columns, monochromator, degree)
    pulses = whole(plan, "pulses", pulses)
    check_devices(plan, psss=(psss, Needs("spectrometer", parts={"energy_axis": (Movable,)})))
    if monochromator is not None:
        devices = {"psss": (psss, SCANNED), "monochromator": (monochromator, MOTOR)}
        check_devices(plan, **devices)
        check_limits(plan, monochromator, *energies)
    device: Any = psss
    arguments: dict[str, Any] = {"energies_ev": energies, "degree": degree}
    arguments |= {"columns": places} if places else {}
    given = {"psss": psss, "motor": monochromator}
    _md = start_metadata(plan, given, arguments, md)

    def use(points: Mapping[float, float]) -> MsgGenerator[EnergyCalibration]:
        found = _fit(points, degree)
        yield from bps.abs_set(device.energy_axis, found.coefficients, wait=True)
        yield from bps.create(CALIBRATION)
        yield from bps.read(device.energy_axis)
        yield from bps.save()
        return found

    def measured() -> MsgGenerator[EnergyCalibration]:
        points: dict[float, float] = {}
        for energy in energies:
            reading = yield from take_point(device, monochromator, energy)
            if reading[f"{device.name}_n_good"]:
                points[energy] = float(reading[f"{device.name}_mean_center"])
        yield from bps.checkpoint()
        return (yield from use(points))

    def work() -> MsgGenerator[EnergyCalibration]:
        if places:
            uids: list[str] = []
            known = dict(zip(energies, places, strict=True))
            found = yield from with_device_errors(in_run(lambda: use(known), _md, uids))
            uid = uids[-1]
        else:
            yield from bps.abs_set(device.energy_axis, (), wait=True)  # centers in pixels
            yield from bps.abs_set(device.pulses_per_point, pulses, wait=True)
            uid, found = yield from recorded(device, measured, _md, PULSES)
        return replace(found, uid=str(uid))

    def axis_kept() -> MsgGenerator[EnergyCalibration]:
        before = yield from bps.rd(device.energy_axis)

        def put_back(_: Exception) -> MsgGenerator[None]:
            yield from bps.abs_set(device.energy_axis, tuple(before), wait=True)

        return (yield from bpp.contingency_wrapper(work(), except_plan=put_back))

    if monochromator is None:
        return (yield from with_device_errors(axis_kept()))
    restored = with_restored(axis_kept(), [device.pulses_per_point, monochromator])
    return (yield from with_device_errors(restored))


def _checked(
    energies_ev: Sequence[float], columns: Sequence[float] | None, mono: Any, degree: int
) -> tuple[list[float], list[float]]:
    """Return the energies, and the columns; none of these with a monochromator.

    Raises
    ------
    ConfigError
        If the points are not valid.
    """
    plan = "calibrate_energy_axis"
    if (columns is None) == (mono is None):
        raise ConfigError(f"{plan}: give either columns, of known lines, or a monochromator")
    degree = whole(plan, "degree", degree, 1, DEGREE_MAX)
    energies = finite_numbers(plan, "energies_ev", energies_ev, ENERGY_MIN_EV)
    if len(set(energies)) != len(energies) or len(energies) <= degree:
        raise ConfigError(
            f"{plan}: energies_ev = {energies}, expected at least {degree + 1} different ones"
        )
    if columns is None:
        return energies, []
    places = finite_numbers(plan, "columns", columns)
    if len(places) != len(energies) or len(set(places)) != len(places):
        raise ConfigError(f"{plan}: columns = {places}, expected {len(energies)} different ones")
    if _order(energies, places) < 1.0:
        raise ConfigError(
            f"{plan}: energies_ev = {energies} at columns = {places}, expected energies that rise, "
            "or fall, with the column"
        )
    return energies, places


def _order(energies: ArrayLike, columns: ArrayLike) -> float:
    """Return how far different energies rise, or fall, with the column: 1 if each one does.

    This is the absolute value of Spearman's rank correlation.
    """
    ranks = np.argsort(np.argsort(np.array(energies)[np.argsort(columns)])).tolist()
    n = len(ranks)
    differences = sum((rank - index) ** 2 for index, rank in enumerate(ranks))
    return abs(1.0 - 6 * differences / (n * (n * n - 1)))


def _fit(points: Mapping[float, float], degree: int) -> EnergyCalibration:
    """Return the polynomial that is fitted to points, column by energy."""
    energies, columns = np.array(list(points)), np.array(list(points.values()))
    if len(np.unique(columns)) <= degree:
        raise DataError(
            f"energy axis: only {len(np.unique(columns))} energies gave a spectrum with a good "
            f"fit at a place of its own, {degree + 1} are needed"
        )
    if _order(energies, columns) < ORDER_MIN:
        seen = ", ".join(f"{energy:g} eV at {column:.1f}" for energy, column in points.items())
        raise DataError(
            f"energy axis: the columns of the spectra neither rise nor fall with the energy "
            f"({seen}); does the monochromator move the spectrum?"
        )
    polynomial = np.polynomial.Polynomial.fit(columns, energies, degree)
    free = len(columns) - degree - 1
    residuals = polynomial(columns) - energies
    rms = float(np.sqrt(residuals @ residuals / free)) if free else 0.0
    coefficients = polynomial.convert().coef.tolist()
    return EnergyCalibration(tuple(coefficients), tuple(columns), tuple(energies), rms, "")
