"""The quick reader of manifests gives what a full parse gives, whatever the file."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.instruments.epu import fields as table
from skywright.instruments.epu.extract import RepeatedReader, convert_all
from skywright.instruments.epu.parse import parse_atlas, parse_micrograph, parse_session
from skywright.instruments.epu.safe_xml import XmlError, parse_xml, text_of
from skywright.instruments.epu.twin.templates import atlas_xml, session_xml
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import visit_files

MICROGRAPHS = [
    write.content
    for write in visit_files(plan_visit(squares=2, imaged=1, holes=3))
    if "/Data/" in write.path
]


def in_full(data: bytes):
    reader = RepeatedReader(table.MICROGRAPH_FIELDS, lambda root: None)
    root = parse_xml(data)
    return convert_all(reader.fields, [text_of(node) for node in reader.nodes(root)])


def outcome(read, data):
    try:
        return read(data)
    except XmlError as error:
        return type(error)


def warm_reader() -> RepeatedReader:
    reader = RepeatedReader(table.MICROGRAPH_FIELDS, lambda root: None)
    for data in MICROGRAPHS[:3]:
        reader.read_bytes(data)
    return reader


def test_similar_files_are_read_without_a_full_parse(monkeypatch):
    reader = RepeatedReader(table.MICROGRAPH_FIELDS, lambda root: None)
    parsed = []

    def parse(data):
        parsed.append(data)
        return parse_xml(data)

    monkeypatch.setattr("skywright.instruments.epu.extract.parse_xml", parse)
    expected = [in_full(data) for data in MICROGRAPHS]
    for data in [each for each in MICROGRAPHS for _ in range(2)]:
        assert reader.read_bytes(data) == expected[MICROGRAPHS.index(data)]
    assert len(parsed) < 8  # each file that differs in a new place is learned
    parsed.clear()
    assert [reader.read_bytes(data) for data in MICROGRAPHS] == expected
    assert parsed == []


def test_files_that_differ_everywhere_are_read_too():
    """Neither many layouts nor many slots change what is read."""
    rng = random.Random(1)
    reader = RepeatedReader(table.MICROGRAPH_FIELDS, lambda root: None)
    for number in range(60):
        data = MICROGRAPHS[number % len(MICROGRAPHS)]
        if number % 2:  # a markup of its own
            data = data.replace(b"<Defocus>", b"<Defocus kept='%d'>" % number)
        else:
            data = re.sub(rb">([0-9.]+)<", lambda _: b">%d<" % rng.randrange(10**6), data)
        assert outcome(reader.read_bytes, data) == outcome(in_full, data)


def test_an_instruction_inside_a_value_is_never_taken_for_plain_text():
    reader = warm_reader()
    for text in (b"1<?a?>", b"1<?a?>2", b"1<?a?>", b"3<?a?>4"):
        data = re.sub(rb"<Defocus>[^<]*<", b"<Defocus>" + text + b"<", MICROGRAPHS[0])
        assert reader.read_bytes(data) == in_full(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_give_the_same_values_or_the_same_error(data):
    content = bytearray(data.draw(st.sampled_from(MICROGRAPHS[:6])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.sampled_from(
                [
                    b"",
                    b"<",
                    b">",
                    b"&",
                    b"&amp;",
                    b"<!--x-->",
                    b"<![CDATA[1]]>",
                    b"\x00",
                    b"\xc3",
                    b"\xc3\xa5",
                    b"\r\n",
                    b"\r",
                    b" ",
                    b"</a>",
                    b"<a/>",
                    b"<?p?>",
                    b"]]>",
                    b"\x01",
                ]
            )
        )
        width = data.draw(st.integers(0, 3))
        content[at : at + width] = piece
    damaged = bytes(content)
    assert outcome(warm_reader().read_bytes, damaged) == outcome(in_full, damaged)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_text_in_any_place(data):
    content = data.draw(st.sampled_from(MICROGRAPHS[:6]))
    places = [match.span(1) for match in re.finditer(rb">([^<]*)<", content)]
    start, end = data.draw(st.sampled_from(places))
    text = data.draw(st.text(max_size=8)).encode("utf-8", "surrogatepass")
    changed = content[:start] + text + content[end:]
    assert outcome(warm_reader().read_bytes, changed) == outcome(in_full, changed)


@pytest.mark.parametrize("change", [b"\xef\xbb\xbf", b"  \n", b"x", b"<!-- a -->"])
def test_what_stands_before_and_after_the_root(change):
    reader = warm_reader()
    for data in (change + MICROGRAPHS[0], MICROGRAPHS[0] + change):
        for _ in range(2):  # the second time with a layout of its own, if it has one
            assert outcome(reader.read_bytes, data) == outcome(in_full, data)


def test_order_of_the_dictionary_is_free():
    data = MICROGRAPHS[0].decode()
    pair = r"<a:KeyValueOfstringanyType>.*?</a:KeyValueOfstringanyType>"
    head, custom, tail = re.split(r"(<CustomData.*?</CustomData>)", data)
    pairs = re.findall(pair, custom)
    reader = warm_reader()
    expected = in_full(MICROGRAPHS[0])
    for seed in range(20):
        random.Random(seed).shuffle(pairs)
        body = re.sub(r">.*<", lambda _: ">" + "".join(pairs) + "<", custom, flags=re.DOTALL)
        assert reader.read_bytes((head + body + tail).encode()) == expected


def test_prefixes_do_not_matter():
    data = MICROGRAPHS[0].decode().replace("a:", "q:").replace(":a=", ":q=")
    assert parse_micrograph(data.encode()) == parse_micrograph(MICROGRAPHS[0])


def test_pretty_printed_and_nil():
    from skywright.instruments.epu.format_xml import indented

    data = indented(MICROGRAPHS[0])
    assert data.count(b"\n") > 100
    assert parse_micrograph(data) == parse_micrograph(MICROGRAPHS[0])
    assert parse_micrograph(data.replace(b"\n", b"\r\n")) == parse_micrograph(MICROGRAPHS[0])
    nil = re.sub(rb"<Defocus>.*?</Defocus>", b'<Defocus i:nil="true"/>', MICROGRAPHS[0])
    for _ in range(2):
        assert parse_micrograph(nil)[0].defocus is None
    for text in (b"true", b"1"):  # whatever else the element holds
        nil = MICROGRAPHS[0].replace(b"<Defocus>", b'<Defocus i:nil="' + text + b'">')
        for number in range(3):  # the last time by the layout that is learned
            other = nil.replace(b"</Defocus>", b"%d</Defocus>" % number)
            assert parse_micrograph(other)[0].defocus is None
    for text in (b"false", b"0"):  # XML Schema's other booleans
        not_nil = MICROGRAPHS[0].replace(b"<Defocus>", b'<Defocus i:nil="' + text + b'">')
        for _ in range(3):  # the last time by the layout that is learned
            assert parse_micrograph(not_nil) == parse_micrograph(MICROGRAPHS[0])
    absent = re.sub(rb"<Defocus>.*?</Defocus>", b"", MICROGRAPHS[0])
    assert parse_micrograph(absent)[0].defocus is None


def test_false_is_not_nil_in_sessions_and_atlases():
    tiles = atlas_xml(1, "2025-01-29T09:00:00.0000000+00:00", "Z:\\v", 1, {(0, 0, 9, 9): []})
    assert len(parse_atlas(tiles.replace(b"<TileXml>", b'<TileXml i:nil="false">')).tiles) == 1
    place = session_xml(1, "n", "2025-01-29T09:00:00.0000000+00:00", "Z:\\v", "Z:\\v\\A.dm")
    for name in (b"StorageFolderXml ", b"SampleXml "):
        place = place.replace(b"<" + name + b"z:", b"<" + name + b'i:nil="0" z:')
    session = parse_session(place)
    assert (session.storage_path, session.atlas_path) == ("Z:\\v", "Z:\\v\\A.dm")


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_the_first_and_the_last_year_of_dotnet_are_no_time(year):
    assert table.time(f"{year}-12-31T23:59:59.9999999") is None


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (table.number, "1_0", None),
        (table.number, " 1e-6 ", 1e-6),
        (table.integer, "1_000", None),
        (table.integer, "2.0", 2),
        (table.integer, "2.5", None),
        (table.integer, str(2**31 - 1), 2**31 - 1),
        (table.integer, str(2**31), None),
        (table.long_integer, str(-(2**63)), -(2**63)),
        (table.long_integer, str(2**63), None),
        (table.time, "2024-02-30T00:00:00", None),
        (table.boolean, "yes", None),
    ],
)
def test_values_that_are_not_of_their_type_are_refused(convert, text, value):
    if value is not None:
        assert convert(text) == value
        return
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        convert(text)


@pytest.mark.parametrize("name", [b"uniqueID", b"acquisitionDateTime"])
def test_required_values(name):
    data = re.sub(b"<" + name + b">.*?</" + name + b">", b"", MICROGRAPHS[0])
    with pytest.raises(XmlError, match="missing"):
        parse_micrograph(data)


def test_blanks_around_a_text_do_not_matter():
    data = re.sub(rb">([^<>\n]+)</", rb">\n  \1\n</", MICROGRAPHS[0])
    assert parse_micrograph(data) == parse_micrograph(MICROGRAPHS[0])
