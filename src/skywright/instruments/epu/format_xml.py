"""Indents XML files in place without a change to what they say."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lxml import etree

from skywright.files.replacing import replacing
from skywright.instruments.epu.safe_xml import (
    DM_BYTES_MAX,
    XmlError,
    read_limited,
    refuse_doctype,
    refuse_dtd,
    xml_error,
)

SUFFIXES = (".xml", ".dm")
_SPACE = "{http://www.w3.org/XML/1998/namespace}space"
_BLANKS = " \t\r\n"
"""White space of XML; other blanks, as the no-break space, are text."""
_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, strip_cdata=False
)


def format_paths(
    paths: Iterable[Path], recursive: bool = False, dry_run: bool = False, backup: bool = False
) -> Iterator[tuple[Path, bool | Exception]]:
    """Indent files; yield each with whether it changed, or with the error that kept it as it was.

    Parameters
    ----------
    paths
        Files, and directories, whose ``.xml`` and ``.dm`` files are taken.
    recursive
        Take those of directories below too.
    dry_run
        Write nothing.
    backup
        Keep each changed file as it was under its name with ``.bak`` added.
    """
    for path in paths:
        unlisted: list[OSError] = []
        for file in _files(path, recursive, unlisted):
            try:
                yield file, format_file(file, dry_run, backup)
            except (XmlError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                yield file, XmlError(reason) if reason else error
        for failure in unlisted:
            yield Path(failure.filename), XmlError(failure.strerror or str(failure))


def _files(path: Path, recursive: bool, unlisted: list[OSError]) -> list[Path]:
    """Return the files to indent; errors of directories are appended to `unlisted`."""
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for directory, _, names in os.walk(path, onerror=unlisted.append):
        found += [Path(directory, name) for name in names]
        if not recursive:
            break
    return sorted(file for file in found if file.suffix.lower() in SUFFIXES and _may_be_file(file))


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # it may not be looked at: `format_file` says why
        return True


def format_file(path: Path, dry_run: bool = False, backup: bool = False) -> bool:
    """Indent one file; return whether it changed.

    The new content takes the file's place in one step, with the file's mode.

    Raises
    ------
    XmlError
        If it is not well-formed, or has a DTD.
    OSError
        If it cannot be read or written.
    """
    old = read_limited(path, DM_BYTES_MAX)
    new = indented(old)
    if new == old or dry_run:
        return new != old
    if backup:
        # A full disk must leave the earlier backup as it is
        with replacing(path.with_name(path.name + ".bak")) as file:
            shutil.copy2(path, file)
    target = path.resolve()  # of a link, the file it points to
    with replacing(target, sync=True) as file:
        file.write_bytes(new)
        shutil.copymode(target, file)
        with suppress(PermissionError):  # only root may give a file to somebody else
            os.chown(file, target.stat().st_uid, target.stat().st_gid)
    return True


def indented(data: bytes) -> bytes:
    """Return a document with two spaces for each level.

    Only blanks between elements change: not those in texts, in elements that have text beside
    their children, or below ``xml:space="preserve"``. Declaration, byte order mark and encoding
    stay.

    Raises
    ------
    XmlError
        If it is not well-formed, or has a DTD.
    """
    refuse_dtd(data)
    try:
        tree = etree.ElementTree(etree.fromstring(data, _PARSER))
    except (etree.XMLSyntaxError, ValueError) as error:
        raise xml_error(error) from error
    root = tree.getroot()
    refuse_doctype(root)
    _indent(root, 0)
    start = data[: data.find(b"<")]
    encoding = tree.docinfo.encoding or "UTF-8"
    if b"\0" in data:  # UTF-16 or UTF-32, declared or not
        return etree.tostring(tree, xml_declaration=True, encoding="UTF-16", pretty_print=False)
    declared = data[len(start) :].startswith(b"<?xml")
    body = etree.tostring(tree, xml_declaration=False, encoding=encoding)
    head = b""
    if declared:
        head = data[len(start) : data.find(b"?>") + 2] + b"\n"
    return start + head + body.rstrip(b"\n") + b"\n"


def _indent(element: etree._Element, level: int) -> None:
    """Set the blanks around the children of `element`, if nothing else stands between them."""
    if element.get(_SPACE) == "preserve" or not isinstance(element.tag, str) or not len(element):
        return
    texts = (element.text, *[child.tail for child in element])
    if any(text and text.strip(_BLANKS) for text in texts):
        return
    inner = "\n" + "  " * (level + 1)
    element.text = inner
    for child in element:
        _indent(child, level + 1)
        child.tail = inner
    element[-1].tail = "\n" + "  " * level
