"""A strict environment: what JAX would let pass in silence fails here."""

import os
from unittest import mock

# The workers share the cores; NumPy's own threads would wait for each other. Read
# when NumPy is imported first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest
from jax._src import compiler  # no public name sets options for all that is compiled

# A property's first example compiles, the others do not: no deadline fits both.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile(
  "ci", hypothesis.settings.get_profile("default"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


# Of the module, because hypothesis wants no setup per function.
@pytest.fixture(autouse=True, scope="module")
def strict_promotion():
  jax.config.update("jax_numpy_rank_promotion", "raise")
  jax.config.update("jax_numpy_dtype_promotion", "strict")
  yield
  jax.config.update("jax_numpy_rank_promotion", "allow")
  jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture
def float64():
  """Lets JAX compute in double precision for one test."""
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


@pytest.fixture
def standard_promotion():
  """JAX's default promotion: parts of optax and flax need it."""
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def quick_compilation():
  """For tests of a few steps on small arrays, which do hardly anything but compile."""
  make_options = compiler.get_compile_options

  def quick_options(*args, **kwargs):
    options = make_options(*args, **kwargs)
    if not jax.config.read("jax_disable_most_optimizations"):
      return options
    # By its newer emitters XLA's compilation for CPUs takes more than twice as long.
    options.env_option_overrides = [
      ("xla_cpu_use_fusion_emitters", False),
      *options.env_option_overrides,
    ]
    return options

  jax.config.update("jax_disable_most_optimizations", True)
  with mock.patch.object(compiler, "get_compile_options", quick_options):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def usual_compilation(quick_compilation):
  """For one test among quick ones: of memory, or of equality to the last bit."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def quick_experiments(strict_promotion, quick_compilation):
  """The same for experiments, whose optimiser needs JAX's default promotion."""
  from benchmarks.experiments import model

  options = model.CPU_OPTIONS
  # Measured with a small network's Adam: a quarter of the time to compile.
  model.CPU_OPTIONS = options | {"xla_cpu_use_fusion_emitters": False}
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", "strict")
  model.CPU_OPTIONS = options
