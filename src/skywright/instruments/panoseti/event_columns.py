"""The columns of the event table; a session that knows them need not compile anything."""

from skywright.files.columns import Column

GROUP = "/entry/events"
ADC = {"units": "ADC"}
NUMBER = Column(f"{GROUP}/number", "<i8", attrs={"description": "row of this table"})
COLUMNS = tuple(
    Column(f"{GROUP}/{name}", dtype, attrs=attrs)
    for name, dtype, attrs in (
        ("time_ns", "<i8", {"units": "ns", "description": "since 1970 UTC"}),
        ("seconds", "<f8", {"units": "s", "description": "the same, for display"}),
        ("module", "<i4", {}),
        ("quabo", "|u1", {"description": "board of the brightest pixel"}),
        ("largest", "<i4", {**ADC, "description": "brightest pixel"}),
        ("pixel", "<i4", {"description": "of the brightest pixel, row-major in the image"}),
        ("flags", "|u1", {"description": "as in the index of the frames"}),
        ("side", "|u1", {"description": "pixels along a side: 16 is ph256, 32 ph1024"}),
        ("slot", "<i4", {"description": "of the module, from 0; -1 without"}),
        (
            "row",
            "<i8",
            {"description": "identity in the index of slot and product, or -1"},
        ),
        ("seqno", "<i4", {"description": "sequence number of the file of module and product"}),
        ("frame", "<i8", {"description": "0-based position of the frame in that file"}),
    )
)
