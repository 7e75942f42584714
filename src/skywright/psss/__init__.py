"""Single-shot spectra of a free-electron laser, one picture a pulse."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skywright.psss.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Import what users name only when they do: the client brings its HTTP library."""
    if name == "Client":
        from skywright.psss.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
