"""Sphinx configuration: Markdown pages and the API from numpydoc docstrings."""

from importlib import metadata

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
