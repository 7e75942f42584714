"""Sphinx configuration: Markdown pages and the API from numpydoc docstrings."""

import os
import tempfile
import types
from importlib import metadata
from pathlib import Path
from typing import Any

# The module that ASGI servers import opens a database.
os.environ["SKYWRIGHT_EPU_DATABASE"] = str(Path(tempfile.mkdtemp()) / "epu.sqlite")

project = "skywright"
author = "the skywright developers"
release = version = metadata.version("skywright")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "alabaster"

autosummary_generate = True
numpydoc_show_class_members = False
myst_heading_anchors = 3
nitpicky = False


def skip(app: Any, what: str, name: str, found: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out aliases of types, which sphinx takes for classes."""
    return True if isinstance(found, types.GenericAlias) else None


def setup(app: Any) -> None:
    """Connect `skip`."""
    app.connect("autodoc-skip-member", skip)
