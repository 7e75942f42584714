"""Values out of XML by the tables of `fields`: from a tree, and quickly from many similar files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from skywright.instruments.epu.fields import NAMESPACES, Field, xpath
from skywright.instruments.epu.safe_xml import XmlError, is_nil, parse_xml, text_of

LAYOUTS_MAX = 32
"""Layouts kept; EPU has a few for each version. What does not fit is read the slow way."""
SLOTS_MAX = 200
"""Texts that may differ between the files of a layout; with more, a full parse is as fast."""

_PLAIN = bytes(code for code in (9, 10, *range(0x20, 0x7F)) if chr(code) not in "<>&")
"""Bytes of which a text may consist for another to take its place.

ASCII without ``& < >``, and without carriage returns, which XML changes.
"""
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
        self._rules = [(field.convert, field.default) for field in fields]
        self._required = [number for number, field in enumerate(fields) if field.required]

    def nodes(self, root: etree._Element) -> list[etree._Element | None]:
        """Return the first element of each field's path, None where there is none."""
        return [next(iter(path(root)), None) for path in self.paths]

    def read(self, root: etree._Element, problems: list[str] | None = None) -> list[Any]:
        """Return the values below `root`; see `convert_all`."""
        return self.convert([text_of(node) for node in self.nodes(root)], problems)

    def convert(self, texts: Sequence[str | None], problems: list[str] | None = None) -> list[Any]:
        """Return the value of each text, None or empty where there is none; see `convert_all`."""
        try:
            rules = zip(texts, self._rules, strict=True)
            values = [convert(text) if text else default for text, (convert, default) in rules]
        except ValueError:
            return convert_all(self.fields, texts, problems)
        if any(values[number] is None for number in self._required):
            return convert_all(self.fields, texts, problems)
        return values


