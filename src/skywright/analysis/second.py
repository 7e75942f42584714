"""Second-stage analyses: they work on the rows that a first analysis finds in a run.

Such an analysis may need other documents of the run, and its result for a member may depend on
later members. So it is computed from all rows at once: when a decision asks for it, and when the
run has ended.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from skywright.analysis.framework import Analysis
from skywright.analysis.inputs import Batch

Document = Mapping[str, Any]


class SecondRun(ABC):
    """A second-stage analysis of one raw run. It can be pickled."""

    @abstractmethod
    def __call__(self, name: str, doc: Document) -> None:
        """Process a document of the raw run after its start document; do not change it."""

    @property
    @abstractmethod
    def fits(self) -> bool:
        """Whether the raw run has what the analysis needs, so that it gets a derived run."""

    @abstractmethod
    def prepare(self, rows: Batch) -> tuple[Analysis[Any], Batch]:
        """Return a fresh analysis and its members.

        Parameters
        ----------
        rows
            Columns of the first analysis, for all members so far.

        Raises
        ------
        SkywrightError
            If the analysis is not possible.
        """

    def draw(
        self, analysis: Analysis[Any], members: Batch, result: Mapping[str, Any]
    ) -> Iterator[tuple[str, bytes]]:
        """Draw the final result for people: yield file names and contents.

        It runs in another process, with a copy of this object.
        """
        yield from ()

    def failure(self, result: Mapping[str, Any]) -> str:
        """Return why the final result is no success; empty if it is one."""
        return ""


class SecondStage(ABC):
    """A second-stage analysis, for any number of raw runs.

    Parameters
    ----------
    **parameters
        JSON values.
    """

    analysis: ClassVar[type[Analysis[Any]]]
    """What is computed; its `inputs` come from `SecondRun.prepare`."""

    @abstractmethod
    def begin_run(self, start: Document) -> SecondRun:
        """Return the analysis of the raw run with this start document."""

    def event_keys(self, start: Document) -> frozenset[str]:
        """Return the data keys whose values in events are needed."""
        return frozenset()

    def warm_up(self) -> None:  # noqa: B027 - nothing to do is the default
        """Compile and load what a result needs, so that the first decision does not wait."""
