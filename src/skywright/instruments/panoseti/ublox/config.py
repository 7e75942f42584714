"""The configuration of a receiver: what goes to its registers."""

import math
import struct
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pyubx2 import cfgname2key
from pyubx2.exceptions import UBXMessageError

from skywright.arguments import first_problem
from skywright.errors import ConfigError

Layer = Literal["RAM", "BBR", "FLASH"]
HIGHEST_BAUD = 10_000_000
LAYER_BITS = {"RAM": 1, "BBR": 2, "FLASH": 4}
"""For CFG-VALSET."""
LAYER_NUMBERS = {"RAM": 0, "BBR": 1, "FLASH": 2}
"""For CFG-VALGET."""
REALS = {4: "<f", 8: "<d"}
"""Formats of real numbers, by their bytes."""
FIXED = 2
"""Of ``CFG_TMODE_MODE``: the antenna does not move, its position is given."""


FARTHEST_M = 1e8
"""Longest length that is looked at; the registers hold less."""
Meters = Annotated[float, Field(ge=-FARTHEST_M, le=FARTHEST_M)]


COORDINATES = {
    "LLH": ("lat_deg", "lon_deg", "height_m"),
    "ECEF": ("ecef_x_m", "ecef_y_m", "ecef_z_m"),
}
"""Fields of a position, by its format."""


class Setting(BaseModel):
    """One register."""

    model_config = ConfigDict(extra="ignore")

    key: str
    value: float | int | bool


class Position(BaseModel):
    """Where the antenna is, in degrees and metres."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    format: Literal["LLH", "ECEF"]
    lat_deg: float = Field(default=0.0, ge=-90, le=90)
    lon_deg: float = Field(default=0.0, ge=-180, le=180)
    height_m: Meters = 0.0
    ecef_x_m: Meters = 0.0
    ecef_y_m: Meters = 0.0
    ecef_z_m: Meters = 0.0
    acc_m: float = Field(default=0.05, gt=0, le=FARTHEST_M)

    @model_validator(mode="after")
    def _check_complete(self) -> Self:
        """Refuse a position without one of its coordinates: 0 is a place far from the antenna."""
        for name in COORDINATES[self.format]:
            if name not in self.model_fields_set:
                raise ValueError(f"{name} is missing; {self.format} has it")
        return self


class F9tConfig(BaseModel):
    """What InitF9t asks for."""

    model_config = ConfigDict(extra="ignore")

    device: str = Field(min_length=1, strict=True)
    baud: int = Field(default=115200, gt=0, le=HIGHEST_BAUD)
    f9t_uid: str = Field(pattern=r"^[0-9A-Fa-f]{10}$")
    apply_to_layers: list[Layer] = Field(default=["RAM", "BBR"], min_length=1)
    verify_layer: Layer = "RAM"
    cfg_key_settings: list[Setting] = []
    position: Position | None = None

    @property
    def layer_mask(self) -> int:
        """Layers as CFG-VALSET has them."""
        return sum(LAYER_BITS[layer] for layer in set(self.apply_to_layers))

    def registers(self) -> dict[str, int | float | bytes]:
        """Return the value of each register, by pyubx2's name of its key.

        Raises
        ------
        ConfigError
            If there is no such register, or it cannot have such a value.
        """
        settings = [(each.key, each.value) for each in self.cfg_key_settings]
        if self.position is not None:
            settings += position_registers(self.position).items()
        found: dict[str, int | float | bytes] = {}
        for key, value in settings:
            name = key.replace("-", "_").upper()
            try:
                kind = cfgname2key(name)[1]
            except UBXMessageError as error:
                raise ConfigError(f"f9t_config: there is no register {key}") from error
            found[name] = register_value(key, kind, value)
        return found


def register_value(key: str, kind: str, value: float) -> int | float | bytes:
    """Return a value as pyubx2 takes it: bit fields are bytes.

    Parameters
    ----------
    key
        Of the register, for messages.
    kind
        Its type: L a logical value, U, E and X unsigned numbers, I a signed one, R a real one,
        with the number of bytes; ``"U002"``.
    value
        What it is set to.

    Raises
    ------
    ConfigError
        If the register cannot have this value.
    """
    letter, size = kind[0], int(kind[1:])
    if letter == "R":
        try:
            (stored,) = struct.unpack(REALS[size], struct.pack(REALS[size], value))
        except OverflowError:
            stored = math.inf
        if not math.isfinite(stored):
            raise ConfigError(f"f9t_config: {key} must be a finite number, it is {value}")
        return float(stored)
    bits = 1 if letter == "L" else 8 * size
    low = -(1 << bits - 1) if letter == "I" else 0
    high = low + (1 << bits) - 1
    if not math.isfinite(value) or value != int(value) or not low <= value <= high:
        raise ConfigError(
            f"f9t_config: {key} must be a whole number from {low} to {high}, it is {value}"
        )
    whole = int(value)
    return whole.to_bytes(size, "little") if letter == "X" else whole


def position_registers(position: Position) -> dict[str, int]:
    """Return the registers of a fixed position: each length and angle in a coarse and a fine part.

    u-blox ZED-F9T interface description, group CFG-TMODE: angles in 1e-7 and 1e-9 deg, lengths in
    cm and 0.1 mm, the accuracy in 0.1 mm.
    """
    registers = {
        "CFG_TMODE_MODE": FIXED,
        "CFG_TMODE_POS_TYPE": int(position.format == "LLH"),
        "CFG_TMODE_FIXED_POS_ACC": round(position.acc_m * 1e4),
    }
    for field in COORDINATES[position.format]:
        name, _, unit = field.upper().rpartition("_")
        # The coarse part is the nearest one, so the fine part is within +-99.
        fine = round(getattr(position, field) * (1e9 if unit == "DEG" else 1e4))
        coarse = round(fine / 100)
        registers[f"CFG_TMODE_{name}"] = coarse
        registers[f"CFG_TMODE_{name}_HP"] = fine - 100 * coarse
    return registers


def parse_config(values: dict[str, Any]) -> F9tConfig:
    """Return the configuration of a request; whole numbers may come as floats.

    Raises
    ------
    ConfigError
        If a value is missing or wrong; the message names its key.
    """
    try:
        return F9tConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"f9t_config.{first_problem(error)}") from error
