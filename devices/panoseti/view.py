"""What can be seen of PANOSETI modules, by reading alone: nothing is put."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from devices.camera_view import text_of
from devices.panoseti.array import PRODUCTS

STATES = ("Waiting", "Recording", "Ended")


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
            slot: EpicsSignalRO(f"{prefix}M{slot}:Module_RBV", name=f"{name}_m{slot}")
            for slot in range(1, slots + 1)
        }
        self._signals = {
            (slot, product): {
                part: EpicsSignalRO(
                    f"{prefix}M{slot}:{product}:{part}_RBV", name=f"{name}_{slot}_{product}_{part}"
                )
                for part in ("Image", "Time", "Flags", "Rows", "Sequence")
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
        for (slot, product), signals in self._signals.items():
            sequence = float(read(signals["Sequence"]))
            if not sequence:
                continue  # no image yet
            side = PRODUCTS[product][1]
            pixels = np.asarray(read(signals["Image"]), np.int32).ravel()
            if pixels.size != side * side:
                continue  # an array that has just connected comes whole with the next reading
            images.append(
                PanosetiImage(
                    slot,
                    int(read(self._modules[slot])),
                    product,
                    float(read(signals["Time"])),
                    text_of(read(signals["Flags"])),
                    float(read(signals["Rows"])),
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
