"""A release: one version everywhere, a dated change log, a tag; images and packages are built."""

import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "release.py"
NEXT = "9.8.7"


def git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    done = subprocess.run(
        ["git", *who, *words], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def release(root: Path, version: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), version, "--root", str(root), "--build"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of the files that state a version."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    root = tmp_path / "skywright"
    for part in ("deploy", "compat", "docs/how-to"):
        shutil.copytree(ROOT / part, root / part)
    for file in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / file, root / file)
    log = root / "CHANGELOG.md"
    log.write_text(f"# Changelog\n\n## {NEXT} (unreleased)\n\n" + log.read_text())
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "before")
    return root


def test_a_release_writes_one_version_everywhere_and_tags_it(checkout: Path) -> None:
    before = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["version"]
    done = release(checkout, NEXT)
    assert done.returncode == 0, done.stderr
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "describe") == f"v{NEXT}"
    assert f"## {NEXT} ({datetime.now(UTC):%Y-%m-%d})" in (checkout / "CHANGELOG.md").read_text()
    stated = git(checkout, "grep", "--fixed-strings", "--files-with-matches", before).splitlines()
    # These show what a command printed, and the versions before this one.
    assert set(stated) <= {"CHANGELOG.md", "docs/how-to/session.md", "docs/how-to/up.md"}
    assert release(checkout, NEXT).returncode == 1  # twice


@pytest.mark.parametrize(
    ("version", "reason"),
    [("0.0.1", "older than the present version"), ("1.x", "Invalid version"), ("10.0", "heading")],
)
def test_a_release_that_cannot_be_made_changes_nothing(
    checkout: Path, version: str, reason: str
) -> None:
    done = release(checkout, version)
    assert done.returncode == 1
    assert reason in done.stderr
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "tag") == ""


def test_changes_that_are_not_committed_are_refused(checkout: Path) -> None:
    (checkout / "new.txt").write_text("")
    done = release(checkout, NEXT)
    assert done.returncode == 1
    assert "not committed" in done.stderr


def engine() -> str:
    """Return a container engine that answers; empty: there is none."""
    for name in ("podman", "docker"):
        if shutil.which(name):
            done = subprocess.run([name, "info"], capture_output=True, check=False)
            if not done.returncode:
                return name
    return ""


@pytest.mark.soak
def test_the_images_are_built() -> None:
    found = engine()
    if not found:
        pytest.skip("no container engine (podman, docker) answers on this machine")
    subprocess.run(["make", "images", f"ENGINE={found}"], cwd=ROOT, check=True)


@pytest.mark.soak
def test_the_conda_package_is_built() -> None:
    if not shutil.which("conda-build"):
        pytest.skip("conda-build is not installed on this machine")
    subprocess.run(["make", "conda"], cwd=ROOT, check=True)
