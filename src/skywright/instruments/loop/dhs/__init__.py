"""A distributed hardware server (DHS) of DCSS that finds loops in camera pictures.

`service` is the whole of it. `link` keeps the connection, `server` starts operations and completes
each exactly once, `operations` answers from one picture and `series` from many, `replies` puts
detections into DCSS's words, `config` reads the file of the loopDHS that this replaces.
"""
