"""Values out of XML by the tables of `fields`: from a tree, and quickly from many similar files."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from lxml import etree

from skywright.instruments.epu.fields import NAMESPACES, Field, xpath
from skywright.instruments.epu.safe_xml import NIL, XmlError, parse_xml, text_of

MAX_LAYOUTS = 256
"""Markups kept; EPU has a few for each version. What does not fit is read the slow way."""

_PLAIN = bytes(code for code in (9, 10, *range(0x20, 0x7F)) if chr(code) not in "<>&")
"""Bytes of which a text may consist for another to take its place: ASCII without ``& < >``."""
_CUSTOM_KEY = "{" + NAMESPACES["A"] + "}Key"


class FieldReader:
    """Reads the values of a table from a tree.

    Parameters
    ----------
    fields
        The values, in the order in which they are returned.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.paths = [xpath(field.path) for field in fields]

    def nodes(self, root: etree._Element) -> list[etree._Element | None]:
        """Return the first element of each field's path, None where there is none."""
        return [next(iter(path(root)), None) for path in self.paths]

    def read(self, root: etree._Element, problems: list[str] | None = None) -> list[Any]:
        """Return the values below `root`; see `convert_all`."""
        return convert_all(self.fields, [text_of(node) for node in self.nodes(root)], problems)


def convert_all(
    fields: Sequence[Field], texts: Sequence[str | None], problems: list[str] | None = None
) -> list[Any]:
    """Return the value of each text.

    Parameters
    ----------
    fields, texts
        The fields and their texts, None where the file has no value.
    problems
        A line is appended for each value that is not of its type; its default stands for it.

    Raises
    ------
    XmlError
        If a required value is missing or not of its type.
    """
    values = []
    for field, text in zip(fields, texts, strict=True):
        value = field.default
        if text is not None:
            try:
                value = field.convert(text)
            except ValueError as error:
                if field.required:
                    raise XmlError(f"{field.name}: {error}") from error
                if problems is not None:
                    problems.append(f"{field.name}: {error}")
        if field.required and value is None:
            raise XmlError(f"{field.name} is missing (expected at {field.path})")
        values.append(value)
    return values


class _Layout:
    """Where the values are in every file that has the same markup and the same dictionary keys.

    Two files whose markup agrees byte for byte are the same tree, and only texts differ. So the
    place of each value, found once by a full parse, is an index into the list of texts.
    """

    def __init__(
        self, keys: dict[int, bytes], indexes: Sequence[int | None], declared: bool
    ) -> None:
        self.expected = tuple(keys.values())
        self._keys = itemgetter(*keys) if len(keys) > 1 else None
        self._first_key = next(iter(keys), None)
        # After an XML declaration the first text stands before the root.
        self._prolog = None if declared else 0
        # The last text stands after the root and is blank.
        self.pick = itemgetter(*[-1 if index is None else index for index in indexes])

    def fits(self, texts: Sequence[bytes]) -> bool:
        """Return whether the dictionaries have these keys, and no text is beside the root."""
        if not texts[-1].strip() == b"" == texts[0][: self._prolog].strip():
            return False
        if self._keys is not None:
            return self._keys(texts) == self.expected
        return self._first_key is None or texts[self._first_key] == self.expected[0]


class RepeatedReader(FieldReader):
    """Reads the values of a table from many files, most of which have the same markup.

    The first file of a markup is parsed by libxml2. Of the others only the texts are taken, which
    is several times as fast, and exact: see `_Layout`. A file with anything unusual in it
    (comments, entities, text beyond ASCII) has a markup of its own and is parsed in full.
    """

    def __init__(
        self, fields: Sequence[Field], check_root: Callable[[etree._Element], object]
    ) -> None:
        super().__init__(fields)
        self._check_root = check_root
        self._layouts: dict[tuple[bytes, ...], list[_Layout]] = {}
        self._count = 0

    def read_bytes(self, data: bytes, problems: list[str] | None = None) -> list[Any]:
        """Return the values of the document `data`; see `convert_all`.

        Raises
        ------
        XmlError
            If it is not well-formed, has another root, or lacks a required value.
        """
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")  # as XML has it
        # With one separator for "<" and ">", tags and texts alternate; what is left of the data
        # without plain bytes proves that "<" and ">" alternate too, and that the texts are plain.
        parts = data.replace(b"<", b">").split(b">")
        texts = parts[2::2]
        markup = (parts[0], b">".join(parts[1::2]), data.translate(None, _PLAIN))
        for layout in self._layouts.get(markup, ()):
            if layout.fits(texts):
                found = [text.strip().decode() or None for text in layout.pick(texts)]
                return convert_all(self.fields, found, problems)
        root = parse_xml(data)
        self._check_root(root)
        nodes = self.nodes(root)
        if self._count < MAX_LAYOUTS:
            found_layout = _find_layout(root, nodes, data)
            if found_layout is not None:
                self._layouts.setdefault(markup, []).append(found_layout)
                self._count += 1
        return convert_all(self.fields, [text_of(node) for node in nodes], problems)


def _find_layout(
    root: etree._Element, nodes: Sequence[etree._Element | None], data: bytes
) -> _Layout | None:
    """Return where the texts of `nodes` are among the texts of `data`; None if it is not plain."""
    if data.translate(None, _PLAIN) != b"<>" * data.count(b"<"):
        return None
    parts = data.replace(b"<", b">").split(b">")
    tags, texts = parts[1::2], parts[2::2]
    if any(tag.startswith(b"!") for tag in tags):
        return None
    starts = [index for index, tag in enumerate(tags) if not tag.startswith((b"/", b"?"))]
    elements = list(root.iter())
    if len(starts) != len(elements):
        return None
    index_of: dict[etree._Element, int | None] = {}
    for start, element in zip(starts, elements, strict=True):
        closed = tags[start].endswith(b"/")
        if not closed and (element.text or "").encode() != texts[start]:
            return None
        index_of[element] = None if closed or element.get(NIL) else start
    keys = {
        index: texts[index]
        for element, index in index_of.items()
        if element.tag == _CUSTOM_KEY and index is not None
    }
    indexes = [None if node is None else index_of[node] for node in nodes]
    return _Layout(keys, indexes, declared=starts[0] > 0)
