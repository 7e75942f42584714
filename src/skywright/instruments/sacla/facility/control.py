"""Control of the double: runs, faults and, where time stands still, the time."""

from pathlib import Path
from typing import Any

from skywright.instruments.sacla.facility.link import Link


class FacilityControl:
    """A client that changes what the double does.

    Parameters
    ----------
    socket
        Of the server; None: as the facility's modules find it.
    """

    def __init__(self, socket: Path | str | None = None) -> None:
        self._link = Link(None if socket is None else Path(socket))

    def reset(self, **settings: Any) -> None:
        """Begin anew with other settings, those of `FacilitySettings`."""
        self._link.call("reset", settings)

    def advance(self, seconds: float) -> None:
        """Move the time on; for a server with the setting `manual`."""
        self._link.call("advance", seconds)

    def advance_shots(self, shots: int) -> None:
        """Move the time on by a number of shots; their data come later."""
        self._link.call("advance_shots", shots)

    def start_run(self, hightag: int | None = None, first: int | None = None) -> dict[str, int]:
        """Begin a run with the next shot; return its ``run``, ``hightag`` and ``first`` tag.

        Parameters
        ----------
        hightag
            None: as before.
        first
            Its first low tag; None: the tags go on.
        """
        found: dict[str, int] = self._link.call("start_run", hightag, first)
        return found

    def stop_run(self) -> None:
        """End the run under way; shots go on without a run."""
        self._link.call("stop_run")

    def pause_run(self, is_paused: bool = True) -> None:
        """Pause the run, or go on with it."""
        self._link.call("pause_run", is_paused)

    def remove_detector(self, detector: str) -> None:
        """Let a detector be absent."""
        self._link.call("remove_detector", detector)

    def restore_detector(self, detector: str) -> None:
        """Let an absent or silent detector work again."""
        self._link.call("restore_detector", detector)

    def stop_images(self, detector: str) -> None:
        """Let a detector give no more images; its ring stays."""
        self._link.call("stop_images", detector)

    def inject(self, kind: str, target: str, calls: int = 1) -> None:
        """Let the next calls fail.

        Parameters
        ----------
        kind
            ``wrong_tag``, ``socket``, ``calibration`` of a detector; ``database`` of an equipment.
        target
            The detector or the equipment.
        calls
            How many.

        Raises
        ------
        APIError
            If there is no such fault, detector or equipment.
        """
        self._link.call("inject", kind, target, calls)

    def pending_faults(self) -> int:
        """Return the number of injected faults that no call has met."""
        return int(self._link.call("pending_faults"))

    def most_reads(self, detector: str) -> int:
        """Return how often the image was read that was read most often by its tag."""
        return int(self._link.call("most_reads", detector))

    def close(self) -> None:
        """Close the connection."""
        self._link.close()
