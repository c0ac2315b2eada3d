"""The problems of the experiments, by the name that the command line takes."""

import importlib
from typing import Any

# Name -> what `python -m benchmarks.experiments --help` says of it.
PROBLEMS = {
  "digits": "four unlike tasks on pairs of handwritten digits, which need no files",
  "fashion": "the same tasks on pairs of Fashion-MNIST images, from an .npz file",
  "scm20d": "16 regressions on a table of a supply chain's prices, from an .arff file",
  "tox21": "12 binary tasks on molecules, with missing labels, from an .npz file",
  "scenes": "segmentation, depth and normals of NYUv2, Cityscapes or rendered rooms",
  "helmholtz": "a physics-informed network: an equation and its boundary, no files",
  "klein-gordon": "the same for a nonlinear wave, with a start besides, no files",
  "burgers": "the same for a wave that becomes a shock, no files",
}
# Name -> module, of those that have no folder of their own.
_MODULES = {
  "helmholtz": "pinn.helmholtz",
  "klein-gordon": "pinn.klein_gordon",
  "burgers": "pinn.burgers",
}


def load(name: str) -> Any:
  """Imports the module of a problem: its ``SETTINGS``, ``make_problem``, ``reference``.

  Only the problem that is asked for is imported, so that the others' libraries cost no
  time.
  """
  module = _MODULES.get(name, f"{name}.problem")
  return importlib.import_module(f"{__name__}.{module}")
