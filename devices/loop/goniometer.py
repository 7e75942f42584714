"""The goniometer: spindle, sample stages and oscillations, over motor records.

`Goniometer` uses the oscillation of `iocs.goniometer`; `MotorGoniometer` needs nothing but four
motor records.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Kind, Signal
from ophyd import FormattedComponent as FCpt

from devices.loop.oscillation import MotorOscillation, Oscillation
from devices.loop.sample_stage import SampleStage
from devices.motion import Motor
from skywright.errors import ConfigError
from skywright.instruments.loop.stages import StageSetup


class MotorGoniometer(Device):
    """A spindle and three stages, real or simulated.

    Parameters
    ----------
    prefix
        Of the PVs, with its colon.
    assets
        Directory below which the traces of oscillations are written, by date.
    setup
        Directions of the stages.
    phi, stages
        Names of the records below the prefix.
    name
        Of the device.

    Raises
    ------
    ConfigError
        If there are not three stages.
    """

    phi = FCpt(Motor, "{prefix}{_records[0]}")
    sx = FCpt(Motor, "{prefix}{_records[1]}")
    sy = FCpt(Motor, "{prefix}{_records[2]}")
    sz = FCpt(Motor, "{prefix}{_records[3]}")
    sample = Cpt(SampleStage, "")
    oscillation = Cpt(MotorOscillation, "")
    stage_matrix = Cpt(Signal, kind=Kind.config)
    mounting = Cpt(Signal, kind=Kind.config)
    phi_sign = Cpt(Signal, kind=Kind.config)

    def __init__(
        self,
        prefix: str,
        *,
        assets: Path,
        setup: StageSetup | None = None,
        phi: str = "phi",
        stages: Sequence[str] = ("sx", "sy", "sz"),
        name: str = "gonio",
        **kwargs: Any,
    ) -> None:
        if len(stages) != 3:
            raise ConfigError(f"{name}: stages {list(stages)}, expected the names of 3 records")
        self._records = (phi, *stages)
        self.assets = Path(assets)
        self.setup = setup or StageSetup()
        super().__init__(prefix, name=name, **kwargs)
        self.stage_matrix.put(np.ravel(self.setup.matrix).tolist())
        self.mounting.put(self.setup.mounting)
        self.phi_sign.put(self.setup.phi_sign)

    @property
    def stages(self) -> tuple[Motor, Motor, Motor]:
        """The stage motors, in the order of the columns of the matrix."""
        return self.sx, self.sy, self.sz


class Goniometer(MotorGoniometer):
    """A goniometer whose controller makes oscillations and times them."""

    oscillation = Cpt(Oscillation, "Osc:")
