"""What a page may put to the IOC of the shots: regions of interest, what is shown, a reset."""

from collections.abc import Sequence
from itertools import count

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO

from devices.facts import text_of

LIMIT_S = 8.0


class OperatedShots(Device):
    """The PVs that the page may put.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    """

    regions = Cpt(EpicsSignal, "Regions", string=True)
    regions_readback = Cpt(EpicsSignalRO, "Regions_RBV", string=True)
    detectors = Cpt(EpicsSignalRO, "Detectors_RBV", string=True)
    shown_detector = Cpt(EpicsSignal, "ShownDetector")
    shown_region = Cpt(EpicsSignal, "ShownRegion")
    take_shots = Cpt(EpicsSignal, "TakeShots")
    reset_sums = Cpt(EpicsSignal, "Reset")
    message = Cpt(EpicsSignalRO, "Message_RBV", string=True)

    def add_region(self, detector: str, corners: str) -> str:
        """Add a region to those that the IOC has now, under the first free name.

        Parameters
        ----------
        detector
            Its id.
        corners
            ``x,y;x,y;...``, pixels.

        Returns
        -------
        str
            Why it was refused; empty if it was not.
        """
        regions = self.regions_now().split()
        taken = {each.partition(":")[0] for each in regions}
        name = next(name for n in count(1) if (name := f"roi{n}") not in taken)
        return self._put_regions([*regions, f"{name}:{detector}:{corners}"])

    def remove_region(self, name: str) -> str:
        """Remove a region of those that the IOC has now; return why it was refused, or nothing."""
        regions = self.regions_now().split()
        kept = [each for each in regions if each.partition(":")[0] != name]
        if kept == regions:
            return f"there is no region {name}"
        if not kept:
            return f"{name} is the only region, and one must remain"
        return self._put_regions(kept)

    def _put_regions(self, regions: Sequence[str]) -> str:
        return self._put(self.regions, " ".join(regions))

    def _put(self, signal: EpicsSignal, value: str | int) -> str:
        """Put a value; return why it was refused, or nothing."""
        signal.put(value, wait=True, timeout=LIMIT_S)
        signal.get(use_monitor=False)  # the alarm with it
        if not signal.alarm_severity:
            return ""
        return text_of(self.message.get(use_monitor=False))

    def show(self, detector: str) -> str:
        """Show the images of this detector; return why that was refused, or nothing."""
        detectors = text_of(self.detectors.get(use_monitor=False)).split(",")
        if detector not in detectors:
            return f"there is no detector {detector}"
        return self._put(self.shown_detector, detectors.index(detector))

    def plot(self, region: str) -> str:
        """Plot the single shots of this region; return why that was refused, or nothing."""
        names = [each.partition(":")[0] for each in self.regions_now().split()]
        if region not in names:
            return f"there is no region {region}"
        return self._put(self.shown_region, names.index(region))

    def reset(self) -> str:
        """Begin curves and images anew; return why it was refused, or nothing."""
        return self._put(self.reset_sums, 1)

    def run(self, running: bool) -> str:
        """Take shots, or stop; return why it was refused, or nothing."""
        return self._put(self.take_shots, int(running))

    def regions_now(self) -> str:
        """Return the regions that hold."""
        return text_of(self.regions_readback.get(use_monitor=False))
