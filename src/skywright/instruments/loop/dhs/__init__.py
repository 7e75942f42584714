"""The face to DCSS: a distributed hardware server (DHS) that finds loops in camera pictures.

`face` is the whole of it. `link` keeps the connection, `server` starts operations and completes
each exactly once, `operations` answers from one picture and `series` from many, `replies` puts
detections into DCSS's words, `config` reads the file of the loopDHS that this replaces.
"""
