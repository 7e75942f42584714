"""What each kind of entity is called in the API, and where it stands there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of entity.

    Attributes
    ----------
    title
        Its name in messages.
    path
        Path of its list; an entity is below it, by its uuid.
    parent
        Kind of its parent; None for an acquisition.
    below
        Name of the list of children below the path of a parent.
    """

    title: str
    path: str
    parent: str | None = None
    below: str = ""

    @property
    def column(self) -> str | None:
        """Column of the parent's uuid."""
        return None if self.parent is None else f"{self.parent}_uuid"

    def create_path(self, parent: str | None) -> str:
        """Path of a request that creates an entity below that parent."""
        above = KINDS.get(self.parent or "")
        return self.path if above is None else f"{above.path}/{parent}/{self.below}"


KINDS = {
    "acquisition": Kind("Acquisition", "/acquisitions"),
    "grid": Kind("Grid", "/grids", "acquisition", "grids"),
    "atlas": Kind("Atlas", "/atlases", "grid", "atlas"),
    "atlas_tile": Kind("Atlas Tile", "/atlas-tiles", "atlas", "tiles"),
    "gridsquare": Kind("Grid Square", "/gridsquares", "grid", "gridsquares"),
    "foilhole": Kind("Foil Hole", "/foilholes", "gridsquare", "foilholes"),
    "micrograph": Kind("Micrograph", "/micrographs", "foilhole", "micrographs"),
}
"""By name, as in `schema.ENTITIES`; parents first."""
