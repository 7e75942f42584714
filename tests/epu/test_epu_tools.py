"""validate, stat, slim, find-duplicates, format-xml, names and paths."""

import ctypes
import errno
import json
import os
import re
import shutil
import signal
import stat as stat_module
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from epu_trees import read_document, written
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from support import forked
from typer.testing import CliRunner

from skywright.instruments.epu import housekeeping, safe_xml
from skywright.instruments.epu.cli import app
from skywright.instruments.epu.format_xml import format_file, indented
from skywright.instruments.epu.names import Kind, recognize
from skywright.instruments.epu.paths import (
    atlas_candidates,
    atlas_relative,
    cygwin_path,
    map_path,
    micrograph_path,
)
from skywright.instruments.epu.scan import walk
from skywright.instruments.epu.twin.visit import plan_visit


@pytest.fixture
def session(tmp_path: Path) -> Path:
    root = written(plan_visit(seed=1, squares=4, imaged=2, holes=3), tmp_path / "data")
    return next(root.rglob("EpuSession.dm")).parent


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_valid_session(session):
    result = run("validate", session, "--json", "--deep")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"valid": True, "errors": [], "warnings": []}


def test_all_errors_are_listed(session, tmp_path):
    (session / "EpuSession.dm").unlink()
    (session / "Metadata").rename(tmp_path / "elsewhere")
    (session / "Images-Disc1").rename(session / "Images-Disc0")
    result = run("validate", session, "--json")
    assert result.exit_code == 1
    errors = json.loads(result.stdout)["errors"]
    assert len(errors) == 3
    (session / "Images-Disc0").rename(session / "Images")
    assert "no directory Images-Disc" in run("validate", session).stdout


def test_a_visit_is_no_session_and_its_sessions_are_named(session):
    result = run("validate", session.parent, "--json")
    assert result.exit_code == 1
    (warning,) = json.loads(result.stdout)["warnings"]
    assert session.name in warning


def test_a_directory_beside_a_session_may_be_closed(session, close_directory):
    (session.parent / "closed").mkdir()
    close_directory(session.parent / "closed")
    (warning,) = json.loads(run("validate", session.parent, "--json").stdout)["warnings"]
    assert warning.endswith(f": {session.name}")


def test_usage_error(tmp_path):
    from skywright.errors import ConfigError

    assert isinstance(run("validate", tmp_path / "absent").exception, ConfigError)


def test_deep_warnings(session):
    (session / "notes.docx").write_text("x")
    (session / "Images-Disc1" / "x.tmp").write_text("x")
    next((session / "Metadata").glob("*.dm")).write_bytes(b"<")
    big = max((session / "Metadata").glob("*.dm"), key=lambda path: path.stat().st_size)
    text = big.read_text()
    start = text.index("<b:KeyValuePair")
    end = text.index("</b:KeyValuePairOfintTargetLocationXmlBpEWF4JT>") + 47
    big.write_text(text[:end] + text[start:end] + text[end:])
    for path in session.rglob("FoilHoles/*.xml"):
        path.unlink()
    session.rename(session.with_name("other"))
    result = run("validate", session.with_name("other"), "--deep", "--json")
    assert result.exit_code == 0
    warnings = " | ".join(json.loads(result.stdout)["warnings"])
    for words in ("session's name", "1 unreadable", "more than once", "1 files of unknown kind"):
        assert words in warnings


def test_every_imaged_square_without_metadata_is_counted(session):
    """Whichever of its images there are, and also where a manifest has no time."""
    first, second = sorted(session.glob("Images-Disc*/GridSquare_*"))
    for square in (first, second):
        (session / "Metadata" / f"{square.name}.dm").unlink()
    next(first.glob("*.xml")).unlink()  # left are its holes and micrographs
    manifest = next(second.glob("*.xml"))
    time = rb"<acquisitionDateTime>[^<]*<"
    manifest.write_bytes(re.sub(time, b"<acquisitionDateTime>soon<", manifest.read_bytes()))
    warnings = json.loads(run("validate", session, "--deep", "--json").stdout)["warnings"]
    number = min(first.name, second.name).partition("_")[2]
    assert f"2 imaged grid squares without .dm; first: {number}" in warnings


