"""Settings of the documentation, which ``make docs`` builds into docs/_build."""

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.ext import autosummary

import maxgnr_jax
from maxgnr_jax import aggregators

# Notebooks are pages too. Pages must lie in this folder.
HERE = Path(__file__).parent
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
  text = notebook.read_text().replace("](../docs/", "](../")
  (HERE / "notebooks" / notebook.name).write_text(text)

project = "maxgnr_jax"
author = "The maxgnr_jax authors"
copyright = author
version = release = maxgnr_jax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# A reference that leads nowhere is a warning, and warnings are errors.
nitpicky = True
# Other libraries' documentation, which would have to be downloaded.
nitpick_ignore_regex = [(r"py:.*", r"(jax|jaxlib|optax|flax|numpy|collections)\..*")]

autosummary_imported_members = True
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.",)  # which ends no sentence
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # docstrings describe types in words

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
nb_execution_mode = "off"  # tests execute the notebooks

html_theme = "furo"
html_title = f"maxgnr_jax {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_logo = html_favicon = "_static/logo.svg"
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Public name, also after the module's -> what the reference describes.
REFERENCE = {
  f"{prefix}{name}": f"{module.__name__}.{name}"
  for module, prefixes in ((aggregators, ("", "aggregators.")), (maxgnr_jax, ("",)))
  for prefix in prefixes
  for name in dir(module)
  if callable(getattr(module, name)) and not name.startswith("_")
}
# What a name in backticks is inside of if it is a link already, or should be none.
INSIDE = (nodes.reference, nodes.title, nodes.term, addnodes.pending_xref)
# A table's cell with at most a number, its spread or interval and a short remark.
NUMBERS = re.compile(r"[-+−±]?\d.{,24}")


def link_names(app, doctree):
  """Links public names in backticks to the reference."""
  for literal in list(doctree.findall(nodes.literal)):
    target = REFERENCE.get(literal.astext().partition("(")[0])
    if target and not isinstance(literal.parent, INSIDE):
      link = addnodes.pending_xref(
        "", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=target
      )
      link["refdoc"] = app.env.docname
      literal.replace_self(link)


def tell_numbers_from_words(app, doctree):
  """Gives the cells of a table a class, so that none is too narrow for its text."""
  for entry in doctree.findall(nodes.entry):
    text = entry.astext()
    if NUMBERS.fullmatch(text):
      entry["classes"].append("numbers")
    elif len(text) > 40:
      entry["classes"].append("words")


def mathml(as_block):
  """Returns a visitor that writes a formula as MathML, which needs no script."""

  def visit(translator, node):
    translator.body.append(tex2mathml(node.astext(), as_block=as_block))
    raise nodes.SkipNode

  return visit, None


def is_field(app, what, name, obj, skip, options):
  """Skips the fields of named tuples, which their docstrings describe."""
  return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field")


def setup(app):
  """Called by Sphinx."""
  app.add_html_math_renderer("mathml", mathml(False), mathml(True))
  app.connect("autodoc-skip-member", is_field)
  app.connect("doctree-read", link_names)
  app.connect("doctree-read", tell_numbers_from_words)
