"""Files of columns, and where the frames of a run are."""
