"""Which shots belong to a recording."""

from dataclasses import dataclass


@dataclass
class Recording:
    """Consecutive shots, from one that is known when the recording begins.

    Parameters
    ----------
    number
        Of the recording, from 1 on.
    first
        Shots of this run with a lower identity came before it began.
    run
        Run of the facility when it began. The tags of a later run may begin anew.
    count
        Number of shots; 0: until it is ended.
    taken
        Number of shots so far.
    """

    number: int
    first: int
    run: int
    count: int = 0
    taken: int = 0

    @property
    def is_full(self) -> bool:
        """Whether it has all its shots; False if it is without a number of them."""
        return 0 < self.count == self.taken

    def take(self, run: int, identity: int) -> bool:
        """Count a shot, accepted or not; return whether it belongs to the recording."""
        is_before = run == self.run and identity < self.first
        if is_before or self.is_full:
            return False
        self.taken += 1
        return True
