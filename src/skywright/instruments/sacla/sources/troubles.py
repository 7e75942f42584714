"""What does not work at the facility."""

from skywright.acquire.source import Report


class Troubles:
    """Reports trouble when it begins and when it has passed.

    Parameters
    ----------
    report
        Takes the messages.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self._present: dict[str, str] = {}

    def __str__(self) -> str:
        """Return the present troubles; empty if there are none."""
        return "; ".join(f"{what}: {why}" for what, why in list(self._present.items()))

    def set(self, what: str, trouble: str) -> None:
        """Take note of the trouble with a detector, an equipment or a call; empty: it works."""
        was_there = what in self._present
        if trouble:
            self._present[what] = trouble
            if not was_there:
                self.report(f"{what}: {trouble}; trying again")
        elif was_there:
            del self._present[what]
            self.report(f"{what}: works again", False)
