"""A distributed hardware server (DHS) of DCSS that finds loops in camera pictures.

`service` puts it together. `link` keeps the connection, `server` starts operations and completes
each exactly once; `operations` answers from one picture (`snapshots`) and `series` from many:
`collection` takes and searches them, `recording` stores them, `turn` fits them, `pictures` draws
and saves them. `replies` puts detections into DCSS's words, `config` reads the file of the loopDHS
that this replaces, `status` tells people how it stands.
"""
