"""The size of the network's input, and the names and order of what it gives."""

INPUT = (128, 192)  # rows, columns
MASKS = ("pin", "stem", "head", "content", "other")
SIDES = ("none", "left", "right", "top", "bottom")
KINDS = ("none", "nylon", "mitegen", "pin")
MAPS = (*MASKS, "tip", "begin", "tip_dx", "tip_dy", "tip_log_error")
TURN = ("painter", "composite", "twin", "relief", "traced")
"""The generators of the training, in the order of their shards."""
NEAR_CELLS = 3
"""What is that many cells away, or less, is near."""
OUTPUTS = (
    "masks", "near", "tip", "begin", "tip_offset", "tip_error", "edges", "edge_errors", "side",
    "kind",
)  # fmt: skip
"""Of the model file: `skywright.instruments.loop.detector.model.Maps` says what each is."""
