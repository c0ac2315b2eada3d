"""A strict environment: implicit promotion of ranks and dtypes is an error."""

import os
from pathlib import Path
from unittest import mock

# The workers share the cores; NumPy's own threads would wait for each other. Read
# when NumPy is imported first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest
from jax._src import compiler  # no public name sets options for all that is compiled

from tests.helpers.commands import QUICK_OPTIONS

# Only a property's first example compiles, so that no deadline fits all examples.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile(
  "ci", hypothesis.settings.get_profile("default"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


# Module scope, because hypothesis refuses fixtures of function scope.
@pytest.fixture(autouse=True, scope="module")
def strict_promotion():
  jax.config.update("jax_numpy_rank_promotion", "raise")
  jax.config.update("jax_numpy_dtype_promotion", "strict")
  yield
  jax.config.update("jax_numpy_rank_promotion", "allow")
  jax.config.update("jax_numpy_dtype_promotion", "standard")


# Linux allows a process 65,530 mapped areas, and each compiled program takes some. The
# compiler crashes where none is left.
MOST_MAPPED = 25_000


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
  """Forgets compiled programs after a module if there are many."""
  yield
  areas = Path("/proc/self/maps")
  if areas.exists() and areas.read_text().count("\n") > MOST_MAPPED:
    jax.clear_caches()


@pytest.fixture
def float64():
  """Lets JAX compute in double precision for one test."""
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


@pytest.fixture
def standard_promotion():
  """Allows JAX's default promotion, which parts of optax and flax need."""
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def quick_compilation():
  """Compiles with few optimisations: for small arrays, where compilation dominates."""
  make_options = compiler.get_compile_options

  def quick_options(*args, **kwargs):
    options = make_options(*args, **kwargs)
    if not jax.config.read("jax_disable_most_optimizations"):
      return options
    options.env_option_overrides = [
      *QUICK_OPTIONS.items(),
      *options.env_option_overrides,
    ]
    return options

  jax.config.update("jax_disable_most_optimizations", True)
  with mock.patch.object(compiler, "get_compile_options", quick_options):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def usual_compilation(quick_compilation):
  """Compiles as usual in one test of a quick module, for memory or exact equality."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def quick_experiments(strict_promotion, quick_compilation):
  """Compiles experiments quickly and allows the promotion that Adam needs."""
  from benchmarks.experiments import model

  options = model.CPU_OPTIONS
  model.CPU_OPTIONS = options | QUICK_OPTIONS | {"xla_backend_optimization_level": 0}
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")
  model.CPU_OPTIONS = options