def convert_all(
    fields: Sequence[Field], texts: Sequence[str | None], problems: list[str] | None = None
) -> list[Any]:
    """Return the value of each text.

    Parameters
    ----------
    fields, texts
        The fields and their texts, None or empty where the file has no value.
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
        if text:
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


@dataclass(frozen=True, slots=True)
class _Marked:
    """A document of plain bytes as tags and the texts behind them.

    Attributes
    ----------
    start
        What stands before the first tag.
    tags, texts
        Of the same length; a document is `start`, then ``<tag>text`` for each of them.
    values
        For each field the index of its text; None where the file has no value.
    fixed
        Indexes of texts on which the tree depends: keys of dictionaries, blanks beside the root.
    """

    start: bytes
    tags: tuple[bytes, ...]
    texts: list[bytes]
    values: tuple[int | None, ...]
    fixed: tuple[int, ...]

    @property
    def tree(self) -> tuple[Any, ...]:
        """What two documents of the same tree have in common."""
        keys = [self.texts[index] for index in self.fixed]
        return self.start, self.tags, self.values, self.fixed, keys


class _Layout:
    """Where the values are in all files that differ from a parsed one in some texts only.

    Those texts are the slots. The bytes between two slots agree, and a slot holds
    plain text, so the trees are the same, and each value stands where the full parse found it.
    """

    def __init__(self, marked: _Marked) -> None:
        self._marked = marked
        self._slots = {index for index in marked.values if index is not None}
        self._cut()

    def _cut(self) -> None:
        """Cut the parsed document at its slots."""
        marked, slots = self._marked, sorted(self._slots)
        piece, pieces = [marked.start], []
        for index, (tag, text) in enumerate(zip(marked.tags, marked.texts, strict=True)):
            piece.append(b"<" + tag + b">")
            if index in self._slots:
                pieces.append(b"".join(piece))
                piece.clear()
            else:
                piece.append(text)
        order = {index: number for number, index in enumerate(slots)}
        picks = [-1 if index is None else order[index] for index in marked.values]
        between = b"<" * (len(pieces) - 1)
        # In one step, for the sake of other threads that read.
        self._cuts = [(each, len(each)) for each in pieces], b"".join(piece), between, picks

    def read(self, data: bytes) -> list[str] | None:
        """Return the text of each field, empty where it has no value; None if `data` differs."""
        pieces, end, between, picks = self._cuts
        texts = []
        position = 0
        for piece, length in pieces:
            if not data.startswith(piece, position):
                return None
            start = position + length
            position = data.find(b"<", start)
            if position < 0:
                return None
            texts.append(data[start:position])
        joined = b"<".join(texts)
        if data[position:] != end or joined.translate(None, _PLAIN) != between:
            return None
        plain = joined.decode().split("<")
        plain.append("")
        return [plain[pick].strip() for pick in picks]

    def widen(self, marked: _Marked) -> bool:
        """Make slots of the texts in which a parsed document differs; False if its tree does."""
        if marked.tree != self._marked.tree:
            return False
        pairs = zip(marked.texts, self._marked.texts, strict=True)
        self._slots.update(index for index, (one, other) in enumerate(pairs) if one != other)
        self._cut()
        return True

    @property
    def is_too_wide(self) -> bool:
        """Whether a full parse is as fast."""
        return len(self._slots) > SLOTS_MAX


class RepeatedReader(FieldReader):
    """Reads the values of a table from many files, most of which differ in a few texts only.

    A file is compared with those that were parsed by libxml2 before; where only texts differ that
    differed before, they are taken from their places, which is several times as fast, and exact:
    see `_Layout`. Every other file is parsed in full, and what it differs in is learned. A file
    with anything unusual in it (comments, entities, text beyond ASCII) is always parsed in full.
    """

    def __init__(
        self, fields: Sequence[Field], check_root: Callable[[etree._Element], object]
    ) -> None:
        super().__init__(fields)
        self._check_root = check_root
        self._layouts: list[_Layout] = []

    def read_bytes(self, data: bytes, problems: list[str] | None = None) -> list[Any]:
        """Return the values of the document `data`; see `convert_all`.

        Raises
        ------
        XmlError
            If it is not well-formed, has another root, or lacks a required value.
        """
        for number, layout in enumerate(self._layouts):
            texts = layout.read(data)
            if texts is not None:
                if number:  # the next file is probably like this one
                    others = [each for each in self._layouts if each is not layout]
                    self._layouts = [layout, *others]
                return self.convert(texts, problems)
        root = parse_xml(data)
        self._check_root(root)
        nodes = self.nodes(root)
        self._learn(root, nodes, data)
        return self.convert([text_of(node) for node in nodes], problems)

    def _learn(
        self, root: etree._Element, nodes: Sequence[etree._Element | None], data: bytes
    ) -> None:
        """Let later files like this one be read without a full parse."""
        marked = _marked(root, nodes, data)
        if marked is None:
            return
        for layout in self._layouts:
            if layout.widen(marked):
                return
        layouts = [each for each in self._layouts if not each.is_too_wide]
        self._layouts = [_Layout(marked), *layouts][:LAYOUTS_MAX]


def _marked(
    root: etree._Element, nodes: Sequence[etree._Element | None], data: bytes
) -> _Marked | None:
    """Return the document as tags and texts; None if it is not plain."""
    if data.translate(None, _PLAIN + b"\r") != b"<>" * data.count(b"<"):
        return None
    start, *parts = data.replace(b"<", b">").split(b">")
    tags, texts = tuple(parts[::2]), parts[1::2]
    declared = tags[0].startswith(b"?")
    if any(tag.startswith((b"!", b"?")) for tag in tags[declared:]):
        return None
    starts = [index for index in range(declared, len(tags)) if not tags[index].startswith(b"/")]
    elements = list(root.iter())
    if len(starts) != len(elements):
        return None
    index_of: dict[etree._Element, int | None] = {}
    for index, element in zip(starts, elements, strict=True):
        closed = tags[index].endswith(b"/")
        text = texts[index].replace(b"\r\n", b"\n")  # as XML has it
        if not closed and (element.text or "").encode() != text:
            return None
        index_of[element] = None if closed or is_nil(element) else index
    keys = [
        index
        for element, index in index_of.items()
        if element.tag == _CUSTOM_KEY and index is not None
    ]
    beside_root = [0, len(tags) - 1] if declared else [len(tags) - 1]
    values = tuple(None if node is None else index_of[node] for node in nodes)
    return _Marked(start, tags, texts, values, (*keys, *beside_root))