def test_stat_and_slim(session):
    image = session / "Images-Disc1" / "a.JPG"
    image.write_bytes(b"x" * 1000)
    (session / "b_Fractions.mrc").write_bytes(b"x" * 10_000_000)
    kinds = json.loads(run("stat", session, "--json").stdout)["kinds"]
    assert kinds[0] == {"kind": "movie", "files": 1, "bytes": 10_000_000}
    assert {"kind": "image .jpg", "files": 1, "bytes": 1000} in kinds
    before = read_document(session)
    dry = json.loads(run("slim", session, "--dry-run", "--json").stdout)
    assert (dry["bytes"], image.stat().st_size) == (10_001_000, 1000)
    assert json.loads(run("slim", session, "--json").stdout)["files"] == dry["files"]
    assert image.stat().st_size == 0
    assert read_document(session) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stat_watch_shows_new_files_until_it_is_told_to_end(session, number):
    command = [sys.executable, "-m", "skywright.cli", "epu", "stat", str(session), "--json"]
    process = forked.start(
        [*command, "--watch", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        first = json.loads(process.stdout.readline())["kinds"]
        assert not any(kind["kind"] == "image .png" for kind in first)
        (session / "late.png").write_bytes(b"x" * 1000)
        wanted = {"kind": "image .png", "files": 1, "bytes": 1000}
        assert any(wanted in json.loads(line)["kinds"] for line in process.stdout)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("tool", ["stat", "slim", "find-duplicates", "format-xml -r"])
def test_tools_name_a_directory_that_cannot_be_listed(session, monkeypatch, tool):
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "Metadata":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    result = run(*tool.split(), session)
    assert result.exit_code == (tool == "format-xml -r")
    assert "Metadata: Permission denied" in result.stderr
    assert result.stdout
    assert tool != "stat" or "micrograph" in result.stdout


def test_slim_goes_on_past_a_file_that_may_not_be_looked_at(session, close_directory):
    for name in ("closed", "open"):
        (session / name).mkdir()
        (session / name / "a.mrc").write_bytes(b"1234")
    close_directory(session / "closed")
    result = run("slim", session, "--json")
    assert "closed/a.mrc: Permission denied" in result.stderr
    files = json.loads(result.stdout)["files"]
    assert ("open/a.mrc" in files, "closed/a.mrc" in files) == (True, False)


def test_stat_goes_on_past_a_file_that_may_not_be_looked_at(session, monkeypatch):
    """As where a directory may be listed and not entered."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    def listed(*arguments):
        return [("closed.mrc", SimpleNamespace(stat=refuse)), *walk(*arguments)]

    monkeypatch.setattr(housekeeping, "walk", listed)
    result = run("stat", session, "--json")
    assert "closed.mrc: Permission denied" in result.stderr
    assert "micrograph" in [kind["kind"] for kind in json.loads(result.stdout)["kinds"]]


def test_find_duplicates(session):
    path = next(session.rglob("FoilHoles/*.xml"))
    hole = path.name.split("_")[1]
    path.with_name(f"FoilHole_{hole}_20300101_000000.xml").write_bytes(path.read_bytes())
    found = json.loads(run("find-duplicates", session, "--json").stdout)["duplicates"]
    mine = next(each for each in found if each["foilhole"] == hole)
    assert mine["session"] == "."
    assert mine["files"][-1].endswith("20300101_000000.xml")
    assert f"{len(found)} foil holes" in run("find-duplicates", session).stdout


@pytest.mark.parametrize(
    "name",
    [
        ".FoilHole_1_20250101_000000.xml.Ab12Cd",
        "FoilHole_1_20250101_000000.xml.part",
        "xFoilHole_1_20250101_000000.xml",
        "FoilHole_1_20250101_000000.jpg",
        "FoilHole_\N{ARABIC-INDIC DIGIT ONE}_20250101_000000.xml",
        "FoilHole_1_Data_2_3_20250101_000000_Fractions.xml",
    ],
)
def test_names_of_no_kind(name):
    assert recognize(f"v/s/Images-Disc1/GridSquare_5/FoilHoles/{name}") is None


def test_recognized_names():
    file = recognize("v/s/Images-Disc2/GridSquare_5/Data/FoilHole_1_Data_2_3_20250101_000000.xml")
    assert file is not None
    assert (file.kind, file.session, file.gridsquare, file.foilhole, file.location) == (
        Kind.MICROGRAPH, "v/s", "5", "1", "2",
    )  # fmt: skip
    assert recognize("Metadata/GridSquare_7.dm").session == ""
    assert recognize("real-Atlas/Atlas.dm") is None


@given(st.text(max_size=60))
def test_any_path_is_recognized_or_not(path):
    recognize(path)


def test_paths():
    assert cygwin_path("Z:\\Dose\\\\a\\b") == "/cygdrive/z/Dose/a/b"
    assert cygwin_path(r"\\host\share\a") == "/host/share/a"
    assert cygwin_path(None) is None
    assert atlas_relative(r"Z:\D\v\atlas\A.dm", r"Z:\D\v") == "atlas/A.dm"
    assert atlas_relative(r"Y:\D\A.dm", r"Z:\D\v") == "/cygdrive/y/D/A.dm"
    assert atlas_candidates("v/s", "../../x") == []
    assert atlas_candidates("v/s", "atlas/A.dm")[0] == "v/atlas/A.dm"
    prefixes = {"Z:\\D": "/data", "Z:\\D\\v": "/visit", r"\\host\share": "/net"}
    assert map_path(r"z:\D\v\a.mrc", prefixes) == "/visit/a.mrc"
    assert map_path(r"Z:\D\w\a.mrc", prefixes) == "/data/w/a.mrc"
    assert map_path(r"\\host\share\a", prefixes) == "/net/a"
    assert map_path(r"Z:\Dx\a", prefixes) is None
    assert map_path("/cygdrive/z/D/v/a.mrc", prefixes) == "/visit/a.mrc"
    assert map_path("/cygdrive/z/D", {"/cygdrive/Z/d/": "/data/"}) == "/data"
    assert map_path(None, prefixes) is None
    for directory in ("s", "v/s", "metadata_s"):
        assert micrograph_path("/cygdrive/z/v", directory, f"{directory}/D/f.xml") == (
            "/cygdrive/z/v/s/D/f.xml"
        )


def test_paths_with_a_letter_that_is_longer_in_lower_case():
    dotted = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"
    assert len(dotted.lower()) == 2
    for prefix in (f"Z:\\{dotted}s", f"z:\\{dotted.lower()}s"):
        for path in (f"Z:\\{dotted}s\\x.mrc", f"Z:\\{dotted.lower()}S\\x.mrc"):
            assert map_path(path, {prefix: "/dls/m02"}) == "/dls/m02/x.mrc"
            assert atlas_relative(path, prefix) == "x.mrc"
        assert map_path(prefix, {prefix: "/dls/m02"}) == "/dls/m02"
        assert map_path(f"Z:\\{dotted}", {prefix: "/dls/m02"}) is None


def canonical(data: bytes) -> list[tuple]:
    """What a document says: names, attributes and texts without blanks at both ends."""
    root = etree.fromstring(data)
    return [
        (
            str(node.tag),
            dict(node.attrib),
            *((text or "").strip(" \t\r\n") for text in (node.text, node.tail)),
        )
        for node in root.iter()
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"<a><b>x</b><c/></a>",
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\r\n<a><b>\xc3\xa5</b></a>',
        b'<?xml version="1.0" encoding="iso-8859-1"?><a><b>\xe5</b></a>',
        b"<a><b>one <i>two</i> three</b><c><d/></c></a>",
        b'<a><b xml:space="preserve"><c/> <d/></b></a>',
        b"<a><!-- note --><b><![CDATA[<x>]]></b></a>",
        b'<p:a xmlns:p="urn:x"><p:b q="1&#10;2">  keep  inner  </p:b></p:a>',
        '<?xml version="1.0" encoding="utf-16"?><a><b>å</b></a>'.encode("utf-16"),
        "<a><b>å</b></a>".encode("utf-16"),
        b"\xfe\xff" + "<a><b>å</b></a>".encode("utf-16-be"),
        '<?xml version="1.0" encoding="utf-32"?><a><b>å</b></a>'.encode("utf-32"),
        "<a>\xa0<b/>\u2003</a>".encode(),
    ],
)
def test_indenting_keeps_the_meaning(data):
    new = indented(data)
    assert canonical(new) == canonical(data)
    assert indented(new) == new
    assert new.startswith(data[:3]) or data[:3] != b"\xef\xbb\xbf"
    for kept in (b"one <i>two</i> three", b"<c/> <d/>", b"<![CDATA[<x>]]>", b"  keep  inner  "):
        assert (kept in data) == (kept in new)


def test_format_xml_command(session):
    path = next(session.rglob("Data/*.xml"))
    owner = os.getuid() or 12345  # root, as which containers run, can give files away
    os.chown(path, owner, -1)
    path.chmod(0o640)
    before = read_document(session)
    broken = session / "broken.xml"
    broken.write_bytes(b"<a>")
    old = path.read_bytes()
    assert run("format-xml", session, "-r", "-d").exit_code == 1
    assert path.read_bytes() == old
    result = run("format-xml", session, "-r", "-b")
    assert result.exit_code == 1
    assert "broken.xml" in result.output
    assert path.read_bytes().count(b"\n") > 100
    assert stat_module.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_uid == owner
    assert path.with_name(path.name + ".bak").read_bytes() == old
    broken.unlink()
    again = run("format-xml", session, "-r")
    assert (again.exit_code, again.output) == (0, "")
    (session / "empty").mkdir()
    nothing = run("format-xml", session / "empty")
    assert nothing.exit_code == 0
    assert "no .xml or .dm file; -r looks" in nothing.output
    assert read_document(session) == before


def test_format_xml_names_a_file_that_may_not_be_looked_at(session, tmp_path, close_directory):
    (session / "linked.xml").symlink_to(tmp_path / "closed" / "linked.xml")
    close_directory(tmp_path / "closed")
    result = run("format-xml", session, "-r")
    assert result.exit_code == 1
    assert "linked.xml" in result.output
    assert all(file.read_bytes().count(b"\n") > 100 for file in session.rglob("Data/*.xml"))


def test_a_full_disk_leaves_the_backup_of_before(session, monkeypatch):
    path = next(session.rglob("Data/*.xml"))
    old, backup = path.read_bytes(), path.with_name(path.name + ".bak")
    backup.write_bytes(b"of before")

    def copy_half(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", copy_half)
    with pytest.raises(OSError, match="No space left"):
        format_file(path, backup=True)
    assert (path.read_bytes(), backup.read_bytes()) == (old, b"of before")
    assert {file.name for file in path.parent.glob(f"*{path.name}*")} == {path.name, backup.name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("watch", "{session}", "--idle-exit", "0", "--events", "{session}"), "--events"),
        (("watch", "{session}", "--idle-exit", "0", "--log-file", "{session}"), "log file"),
        (("replay", "any.tar.gz", "{session}/EpuSession.dm"), "not a directory"),
        (("record", "{session}", "{session}/EpuSession.dm/out.tar.gz"), "EpuSession.dm"),
        (("serve", "--port", "99999"), "--port"),
        (("watch", "{session}", "--ca-file", "/none.pem"), "--ca-file needs --api-url"),
    ],
)
def test_bad_use_is_exit_status_2_and_names_the_option(session, arguments, message):
    command = [sys.executable, "-m", "skywright.cli", "epu"]
    command += [argument.format(session=session) for argument in arguments]
    result = forked.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


class CreateFile:
    """Windows' CreateFileW as far as Linux allows: it converts its arguments and keeps them.

    Whether Windows shares the file then is not tested here.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.calls: list[tuple] = []

    def __call__(self, *arguments):
        for kind, argument in zip(self.argtypes, arguments, strict=True):
            kind.from_param(argument)
        self.calls.append(arguments)
        return os.open(self.path, os.O_RDONLY) if self.path else self.restype(-1).value


@pytest.fixture
def windows(monkeypatch):
    """Let the reader of files take this system for Windows; call it with CreateFileW."""

    def use(create: CreateFile) -> None:
        library = {"kernel32": SimpleNamespace(CreateFileW=create)}
        runtime = SimpleNamespace(open_osfhandle=lambda handle, flags: handle)
        monkeypatch.setattr(safe_xml, "sys", SimpleNamespace(platform="win32"))
        monkeypatch.setitem(sys.modules, "msvcrt", runtime)
        for name, value in (
            ("WinDLL", lambda name, use_last_error: library[name]),
            ("WinError", lambda code: FileNotFoundError(code, "not found")),
            ("get_last_error", lambda: 2),
        ):
            monkeypatch.setattr(ctypes, name, value, raising=False)

    return use


def test_windows_opens_files_so_that_they_can_be_renamed_and_removed(tmp_path, windows):
    path = tmp_path / "a.xml"
    path.write_text("<a/>")
    create = CreateFile(path)
    windows(create)
    assert safe_xml.read_limited(path, 100) == b"<a/>"
    generic_read, share_all, open_existing = 0x80000000, 7, 3
    assert create.calls == [(str(path), generic_read, share_all, None, open_existing, 0, None)]


def test_an_error_of_windows_names_the_file(tmp_path, windows):
    windows(CreateFile(None))
    with pytest.raises(FileNotFoundError) as caught:
        safe_xml.read_limited(tmp_path / "none.xml", 100)
    assert caught.value.filename == str(tmp_path / "none.xml")


def test_a_message_repeats_only_the_beginning_of_a_long_name():
    with pytest.raises(safe_xml.XmlError, match="mismatch") as caught:
        safe_xml.parse_xml(b"<" + b"a" * 5000 + b"></b>")
    assert len(str(caught.value)) < 400


def test_the_reason_of_a_copy_that_is_half_zeros_is_one_line():
    with pytest.raises(safe_xml.XmlError) as caught:
        safe_xml.parse_xml(b"<a><b>" + bytes(20))
    assert caught.value.incomplete
    assert caught.value.reason.splitlines() == [caught.value.reason]
