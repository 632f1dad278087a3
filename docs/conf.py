"""Sphinx configuration. Pages about tasks and methods are written by `_methods.py` while building."""

import os
import sys
from pathlib import Path

import scdance

sys.path.insert(0, str(Path(__file__).parent))

project = "scdance"
author = "The scdance developers"
copyright = f"2026, {author}"
version = release = scdance.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "myst_nb",
    "_methods",
]
exclude_patterns = ["_build", "leaderboard/tables", "**.ipynb_checkpoints"]
# A generated page may start below the first level; a leaderboard that somebody has written about has no plain page.
suppress_warnings = ["myst.header", "toc.empty_glob"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["When to use", "When not", "Differs from the paper", "What is returned"]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode = "force"  # the tutorials are kept without outputs and run in every build
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds of a cell
nb_merge_streams = True
# For the tutorials: one thread, which gives the same numbers everywhere, and no word about what others import.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found,ignore::SyntaxWarning:docrep.decorators"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

if os.environ.get("READTHEDOCS"):  # elsewhere the inventories of other projects may be out of reach
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "torch": ("https://pytorch.org/docs/stable", None),
    }

html_theme = "sphinx_book_theme"
html_title = "scdance"
html_theme_options = {"show_navbar_depth": 2}
