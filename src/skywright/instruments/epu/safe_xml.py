"""XML from other programs, parsed without DTD, entities or network, within size and depth limits.

libxml2 itself refuses a depth above 256 and a text above 10 MB.
"""

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

from lxml import etree

from skywright.errors import DataError

IMAGE_BYTES_MAX = 16 << 20
"""Limit of a manifest; real ones have 10-17 kB."""
DM_BYTES_MAX = 128 << 20
"""Limit of a ``.dm`` file; the largest real ones have 2.5 MB."""

LONGEST_REASON = 300
"""Characters of a reason of the XML library that a message repeats."""

_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Without O_NONBLOCK a pipe in the tree would stop its reader for good."""

# Of Windows' CreateFileW.
GENERIC_READ = 0x80000000
SHARE_READ_WRITE_DELETE = 0x1 | 0x2 | 0x4
OPEN_EXISTING = 3

NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_PROLOG_WITH_DTD = re.compile(
    rb"(?:\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL
)


class XmlError(DataError):
    """A file is not the XML that was expected.

    Parameters
    ----------
    reason
        What is wrong, as a person reads it.
    line
        Line of the file, from 1; None where no line is at fault.
    incomplete
        The file may still be in the course of being written: trying again later makes sense.
    """

    def __init__(self, reason: str, line: int | None = None, incomplete: bool = False) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.reason = reason
        self.line = line
        self.incomplete = incomplete


def _open_shared(path: str | Path) -> int:
    """Open a file on Windows so that other programs may write, rename and remove it meanwhile.

    `os.open` does not share removal there: EPU could not replace a file that is being read.
    """
    import ctypes
    import msvcrt

    windows: Any = ctypes  # the types of other systems lack what is used here
    runtime: Any = msvcrt
    create = windows.WinDLL("kernel32", use_last_error=True).CreateFileW
    number, pointer = windows.c_uint32, windows.c_void_p
    create.argtypes = (windows.c_wchar_p, number, number, pointer, number, number, pointer)
    create.restype = pointer
    handle = create(str(path), GENERIC_READ, SHARE_READ_WRITE_DELETE, None, OPEN_EXISTING, 0, None)
    if handle == pointer(-1).value:
        error: OSError = windows.WinError(windows.get_last_error())
        error.filename = str(path)
        raise error
    return int(runtime.open_osfhandle(handle, _READ))


def read_limited(path: str | Path, limit: int) -> bytes:
    """Return the content of a file.

    Raises
    ------
    XmlError
        If the file is empty or longer than `limit` bytes.
    OSError
        If it cannot be read.
    """
    descriptor = _open_shared(path) if sys.platform == "win32" else os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise XmlError("this is not a regular file")
        size = status.st_size
        data = os.read(descriptor, min(size, limit) + 1)
        while len(data) != size and len(data) <= limit:
            more = os.read(descriptor, 1 << 16)
            if not more:
                break
            data += more  # the file has grown in the meantime, or came in parts
    finally:
        os.close(descriptor)
    if not data:
        raise XmlError("the file is empty", incomplete=True)
    if len(data) > limit:
        raise XmlError(f"the file is larger than {limit} bytes, the limit for its kind")
    return data


PARSER_OPTIONS: dict[str, Any] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
"""A parser that expands nothing and loads nothing."""

_parser = etree.XMLParser(**PARSER_OPTIONS)


def refuse_dtd(data: bytes) -> None:
    """Raise XmlError if the document has a DTD, the only place where entities are declared."""
    if match := _PROLOG_WITH_DTD.match(data):
        raise XmlError("a document type declaration is not allowed", line_at(data, match.end()))


def line_at(data: bytes, offset: int) -> int:
    """Return the line, from 1, at `offset`."""
    return data.count(b"\n", 0, offset) + 1


def parse_xml(data: bytes) -> etree._Element:
    """Return the root element of a document.

    Raises
    ------
    XmlError
        If `data` is not well-formed XML, has a DTD, or is too deep.
    """
    refuse_dtd(data)
    try:
        root = etree.fromstring(data, _parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise xml_error(error) from error
    refuse_doctype(root)
    return root


def refuse_doctype(root: etree._Element) -> None:
    """Raise XmlError if a parsed document has a DTD that `refuse_dtd` missed (UTF-16)."""
    if root.getroottree().docinfo.doctype:
        raise XmlError("a document type declaration is not allowed", 1)


def xml_error(error: Exception) -> XmlError:
    """Return an lxml error as ours: reason, line, and whether more data could mend it."""
    line = getattr(error, "lineno", None)
    reason = str(getattr(error, "msg", None) or error)
    reason = re.sub(r"\s*(,? line \d+)+(, column \d+.*)?$", "", reason, flags=re.DOTALL)
    if len(reason) > LONGEST_REASON:  # it repeats names of the file
        reason = f"{reason[:LONGEST_REASON]}..."
    if reason.startswith("Excessive depth"):
        return XmlError("elements are nested more than 256 deep, the limit", line)
    return XmlError(f"not well-formed XML: {reason}", line, incomplete=True)


def is_nil(node: etree._Element) -> bool:
    """Return whether an element has no value: its attribute ``nil`` is true."""
    return node.get(NIL) in ("true", "1")


def text_of(node: etree._Element | None) -> str | None:
    """Return the text of an element without blanks around it; None if nil, empty or missing."""
    if node is None or is_nil(node):
        return None
    return (node.text or "").strip() or None


def local_name(node: etree._Element) -> str:
    """Return an element's name without its namespace."""
    return etree.QName(node).localname
