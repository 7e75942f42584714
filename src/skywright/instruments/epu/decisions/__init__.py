"""Which squares are good, what to take next, and telling the acquisition software."""
