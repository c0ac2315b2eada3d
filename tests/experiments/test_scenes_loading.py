"""Tests that batches of scenes are reproducible, complete and start at any step."""

import itertools

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experiments.loading import hold_out, stream
from benchmarks.experiments.problems.scenes.loading import batches, evaluation_batches


def numbered(n, height=6, width=8):
  """Makes examples of noise whose labels are the example's number."""
  rng = np.random.default_rng(0)
  normal = rng.normal(size=(n, height, width, 3)).astype(np.float32)
  return [
    {
      "image": rng.random((height, width, 3), np.float32),
      "label": np.full((height, width), i, np.int32),
      "depth": rng.random((height, width), np.float32) + 0.5,
      "normal": normal[i] / np.linalg.norm(normal[i], axis=-1, keepdims=True),
    }
    for i in range(n)
  ]


def numbers(batch):
  return batch["label"][:, 0, 0].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_every_epoch_has_every_example_once_in_a_new_order(batch_size):
  dataset = batches(numbered(7), batch_size, seed=0)
  seen = np.concatenate([numbers(dataset[t]) for t in range(70 // batch_size)])
  epochs = seen[: len(seen) // 7 * 7].reshape(-1, 7)
  np.testing.assert_array_equal(
    np.sort(epochs, 1), np.tile(np.arange(7), (len(epochs), 1))
  )
  assert len({tuple(epoch) for epoch in epochs}) > len(epochs) / 2


def test_batch_depends_only_on_seed_and_step():
  source = numbered(5)
  one, other = (batches(source, 2, seed=3) for _ in range(2))
  for t in (9, 0, 4, 10**6):
    chex.assert_trees_all_equal(one[t], other[t])
  assert one[0]["image"].shape == (2, 6, 8, 3)
  differs = batches(source, 2, seed=4)
  assert any((one[t]["image"] != differs[t]["image"]).any() for t in range(3))


def test_augmentation_differs_between_epochs():
  dataset = batches(numbered(1), 1, seed=0)
  images = {dataset[t]["image"].tobytes() for t in range(30)}
  assert len(images) > 15  # a third is not zoomed and has only two variants
  plain = batches(numbered(1), 1, seed=0, augment=False)
  assert len({plain[t]["image"].tobytes() for t in range(5)}) == 1


def test_zoom_scales_depth_down_and_inverse_depth_up():
  source = numbered(1)
  source[0]["depth"] = np.ones((6, 8), np.float32)
  for inverse, expected in ((False, {1.0, 1 / 1.2, 1 / 1.5}), (True, {1.0, 1.2, 1.5})):
    dataset = batches(source, 1, seed=0, inverse_depth=inverse)
    found = {float(dataset[t]["depth"][0, 0, 0]) for t in range(30)}
    assert sorted(found) == pytest.approx(sorted(expected))


def test_stream_can_start_at_any_step():
  dataset = batches(numbered(5), 2, seed=0)
  whole = list(itertools.islice(stream(dataset, 0), 8))
  for t, batch in enumerate(whole):
    chex.assert_trees_all_equal(batch, dataset[t])
  for start in (3, 7):
    rest = itertools.islice(stream(dataset, start), 8 - start)
    for one, other in zip(rest, whole[start:], strict=True):
      chex.assert_trees_all_equal(one, other)
  far = next(stream(dataset, 10**9))
  chex.assert_trees_all_equal(far, dataset[10**9])


def test_last_evaluation_batch_is_padded_with_void():
  source = numbered(5)
  parts = list(evaluation_batches(source, 2))
  assert [numbers(part) for part in parts] == [[0, 1], [2, 3], [4, -1]]
  for name in source[0]:
    joined = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(joined[:5], np.stack([e[name] for e in source]))
    np.testing.assert_array_equal(joined[5:], -1 if name == "label" else 0)


@given(
  n=st.integers(2, 50),
  share=st.floats(0, 1, exclude_max=True),
  seed=st.integers(0, 100),
)
def test_hold_out_splits_examples_by_share_and_is_reproducible(n, share, seed):
  train, validation = hold_out(n, share, seed)
  assert sorted([*train, *validation]) == list(range(n))
  assert len(train) >= 1
  assert (len(validation) >= 1) == (share > 0)
  assert abs(len(validation) - share * n) <= 1
  for one, other in zip(hold_out(n, share, seed), (train, validation), strict=True):
    np.testing.assert_array_equal(one, other)


def test_invalid_share_and_too_few_examples_are_rejected():
  for share in (-0.1, 1, 20):
    with pytest.raises(ValueError, match=r"`share` must be in \[0, 1\)"):
      hold_out(10, share, 0)
  with pytest.raises(ValueError, match="`size` must be at least 2"):
    hold_out(1, 0.5, 0)
  with pytest.raises(ValueError, match="`source` must have at least one example"):
    batches([], 2, 0)
