"""The order of tasks: that of their sorted names in every container."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import task_names
from maxgnr_jax._task_names import from_order, in_order

TEXT = st.text("ab1_/ -", min_size=1, max_size=4)
# Keys of one kind, which JAX can sort.
KEYS = st.one_of(
  *(
    st.lists(kind, min_size=1, max_size=12, unique=True)
    for kind in (TEXT, st.integers(-20, 20), st.tuples(TEXT, st.integers(0, 20)))
  )
)


@given(KEYS, st.randoms(use_true_random=False))
def test_every_order_of_the_keys_gives_the_order_of_a_dict(keys, random):
  values = {key: number for number, key in enumerate(keys)}
  expected = [values[key] for key in sorted(keys)]
  assert in_order(values) == jax.tree.leaves(values) == expected
  shuffled = collections.OrderedDict(random.sample(list(values.items()), len(keys)))
  assert in_order(shuffled) == expected
  assert task_names(shuffled) == task_names(values) == list(map(str, sorted(keys)))


@given(st.lists(st.from_regex("[a-z]{1,6}", fullmatch=True), min_size=1, unique=True))
def test_fields_have_the_order_of_a_dict(names):
  fields = [f"task_{name}" for name in names]
  values = {field: number for number, field in enumerate(fields)}
  for kind in (
    collections.namedtuple("Tuple", fields),
    jax.tree_util.register_dataclass(dataclasses.make_dataclass("Data", fields)),
    struct.dataclass(type("Flax", (), {"__annotations__": dict.fromkeys(fields, int)})),
  ):
    assert in_order(kind(**values)) == in_order(values)
    assert task_names(kind(**values)) == sorted(fields)


TREES = st.recursive(
  st.integers(),
  lambda children: st.one_of(
    st.lists(children, min_size=1, max_size=4),
    st.dictionaries(TEXT, children, min_size=1, max_size=4),
    st.dictionaries(TEXT, children, min_size=1).map(collections.OrderedDict),
  ),
  max_leaves=12,
)


@given(TREES)
def test_a_pytree_is_put_together_again_from_its_values_in_order(tree):
  assert from_order(in_order(tree), tree) == tree


def as_dicts(tree):
  if isinstance(tree, dict):
    return {name: as_dicts(part) for name, part in tree.items()}
  return [as_dicts(part) for part in tree] if isinstance(tree, list) else tree


@given(TREES)
def test_nested_containers_have_the_order_of_nested_dicts(tree):
  assert in_order(tree) == jax.tree.leaves(as_dicts(tree))


def test_numbers_come_before_text_and_in_numerical_order():
  mixed = collections.OrderedDict.fromkeys(["b", 10, "10", 2, "a", 2.5, True], 0.0)
  assert task_names(mixed) == ["True", "2", "2.5", "10", "10", "a", "b"]
  nested = collections.OrderedDict([("z", [0] * 11), (3, {"b": 1, "a": 2})])
  positions = [f"z/{position}" for position in range(11)]
  assert task_names(nested) == ["3/a", "3/b", *positions]


@pytest.mark.parametrize("kind", [tuple, list])
def test_tuples_and_lists_keep_their_order(kind):
  values = kind(range(12, 0, -1))
  assert in_order(values) == list(values)
  assert task_names(values) == list(map(str, range(12)))


def test_the_names_of_a_vector_are_its_positions():
  assert task_names(jnp.zeros(3)) == ["0", "1", "2"]
  assert task_names(jax.eval_shape(lambda: jnp.zeros(3))) == ["0", "1", "2"]
