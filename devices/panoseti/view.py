"""What can be seen of PANOSETI modules, by reading alone: nothing is put."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from devices.facts import FactsView, text_of
from skywright.instruments.panoseti.products import PRODUCTS

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

    run: Annotated[str, "Run_RBV"] = ""
    state: Annotated[str, "RunState_RBV"] = ""
    message: Annotated[str, "Message_RBV"] = ""
    events: Annotated[float, "EventRows_RBV"] = 0.0
    images: tuple[PanosetiImage, ...] = field(default=())


class PanosetiView(FactsView[PanosetiFacts]):
    """The run and the newest images of all slots.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    slots
        Slots of the IOC.
    timeout_s
        Timeout of each PV, s.
    """

    def __init__(self, prefix: str, *, slots: int = 4, timeout_s: float = 2.0) -> None:
        super().__init__(prefix, PanosetiFacts, timeout_s)
        self._modules = {
            slot: {part: self.signal(f"M{slot}:{part}_RBV") for part in MODULE_PARTS}
            for slot in range(1, slots + 1)
        }
        self._parts = {
            (slot, product): {
                part: self.signal(f"M{slot}:{product}:{part}_RBV") for part in IMAGE_PARTS
            }
            for slot in self._modules
            for product in PRODUCTS
        }

    def facts(self, **more: Any) -> PanosetiFacts:
        """Read what the IOC says; see `FactsView.facts`."""
        read = self.get
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
        return super().facts(images=tuple(images), **more)
