"""Make a release: ``python tools/release.py VERSION``.

Writes the version where it stands, dates the change log, commits, tags, and builds the wheel, the
container images and the conda package of that commit into ``dist``. Nothing is published or pushed.
"""

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
VERSIONED = {
    "pyproject.toml": r'(?m)^(version = ")[^"]+',
    "compat/psss_processing/pyproject.toml": r'(?m)^(version = ")[^"]+',
    "deploy/psss/Containerfile": r'(skywright-psss:|image\.version=")\d[^\s"]*',
    "deploy/psss/skywright-psss@.service": r"(skywright-psss(?::|-kernels-))\d[^\s:]*",
    "deploy/psss/conda/meta.yaml": r'(set version = ")[^"]+',
    "deploy/epu/kubernetes/overlays/production/kustomization.yaml": r"(newTag: )\S+",
    "deploy/epu/kubernetes/overlays/staging/kustomization.yaml": r"(newTag: )\S+",
    "docs/how-to/install-without-network.md": r"(bundle/skywright-)\d[^-]*",
}
"""Files that state the version: what stands before it is the first group."""
BUILDS = ("wheel", "images", "conda")
"""Targets of the Makefile."""


class ReleaseError(Exception):
    """A release cannot be made; the text says why."""


def main() -> int:
    """Make a release; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("version", help="as 0.2.0")
    parser.add_argument(
        "--build", nargs="*", choices=BUILDS, default=BUILDS, help="what is built (all)"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        tag = prepare(options.root, options.version)
        sys.stdout.write(f"committed and tagged {tag}\n")
        for target in options.build:
            run(options.root, "make", target)
    except ReleaseError as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    sys.stdout.write(f"to publish it: git push origin HEAD {tag}\n")
    return 0


def prepare(root: Path, version: str) -> str:
    """Write a version into the files, date the change log, commit and tag.

    Parameters
    ----------
    root
        Top of the checkout.
    version
        As PEP 440 has it.

    Returns
    -------
    str
        The tag.

    Raises
    ------
    ReleaseError
        If it is no version or older than the present one, if files are changed, or if the change
        log has no heading for it. Nothing is changed then.
    """
    tag = f"v{version}"
    present = re.search(VERSIONED["pyproject.toml"], (root / "pyproject.toml").read_text())
    if present is None:
        raise ReleaseError("pyproject.toml: no version")
    before = present[0].removeprefix(present[1])
    try:
        if Version(version) < Version(before):
            raise ReleaseError(f"{version} is older than the present version, {before}")
    except InvalidVersion as error:
        raise ReleaseError(str(error)) from None
    if run(root, "git", "status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed; commit or stash them")
    if run(root, "git", "tag", "--list", tag):
        raise ReleaseError(f"the tag {tag} exists")
    texts = {name: written(root, name, version) for name in VERSIONED}
    texts["CHANGELOG.md"] = dated((root / "CHANGELOG.md").read_text(), version)
    for name, text in texts.items():
        (root / name).write_text(text)
    run(root, "git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    run(root, "git", "tag", "--annotate", tag, "--message", f"skywright {version}")
    return tag


def written(root: Path, name: str, version: str) -> str:
    """Return the text of a file with another version."""
    text, count = re.subn(
        VERSIONED[name], lambda found: found[1] + version, (root / name).read_text()
    )
    if not count:
        raise ReleaseError(f"{name}: no version is found there; see VERSIONED")
    return text


def dated(text: str, version: str) -> str:
    """Return the change log with today's date at the heading of a version."""
    heading = f"## {version} (unreleased)"
    if heading not in text:
        raise ReleaseError(f"CHANGELOG.md: no heading {heading!r}")
    return text.replace(heading, f"## {version} ({datetime.now(UTC):%Y-%m-%d})", 1)


def run(root: Path, *command: str) -> str:
    """Run a command in the checkout; return what it writes to stdout."""
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)}: exit status {done.returncode}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
