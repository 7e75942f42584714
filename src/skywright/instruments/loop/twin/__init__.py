"""A twin of a sample camera: 3-D mounts, the camera, and the truth of each picture.

`scene` draws scenes, `render` takes their pictures; `mount` and `optics` hold the dimensions. The
twin shares no code with the analysis that is tested against it.
"""
