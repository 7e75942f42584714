"""Base class of objects that a ``with`` block closes."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Base of classes whose objects hold a file or a connection: ``with Reader(...) as reader``."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the object holds; a second call does nothing."""

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the object, whatever happened."""
        self.close()
