"""The path of the data from a source to its owner, to files and to endpoints.

An instrument writes a source (`Source`, or one method of `PolledSource` or `PacedSource`), gives it
to an `Owner`, and adds recorders (`Recorder` with a `Layout`) and endpoints. The modules:

================ =============================================================================
`source`         the interface of every source, and a base class with the thread that asks it
`pacing`         the clock of simulated and replayed sources
`owner`          takes items, processes them in order, hands each one to endpoints and recorders
`acquisition`    a request for items, the interfaces of endpoints, the owner's state
`stage`          worker threads that process items and keep their order
`newest`         a short queue in which a new item replaces the oldest
`recorder`       writes items to files on a thread of its own
`columns_layout` files of columns, for items that hold one row or many
`image_layout`   images in areaDetector's layout
`counters`       counts of losses by cause
================ =============================================================================
"""
