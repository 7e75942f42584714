"""A distributed hardware server (DHS) of DCSS that finds loops in camera pictures.

`service` puts it together. `link` keeps the connection, `server` starts operations and completes
each exactly once. `operations` answers from one picture (`snapshots`) and `series` from many, which
`collection` searches, `recording` and `pictures` save and `turn` fits. `replies` puts detections
into DCSS's words, `status` serves how it stands, `config` reads the file of the loopDHS that this
replaces.
"""
