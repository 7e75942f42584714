"""What can be seen of PANOSETI modules, by reading alone: nothing is put."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from devices.camera_view import text_of
from skywright.instruments.panoseti.products import PRODUCTS

STATES = ("Waiting", "Recording", "Ended")
CLOCKS = ("", "Locked", "Unlocked")
IMAGE_PARTS = ("Image", "Time", "Flags", "Rows", "Rate", "PacketsLost", "Sequence")
MODULE_PARTS = ("Module", "Clock", "Azimuth", "Elevation", "PositionAngle")


@dataclass(frozen=True)
class PanosetiImage:
    """The newest image of one product of a module.

    Attributes
    ----------
    slot, module, product
        Slot of the IOC from 1, number of the module, and ``img16``, ``ph256`` and so on.
    seconds
        Time of the image, unix s.
    flags
        What is unusual; empty if nothing is.
    rows
        Rows of its index.
    rate_hz
        Frames per second, by their times.
    packets_lost
        Packets of the run that did not arrive.
    clock
        ``Locked``, ``Unlocked`` if a board of the module is not in step with UTC; empty: unknown.
    pointing_deg
        Azimuth, elevation and position angle of the telescope; NaN: unknown.
    sequence
        Grows with each image.
    pixels : (side, side) int32
        Counts, or ADC of a pulse-height image.
    """

    slot: int
    module: int
    product: str
    seconds: float
    flags: str
    rows: float
    rate_hz: float
    packets_lost: float
    clock: str
    pointing_deg: tuple[float, float, float]
    sequence: float
    pixels: NDArray[np.int32]


@dataclass(frozen=True)
class PanosetiFacts:
    """What the IOC says at one moment."""

    run: str = ""
    state: str = ""
    message: str = ""
    events: float = 0.0
    images: tuple[PanosetiImage, ...] = field(default=())


class PanosetiView(Device):
    """The run and the newest images of all slots.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    slots
        Slots of the IOC.
    """

    run_name = Cpt(EpicsSignalRO, "Run_RBV", string=True)
    run_state = Cpt(EpicsSignalRO, "RunState_RBV")
    message = Cpt(EpicsSignalRO, "Message_RBV", string=True)
    events = Cpt(EpicsSignalRO, "EventRows_RBV")

    def __init__(
        self, prefix: str, *, name: str = "panoseti_view", slots: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._modules = {
            slot: {
                part: EpicsSignalRO(f"{prefix}M{slot}:{part}_RBV", name=f"{name}_m{slot}_{part}")
                for part in MODULE_PARTS
            }
            for slot in range(1, slots + 1)
        }
        self._parts = {
            (slot, product): {
                part: EpicsSignalRO(
                    f"{prefix}M{slot}:{product}:{part}_RBV", name=f"{name}_{slot}_{product}_{part}"
                )
                for part in IMAGE_PARTS
            }
            for slot in self._modules
            for product in PRODUCTS
        }

    def facts(self, timeout_s: float = 2.0) -> PanosetiFacts:
        """Read what the IOC says.

        Raises
        ------
        TimeoutError
            If it does not answer.
        """

        def read(signal: EpicsSignalRO) -> Any:
            return signal.get(timeout=timeout_s, connection_timeout=timeout_s)

        images = []
        for (slot, product), signals in self._parts.items():
            sequence = float(read(signals["Sequence"]))
            if not sequence:
                continue  # no image yet
            side = PRODUCTS[product].side
            pixels = np.asarray(read(signals["Image"]), np.int32).ravel()
            if pixels.size != side * side:
                continue  # an array that has just connected comes whole with the next reading
            module = {part: read(signal) for part, signal in self._modules[slot].items()}
            images.append(
                PanosetiImage(
                    slot,
                    int(module["Module"]),
                    product,
                    float(read(signals["Time"])),
                    text_of(read(signals["Flags"])),
                    float(read(signals["Rows"])),
                    float(read(signals["Rate"])),
                    float(read(signals["PacketsLost"])),
                    CLOCKS[int(module["Clock"])],
                    (module["Azimuth"], module["Elevation"], module["PositionAngle"]),
                    sequence,
                    pixels.reshape(side, side),
                )
            )
        state = int(read(self.run_state))
        return PanosetiFacts(
            text_of(read(self.run_name)),
            STATES[state] if 0 <= state < len(STATES) else "",
            text_of(read(self.message)),
            float(read(self.events)),
            tuple(images),
        )
