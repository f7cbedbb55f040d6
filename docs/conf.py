"""Sphinx: how the site is built. ``bash .ci/docs`` builds it, with warnings as errors."""

import sys
from pathlib import Path

from resnet_jax import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "resnet_jax"
author = "the authors of resnet_jax"
copyright = "the authors of resnet_jax; licence Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "generated",  # _ext/generated.py: pages of results, of the API and of the command line; links out of docs/
]
exclude_patterns = ["_build", "_ext", "_generated"]
nitpicky = False
suppress_warnings: list[str] = []

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline", "attrs_block"]
smartquotes = False  # --help is two hyphens
myst_heading_anchors = 4
myst_links_external_new_tab = False

# docstrings: Google style, reStructuredText within
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
autosummary_generate = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
default_role = "code"
add_module_names = False
toc_object_entries_show_parents = "hide"

# pages
html_theme = "furo"
html_title = f"resnet_jax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True}
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "tango"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go"

# Links within the site are checked by the build itself; other hosts cannot be reached from where it is built and only
# the form of their addresses is checked (tests/test_docs.py).
linkcheck_ignore = [r"https?://.*"]
linkcheck_anchors = True
