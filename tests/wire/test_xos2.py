"""xos messages, in whatever pieces they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright.errors import DataError
from skywright.wire.xos2 import (
    NOTE_BYTES_MAX,
    TEXT_BYTES_MAX,
    Message,
    MessageParser,
    client_is_hardware,
    encode,
    harmless,
    note,
    operation_completed,
    operation_update,
    split_words,
)

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
texts = st.lists(words, min_size=1, max_size=8).map(" ".join).filter(lambda t: not t[0].isdigit())


def parse(data: bytes, size: int = 1 << 20) -> list[Message]:
    parser = MessageParser()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return [message for piece in pieces for message in parser.feed(piece)]


def test_layouts_are_those_that_dcss_knows() -> None:
    assert encode("htos_note hi", 2) == b"          14            0 htos_note hi \0"
    first = encode(client_is_hardware("loopDHS"), 1)
    assert len(first) == 200
    assert first.rstrip(b"\0") == b"htos_client_is_hardware loopDHS"


@pytest.mark.parametrize("layout", [1, 2])
def test_no_blanks_around_a_text(layout: int) -> None:
    assert encode(" htos_note hi ", layout) == encode("htos_note hi", layout)


def test_what_follows_the_first_nul_is_garbage() -> None:
    old = b"stoc_send_client_type\n\0rest of the buffer".ljust(200, b"x")
    assert parse(old) == [Message("stoc_send_client_type", 1)]
    assert parse(b"%12d%12d \0stoh_x\n\0garbage" % (15, 0)) == [Message("stoh_x", 2)]


@pytest.mark.parametrize("end", [b" ", b"\0"])
def test_byte_26_is_a_blank_or_nul_and_binary_parts_are_dropped(end: bytes) -> None:
    message = b"%12d%13d" % (8, 5) + end + b"stoh_a \0" + b"\0\1\2\3\4"
    assert parse(message * 2, 3) == [Message("stoh_a", 2)] * 2


@given(st.lists(st.tuples(texts, st.sampled_from([1, 2]))), st.integers(1, 300))
def test_pieces_do_not_matter(sent: list[tuple[str, int]], size: int) -> None:
    data = b"".join(encode(text, layout) for text, layout in sent)
    assert parse(data, size) == [Message(*each) for each in sent]


@given(st.lists(st.binary(max_size=400)))
def test_no_bytes_break_the_parser(pieces: list[bytes]) -> None:
    parser = MessageParser()
    for piece in pieces:
        try:
            for message in parser.feed(piece):
                split_words(message.text)
        except DataError:
            return


@pytest.mark.parametrize(
    "header", [b"9" * 26, b"12 x".ljust(26), b"12".ljust(26), b"1 2 3".ljust(26), b"1 9999999999 "]
)
def test_a_header_that_cannot_be_one_is_said_after_what_came_before(header: bytes) -> None:
    parser = MessageParser()
    got: list[Message] = []
    with pytest.raises(DataError, match="lengths of text and binary"):
        got.extend(parser.feed(encode("stoh_a", 2) + header.ljust(26)))
    assert got == [Message("stoh_a", 2)]


def test_over_long_messages_are_refused() -> None:
    longest = "x" * (TEXT_BYTES_MAX - 2)
    assert parse(encode(longest, 2)) == [Message(longest, 2)]
    assert len(encode("x" * 199, 1)) == 200
    for text, layout in (
        (longest + "x", 2),
        ("x" * 200, 1),
        ("\N{GREEK CAPITAL LETTER OMEGA}", 2),
        ("a\0b", 2),
    ):
        with pytest.raises(DataError):
            encode(text, layout)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("a {} {b c} {d {e f}}", ["a", "", "b c", "d {e f}"]),
        ("a {b c", ["a", "{b", "c"]),
        ("a} b{c", ["a}", "b{c"]),
        ("", []),
    ],
)
def test_words_are_split_as_tcl_does(text: str, expected: list[str]) -> None:
    assert split_words(text) == expected


@pytest.mark.parametrize(("text", "word"), [("{ ", "{"), ("{}", "")])
def test_the_time_for_many_braces_grows_with_the_length(text: str, word: str) -> None:
    """A message may have a megabyte: a search from each brace to the end would take hours."""
    assert split_words(text * 300_000) == [word] * 300_000


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("layout", [1, 2])
def test_a_name_that_is_not_ascii_comes_back_byte_for_byte(coding: str, layout: int) -> None:
    name = "größe_à".encode(coding)  # à is c3 a0 in UTF-8, and a0 alone is a kind of blank
    text = b"stoh_start_operation " + name + b" 1.14 x"
    sent = text.ljust(200, b"\0") if layout == 1 else b"%12d%13d %s \0" % (len(text) + 2, 0, text)
    (message,) = parse(sent)
    _, asked, *rest = split_words(message.text)
    assert rest == ["1.14", "x"]
    reply = encode(operation_completed(asked, "1.14", "normal"), layout)
    assert b"htos_operation_completed " + name + b" 1.14 normal" in reply


def test_replies() -> None:
    assert operation_update("a", "1.2", "go on") == "htos_operation_update a 1.2 go on"
    assert operation_completed("a", "1.2", "normal 3") == "htos_operation_completed a 1.2 normal 3"


@given(st.text(max_size=500))
def test_words_for_people_are_harmless_and_short(text: str) -> None:
    line = note(text)
    assert len(line) <= NOTE_BYTES_MAX
    assert not set(line) & set('[]{}"$;\\\n\0')
    encode(line, 1)
    assert harmless("a [b]\n{c}  $d") == "a (b) (c) d"
