"""Settings of the documentation, which ``make docs`` builds into docs/_build."""

import maxgnr_jax

project = "maxgnr_jax"
author = "The maxgnr_jax authors"
copyright = author
version = release = maxgnr_jax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# A reference that leads nowhere is a warning, and warnings are errors.
nitpicky = True
# Other libraries' documentation, which would have to be downloaded.
nitpick_ignore_regex = [(r"py:.*", r"(jax|jaxlib|optax|flax|numpy|collections)\..*")]
# Types in signatures that are no names of the library.
nitpick_ignore = [
  ("py:class", "ArrayTree"),
  ("py:class", "maxgnr_jax.aggregators._measured.Measured"),
  ("py:class", "maxgnr_jax._grads._task_grads.Losses"),
]

autosummary_imported_members = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # tests execute the notebooks

html_theme = "furo"
html_title = f"maxgnr_jax {release}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _is_field(app, what, name, obj, skip, options):
  """Skips the fields of named tuples, which their docstrings describe."""
  return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field")


def setup(app):
  """Called by Sphinx."""
  app.connect("autodoc-skip-member", _is_field)
