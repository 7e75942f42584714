"""The path of the data from a source to its owner, to files and to endpoints.

An item takes this path: source -> `Owner._receive` -> `process_argument` -> `process` ->
`prepare` -> endpoints and queues -> `Recorder` -> `Layout.row_group` -> `RowQueue` ->
`Layout.append` -> `Writer.flush`. Without `process` it is published before `prepare`.

The thread changes at two places at most. If `threads` is above 0, the owner's threads
(`OrderedPool`) take the item after `process_argument`; without a `process`, clients have got it by
then. The recorder's thread takes it after `Layout.row_group`, unless the recorder is synchronous,
as those of the loop camera are.

PVs do not take this path. An IOC reads the newest result from `Owner.state`, when `Owner` calls
`changed` or at fixed times (``iocs/owner.py``, and the ``_post`` of each IOC). An owner with
`notifies_each_item` False, such as that of the PSSS, does not call it for each item.

An instrument writes a source (`Source`, a method of `PolledSource`, or a function for
`PacedSource`), gives it to an `Owner`, and adds recorders (`Recorder` with a `Layout`) and
endpoints. The modules:

================== ===========================================================================
`source`           the interface of every source, and a base class that polls in a thread
`pacing`           the clock of simulated and replayed sources
`trajectory`       motion of simulated axes
`simulated_axis`   a simulated motor
`owner`            receives items, processes them, publishes each result in order
`acquisition`      a request for items, the interfaces of endpoints, the owner's state
`pending`          an item on its way through an owner; an error of its processing refuses it
`ordered_pool`     worker threads that process items and keep their order
`guarded_calls`    calls functions of clients, counts their errors and goes on
`operator_message` the message for the operator: what replaces an alarm, and when
`newest`           a short queue in which a new item replaces the oldest
`recorder`         writes results to files on its own thread, or synchronously on the owner's
`row_queue`        the queue of a recorder, in which row groups wait for its thread
`layout`           the interface of layouts, by which results become rows of a file
`columns_layout`   files of columns, for row groups of one or more rows
`image_layout`     images in areaDetector's layout
`index_layout`     an index of files that other programs write
`counters`         counts of losses by cause
================== ===========================================================================
"""
