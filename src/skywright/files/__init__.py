"""Files of columns, and readers of the files of other programs."""
