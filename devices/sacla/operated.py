"""What a page may put to the IOC of the shots: regions of interest, and a reset."""

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO

from devices.camera_view import text_of

LIMIT_S = 8.0


class OperatedShots(Device):
    """The PVs that the page may put.

    Parameters
    ----------
    prefix
        Of the PVs, with its colon.
    """

    regions = Cpt(EpicsSignal, "Regions", string=True)
    regions_readback = Cpt(EpicsSignalRO, "Regions_RBV", string=True)
    take_shots = Cpt(EpicsSignal, "TakeShots")
    reset_sums = Cpt(EpicsSignal, "Reset")
    message = Cpt(EpicsSignalRO, "Message_RBV", string=True)

    def put_regions(self, regions: str) -> str:
        """Put regions; return why they were refused, empty if they were not."""
        self.regions.put(regions, wait=True, timeout=LIMIT_S)
        if not self.regions.alarm_severity:
            return ""
        return text_of(self.message.get(use_monitor=False))

    def reset(self) -> None:
        """Begin curves and images anew."""
        self.reset_sums.put(1, wait=True, timeout=LIMIT_S)

    def run(self, running: bool) -> None:
        """Take shots, or stop."""
        self.take_shots.put(int(running), wait=True, timeout=LIMIT_S)

    def regions_now(self) -> str:
        """Return the regions that hold."""
        return text_of(self.regions_readback.get(use_monitor=False))
