"""``skywright loop fit-series``: where the loop is, from a rotation."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skywright.cli.output import JsonOption, make_console, print_json
from skywright.errors import ConfigError
from skywright.instruments.loop.cli.series_file import Row, detect_rows, read_rows, required

if TYPE_CHECKING:
    from skywright.instruments.loop.centering import AxisPrior
    from skywright.instruments.loop.geometry import Side, View
    from skywright.instruments.loop.series import Series, SeriesFit
    from skywright.instruments.loop.timing import Trace

EXIT_UNKNOWN = 1


def fit_series(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help='JSON lines, one per picture: "phi" (deg) and "file" (relative to FILE) or "tip" '
            "(x, y in px, null if not seen); optional: time (s), and bbox, width, class, side, "
            "score as `loop find` gives them.",
        ),
    ],
    as_json: JsonOption = False,
    um_per_px_x: Annotated[
        float, typer.Option(help="Size of a pixel by columns, um.", min=1e-6)
    ] = 6.7,
    um_per_px_y: Annotated[
        float, typer.Option(help="Size of a pixel by rows, um.", min=1e-6)
    ] = 6.7,
    side: Annotated[
        Literal["auto", "left", "right", "top", "bottom"],
        typer.Option(help="Border of the pin; auto: the side in most pictures, or left."),
    ] = "auto",
    axis_row: Annotated[
        float | None,
        typer.Option(help="Row of the spindle's axis, px, if known (column for top, bottom)."),
    ] = None,
    axis_sigma: Annotated[
        float, typer.Option(help="Standard deviation of --axis-row, px.", min=0)
    ] = 0.5,
    target_column: Annotated[
        float | None,
        typer.Option(
            help="Target of the tip, px (row for top, bottom); default: the picture's middle."
        ),
    ] = None,
    size: Annotated[
        tuple[int, int],
        typer.Option(
            metavar="WIDTH HEIGHT",
            help="Size of the pictures, px, if FILE has only tips.",
            min=1,
        ),
    ] = (704, 480),
    roll: Annotated[
        float, typer.Option(help="Turn of the spindle in the picture, deg, along towards across.")
    ] = 0.0,
    phi_sign: Annotated[
        int | None,
        typer.Option(help="-1 if the motor turns the other way.", show_default="1"),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(help="Delay of the pictures' times, s; FILE needs `time`.", show_default="0"),
    ] = None,
    find_delay: Annotated[
        bool, typer.Option("--fit-delay", help="Fit the delay, from sweeps forward and backward.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="JSON lines of the motor, {time, phi}; default: those of FILE."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Camera calibration file; replaces scale, size, side, axis, roll, and sign, "
            "target and delay where they are not given. Angles without `time` have no delay."
        ),
    ] = None,
    zoom: Annotated[float | None, typer.Option(help="Zoom position in --calibration.")] = None,
) -> None:
    """Fit a rotation: where the loop is (um), the row of the axis (px), the face-on angle (deg).

    The tip is seen at x from the target, along the spindle from pin to tip, and at
    y cos(phi) - z sin(phi) from the axis, towards growing rows (columns for top, bottom).

    The exit status is 1 if the place cannot be known; "why" says why.
    """
    import numpy as np

    from skywright.instruments.loop.centering import AxisPrior
    from skywright.instruments.loop.geometry import View, axis_px, axis_um

    if delay is not None and not np.isfinite(delay):
        raise ConfigError(f"--delay {delay}: expected a number of seconds")
    if zoom is not None and calibration is None:
        raise ConfigError("--zoom needs --calibration FILE")
    rows = read_rows(file)
    axis = None if axis_row is None else AxisPrior(axis_row, axis_sigma)
    fixed = None if side == "auto" else side
    view = View(
        um_per_px_x=um_per_px_x,
        um_per_px_y=um_per_px_y,
        side=fixed or "left",
        roll_deg=roll,
        phi_sign=1 if phi_sign is None else phi_sign,
        width_px=size[0],
        height_px=size[1],
        target_px=target_column,
    )
    if calibration is not None:
        known, axis, known_delay = _calibrated(calibration, zoom)
        timed = trace is not None or any(row.time is not None for _, row in rows)
        delay = known_delay if delay is None and timed else delay
        if fixed not in (None, known.side):
            raise ConfigError(f"--side {fixed}: {calibration} has side {known.side}; drop --side")
        view = replace(
            known,
            phi_sign=known.phi_sign if phi_sign is None else phi_sign,
            target_px=known.target_px if target_column is None else target_column,
        )
        fixed = view.side
        # It is where the spindle crosses the target column, which may be another now.
        axis = replace(axis, row_px=axis_px(axis_um(axis.row_px, known), view))
    motor = None if trace is None else _trace(trace, read_rows(trace))
    late = None if find_delay else delay or 0.0
    answer = _fit_rows(file, rows, view, axis, fixed, motor, late, calibration is not None)
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    if not answer["ok"]:
        raise typer.Exit(EXIT_UNKNOWN)


def _calibrated(path: Path, zoom: float | None) -> "tuple[View, AxisPrior, float]":
    """Return view, axis and delay at a zoom; the only stop of the file when none is named."""
    from skywright.instruments.loop.calibration import at_zoom, load_calibrations

    stops = load_calibrations(path)
    if zoom is None and len(stops) != 1:
        raise ConfigError(f"{path}: has {len(stops)} zooms; say which with --zoom")
    stop = at_zoom(stops, stops[0].zoom if zoom is None else zoom)
    return stop.view, stop.axis, stop.delay_s


def _fit_rows(
    path: Path,
    rows: list[tuple[int, Row]],
    view: "View",
    axis: "AxisPrior | None",
    side: "Side | None",
    motor: "Trace | None",
    delay_s: float | None,
    calibrated: bool,
) -> dict[str, Any]:
    """Turn lines into the answer of the command; `delay_s` None is fitted."""
    from skywright.instruments.loop.series import fit_series

    kept, series, view, notes = detect_rows(path, rows, view, calibrated)
    if rows and (motor is not None or delay_s != 0.0):
        series, delay_s, more = _retime(path, kept, series, view, motor, delay_s)
        notes += more
    else:
        required(path, kept, "phi")
    fit = fit_series(series, view, axis, side)
    return _answer(fit, len(rows), delay_s or 0.0, notes)


def _retime(
    path: Path,
    rows: list[tuple[int, Row]],
    series: "Series",
    view: "View",
    motor: "Trace | None",
    delay_s: float | None,
) -> "tuple[Series, float, list[str]]":
    """Take the angles from times; frames whose angle cannot be told lose their tip."""
    import numpy as np

    from skywright.instruments.loop.timing import angles_at, fit_delay

    times = required(path, rows, "time")
    motor = motor or _trace(path, rows)
    notes = []
    if delay_s is None:
        found = fit_delay(motor, times, series.tip_px, view)
        delay_s = found.delay_s if found.ok else 0.0
        if not found.ok:
            notes.append(f"delay not known, 0 taken: {found.why}")
    phi, known = angles_at(motor, times, delay_s)
    if not known.all():
        notes.append(f"{int((~known).sum())} frames are outside the motor's trace and left out")
    return replace(series, phi_deg=np.where(known, phi, np.nan)), delay_s, notes


def _trace(path: Path, rows: list[tuple[int, Row]]) -> "Trace":
    """Return the readings of the motor in lines of any order, without jumps by 360 deg."""
    import numpy as np

    from skywright.instruments.loop.timing import Trace

    times, phi = required(path, rows, "time"), required(path, rows, "phi")
    order = np.argsort(times, kind="stable")  # neighbors in time are at neighboring angles
    return Trace(times[order], np.unwrap(phi[order], period=360.0))


def _answer(fit: "SeriesFit", frames: int, delay_s: float, notes: list[str]) -> dict[str, Any]:
    """Return the object that is printed; null is what is not known."""
    tip, middle, face = fit.tip, fit.middle, fit.face
    axis_known = tip.axis_sigma_px < 5.0
    return {
        "offset_um": rounded(tip.offset_um, 3) if fit.ok else None,
        "axis_row": rounded(tip.axis_row_px, 3) if axis_known else None,
        "face_on_deg": rounded(face.face_on_deg, 2),
        "sigma_um": rounded(tip.sigma_um, 3) if fit.ok else None,
        "n_used": tip.n_used,
        "ok": fit.ok,
        "why": fit.why,
        "covariance_um2": [rounded(row, 4) for row in tip.covariance_um2] if fit.ok else None,
        "coarse_um": None if fit.ok else rounded(tip.offset_um, 1),
        "coarse_sigma_um": None if fit.ok else rounded(tip.sigma_um, 1),
        "middle_um": rounded(middle.offset_um, 3) if middle.ok else None,
        "middle_sigma_um": rounded(middle.sigma_um, 3) if middle.ok else None,
        "axis_sigma": rounded(tip.axis_sigma_px, 3) if axis_known else None,
        "roll_deg": rounded(fit.view.roll_deg + tip.roll_deg, 3),
        "roll_sigma_deg": rounded(tip.roll_sigma_deg, 3),
        "face_sigma_deg": rounded(face.sigma_deg, 2) if face.ok else None,
        "face_why": face.why,
        "class": fit.kind or None,
        "class_share": rounded(fit.kind_share, 3),
        "side": fit.view.side,
        "arc_deg": rounded(tip.arc_deg, 1),
        "rms_px": rounded(tip.rms_px, 3),
        "frames": frames,
        "n_tips": tip.n_given,
        "delay_s": rounded(delay_s, 4),
        "target": fit.view.target,
        "um_per_px": [fit.view.um_per_px_x, fit.view.um_per_px_y],
        "notes": notes,
    }


def rounded(value: Any, digits: int) -> Any:
    """Return a number or a row of numbers, None for what is not finite."""
    import numpy as np

    if np.ndim(value):
        return [rounded(each, digits) for each in value] if np.isfinite(value).all() else None
    return round(float(value), digits) + 0.0 if np.isfinite(value) else None  # no -0.0


def _print(answer: dict[str, Any]) -> None:
    """Print the answer for a person."""
    console = make_console()
    if answer["ok"]:
        x, y, z = answer["offset_um"]
        console.print(
            f"tip is off by x {x:.1f}, y {y:.1f}, z {z:.1f} um (+- {answer['sigma_um']:.1f})"
        )
    else:
        console.print(f"cannot be known: {answer['why']}")
    if answer["axis_row"] is not None:
        console.print(f"axis at {answer['axis_row']:.1f} px (+- {answer['axis_sigma']:.1f})")
    if answer["face_on_deg"] is not None:
        console.print(f"face-on at {answer['face_on_deg']:.1f} deg")
    elif answer["face_why"]:
        console.print(f"face-on angle not known: {answer['face_why']}")
    console.print(
        f"{answer['n_used']} of {answer['n_tips']} tips used, {answer['frames']} frames, "
        f"arc {answer['arc_deg']:.0f} deg"
    )
    for note in answer["notes"]:
        console.print(f"note: {note}")
