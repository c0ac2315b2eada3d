"""Named sets of rows, which stand for several methods on the command line."""

from collections.abc import Iterable

from benchmarks.methods import FIXED_WEIGHTS, METHODS

_WITHOUT_HEADS = (
  "maxgnr-0",
  "maxgnr-0.5",
  "maxgnr-0.9",
  "maxgnr-0.97",
  "maxgnr-0.9-smoothed-0.9",
  "maxgnr-0.9-smoothed-0.99",
)
_SHORT = (
  "equal-weights",
  FIXED_WEIGHTS,
  *_WITHOUT_HEADS,
  "maxgnr-0.9-own-heads",
  "maxgnr-0.9-smoothed-0.9-own-heads",
  "maxgnr-0.9-sketch-127-smoothed-0.9-own-heads",
  "maxgnr-0.9-last-layer-smoothed-0.9",
  # The momentum's memory is γ per measured step: as it is, and of as many steps.
  "maxgnr-0.9-every-4",
  "maxgnr-0.66-every-4",
  "maxgnr-0.9-paper-solver",
  "uncertainty",
  "imtl-l",
  "slaw",
  "imtl-g",
  "imtl-g-smoothed-0.9-own-heads",
  "nash-mtl",
  "gradnorm",
  "fairgrad-2",
  "mgda",
  "ngdiff",
  "dibs-mtl",
)

# Name -> rows.
SETS = {
  # MaxGNR as in the paper and steadied, equal weights and two strong rivals.
  "few": (
    "equal-weights",
    "maxgnr-0.9",
    "maxgnr-0.9-smoothed-0.9-own-heads",
    "slaw",
    "uncertainty",
  ),
  # The paper's tables 2 and 3.
  "paper": (
    "equal-weights",
    "dwa",
    "uncertainty",
    "gradnorm",
    "mgda",
    "pcgrad",
    "maxgnr-0.5",
    "maxgnr-0.9",
  ),
  # What is compared on every problem of benchmarks/evidence, and more where a run
  # takes little time.
  "evidence-short": _SHORT,
  "evidence": (
    *_SHORT,
    "maxgnr-0.9-smoothed-0.99-own-heads",
    "maxgnr-0.9-sketch-1021",
    "maxgnr-0.9-last-layer",
    "maxgnr-0.9-every-16",
    "maxgnr-0.19-every-16",
    "cagrad",
    "gls",
    "pcgrad",
    "dwa",
    "modo",
    "gradient-norm-scaling",
  ),
  # The same for the physics-informed networks, which have no heads.
  "equations": (
    "equal-weights",
    FIXED_WEIGHTS,
    *_WITHOUT_HEADS,
    "uncertainty",
    "imtl-g",
    "nash-mtl",
    "config",
    "jaxpi-grad-norm",
    # The same with updates of one length, as those of Nash-MTL always are.
    *(
      f"{name}-unit-length"
      for name in (
        "equal-weights",
        "maxgnr-0",
        "maxgnr-0.5",
        "maxgnr-0.9",
        "maxgnr-0.9-smoothed-0.9",
        "imtl-g",
      )
    ),
  ),
  "all": tuple(METHODS),
}


def expand(names: Iterable[str]) -> tuple[str, ...]:
  """Replaces the names of sets by their rows; each row comes once."""
  return tuple(dict.fromkeys(row for name in names for row in SETS.get(name, (name,))))
