"""Tests the network for scenes, its losses and its metrics against NumPy loops."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experiments.metric import add
from benchmarks.experiments.mlp import trunk_only
from benchmarks.experiments.problems.scenes.losses import kpis, losses
from benchmarks.experiments.problems.scenes.metrics import (
  METRICS,
  angles,
  summarise,
  sums,
)
from benchmarks.experiments.problems.scenes.pooling import max_pool, max_unpool
from benchmarks.experiments.problems.scenes.segnet import SegNet, unit_length
from maxgnr_jax import maxgnr, value_and_task_grads
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASKS = ("depth", "normal", "segmentation")
CLASSES = 3
take_sums = jax.jit(sums)
take_losses = jax.jit(losses)
take_kpis = jax.jit(kpis)
pool = jax.jit(max_pool)
unpool = jax.jit(max_unpool)
pool_grad = jax.jit(jax.grad(lambda x, weights: jnp.sum(weights * max_pool(x)[0])))


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def example(seed, n=2, h=4, w=6, labelled=0.7):
  """Draws outputs and a batch with missing labels, as NumPy arrays."""
  rng = np.random.default_rng(seed)
  there = rng.random((3, n, h, w)) < labelled
  outputs = {
    "depth": rng.normal(2, 1, (n, h, w)),
    "normal": unit(rng.normal(size=(n, h, w, 3))),
    "segmentation": rng.normal(size=(n, h, w, CLASSES)),
  }
  near = unit(outputs["normal"] + rng.normal(0, rng.random(), (n, h, w, 3)))
  batch = {
    "image": rng.random((n, h, w, 3)),
    "label": np.where(there[0], rng.integers(0, CLASSES, (n, h, w)), -1),
    "depth": np.where(there[1], rng.uniform(0.5, 9, (n, h, w)), 0),
    "normal": np.where(there[2][..., None], near, 0),
  }
  outputs = {name: value.astype(np.float32) for name, value in outputs.items()}
  batch = {name: value.astype(np.float32) for name, value in batch.items()}
  return outputs, batch | {"label": batch["label"].astype(np.int32)}


def labelled_pairs(outputs, batch, task):
  """Yields prediction and truth of every labelled pixel, in float64."""
  truth = batch["label" if task == "segmentation" else task]
  for index in np.ndindex(truth.shape[:3]):
    known = truth[index] >= 0 if task == "segmentation" else np.any(truth[index] != 0)
    if known:
      yield np.float64(outputs[task][index]), np.float64(truth[index])


def expected_metrics(outputs, batch):
  """Computes the metrics from their definitions, pixel by pixel."""
  pairs = {task: list(labelled_pairs(outputs, batch, task)) for task in TASKS}
  classes = [(int(np.argmax(p)), int(t)) for p, t in pairs["segmentation"]]
  unions = [
    [p == t for p, t in classes if c in (p, t)]
    for c in range(CLASSES)
    if any(c in pair for pair in classes)
  ]
  errors = [abs(p - t) for p, t in pairs["depth"]]
  relative = [abs(p - t) / t for p, t in pairs["depth"]]
  degrees = np.array(
    [
      math.degrees(math.acos(np.clip(unit(p) @ unit(t), -1, 1)))
      for p, t in pairs["normal"]
    ]
  )

  def mean(values):
    return np.mean(values) if len(values) else np.nan

  return {
    "miou": 100 * mean([np.mean(union) for union in unions]),
    "pixel_accuracy": 100 * mean([p == t for p, t in classes]),
    "depth_abs_err": mean(errors),
    "depth_rel_err": 100 * mean(relative),
    "normal_mean": mean(degrees),
    "normal_median": np.median(degrees) if len(degrees) else np.nan,
    "within_11.25": 100 * mean(degrees < 11.25),
    "within_22.5": 100 * mean(degrees < 22.5),
    "within_30": 100 * mean(degrees < 30),
  }


def assert_metrics(values, expected):
  assert list(values) == [metric.name for metric in METRICS]
  for name, value in values.items():
    tolerance = 0.0051 if name == "normal_median" else 1e-3
    np.testing.assert_allclose(value, expected[name], atol=tolerance, err_msg=name)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.7, 1.0]))
def test_metrics_agree_with_a_loop_over_pixels(seed, labelled):
  outputs, batch = example(seed, labelled=labelled)
  values = summarise(add({}, take_sums(outputs, batch)))
  assert_metrics(values, expected_metrics(outputs, batch))


@given(st.integers(0, 2**32 - 1))
def test_metrics_do_not_depend_on_the_division_into_batches(seed):
  outputs, batch = example(seed, n=4)
  parts = {}
  for half in (slice(0, 2), slice(2, 4)):
    of_half = [{k: v[half] for k, v in tree.items()} for tree in (outputs, batch)]
    parts = add(parts, take_sums(*of_half))
  whole = add({}, take_sums(outputs, batch))
  for name in ("confusion", "angles", "depth_pixels"):
    np.testing.assert_array_equal(parts[name], whole[name])
  assert {v.dtype.name for v in parts.values()} == {"int64", "float64"}
  assert_metrics(summarise(parts), summarise(whole))
  assert summarise(parts) == pytest.approx(expected_metrics(outputs, batch), abs=6e-3)


def test_metrics_of_four_pixels_agree_with_hand_computed_values():
  x, y, none = [1.0, 0, 0], [0, 1.0, 0], [0.0, 0, 0]
  outputs = {
    "segmentation": 5 * np.eye(4, dtype=np.float32)[np.array([[[0, 0], [1, 2]]])],
    "depth": np.float32([[[2, 3], [4, 5]]]),
    "normal": np.float32([[[x, y], [x, y]]]),
  }
  batch = {
    # Class 2 is predicted only at the void pixel, and class 3 never occurs.
    "label": np.int32([[[0, 1], [1, -1]]]),
    "depth": np.float32([[[1, 4], [4, 0]]]),
    "normal": np.float32([[[x, x], [[-1, 0, 0], none]]]),
  }
  values = summarise(add({}, take_sums(outputs, batch)))
  expected = {
    "miou": 50,  # class 0: 1 of 2, class 1: 1 of 2
    "pixel_accuracy": 200 / 3,
    "depth_abs_err": 2 / 3,
    "depth_rel_err": 125 / 3,
    "normal_mean": 90,  # 0, 90 and 180
    "normal_median": 90,
    "within_11.25": 100 / 3,
    "within_22.5": 100 / 3,
    "within_30": 100 / 3,
  }
  assert_metrics(values, expected)
  assert take_losses(outputs, batch)["normal"] == pytest.approx(1)
  indicators = take_kpis(outputs, batch)
  assert indicators["depth"] == pytest.approx(1 - 2 / 9)
  assert indicators["normal"] == pytest.approx(1 / 3)
  assert indicators["segmentation"] == pytest.approx(2 / 3)


def test_without_labels_metrics_are_nan_and_losses_and_indicators_are_zero():
  outputs, batch = example(0, labelled=0)
  assert all(map(math.isnan, summarise(add({}, take_sums(outputs, batch))).values()))
  assert set(map(float, take_losses(outputs, batch).values())) == {0.0}
  assert set(map(float, take_kpis(outputs, batch).values())) == {0.0}


def test_nan_predictions_do_not_count_as_close():
  outputs, batch = example(0, labelled=1)
  broken = {name: np.full_like(value, np.nan) for name, value in outputs.items()}
  values = summarise(add({}, take_sums(broken, batch)))
  assert values["within_30"] == 0
  assert values["normal_median"] == 180
  assert math.isnan(values["normal_mean"])
  assert math.isnan(values["depth_abs_err"])


def test_angles_are_accurate_near_0_and_180_degrees():
  degrees = np.array([0, 1e-3, 0.5, 30, 90, 179.5, 180])
  radians = np.radians(degrees)
  second = np.stack([np.cos(radians), np.sin(radians), 0 * radians], -1)
  first = np.broadcast_to(np.float32([1, 0, 0]), second.shape)
  found = angles(jnp.asarray(first), jnp.asarray(second, jnp.float32))
  np.testing.assert_allclose(found, degrees, atol=1e-4, rtol=1e-5)
  assert angles(jnp.zeros(3), jnp.array([1.0, 0, 0])) == pytest.approx(90)


@given(st.integers(0, 2**32 - 1))
def test_losses_are_means_over_labelled_pixels(seed):
  outputs, batch = example(seed)

  def cross_entropy(logits, label):
    return np.log(np.exp(logits).sum()) - logits[int(label)]

  measures = (lambda p, t: abs(p - t), lambda p, t: 1 - p @ t, cross_entropy)
  values = take_losses(outputs, batch)
  assert list(values) == list(TASKS)
  for task, measure in zip(TASKS, measures, strict=True):
    pairs = labelled_pairs(outputs, batch, task)
    expected = np.mean([measure(*pair) for pair in pairs])
    np.testing.assert_allclose(values[task], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labelled", [0.0, 0.5])
def test_gradient_of_a_loss_is_nonzero_only_at_pixels_labelled_for_its_task(labelled):
  outputs, batch = example(1, labelled=labelled)
  grads = jax.jit(jax.jacrev(losses))(outputs, batch)
  known = {
    "depth": batch["depth"] != 0,
    "normal": batch["normal"].any(-1),
    "segmentation": batch["label"] >= 0,
  }
  for loss, output in itertools.product(TASKS, TASKS):
    moved = np.asarray(grads[loss][output] != 0)
    moved = moved if output == "depth" else moved.any(-1)
    np.testing.assert_array_equal(moved, known[output] & (loss == output))
    assert np.isfinite(grads[loss][output]).all()


def test_losses_and_metrics_need_only_the_tasks_that_are_given():
  outputs, batch = example(2)
  del outputs["normal"], batch["normal"]
  assert list(losses(outputs, batch)) == ["depth", "segmentation"]
  values = summarise(add({}, take_sums(outputs, batch)))
  assert set(values) == {metric.name for metric in METRICS if metric.task != "normal"}


@given(st.integers(0, 2**32 - 1))
def test_pooling_and_unpooling_agree_with_a_loop(seed):
  # With few distinct values, ties for the maximum are common.
  features = np.random.default_rng(seed).integers(0, 3, (2, 4, 6, 3))
  features = features.astype(np.float32)
  pooled, mask = map(np.asarray, pool(features))
  other = np.arange(pooled.size, dtype=np.float32).reshape(pooled.shape) + 1
  unpooled = unpool(other, mask)
  gradient = pool_grad(features, other)
  expected = np.zeros_like(features)
  for n, i, j, c in np.ndindex(pooled.shape):
    window = features[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
    row, column = divmod(int(window.ravel().argmax()), 2)
    assert pooled[n, i, j, c] == window.max()
    expected[n, 2 * i + row, 2 * j + column, c] = other[n, i, j, c]
  np.testing.assert_array_equal(unpooled, expected)
  np.testing.assert_array_equal(gradient, expected)


def convolution(inputs, outputs, size=3):
  return inputs * outputs * size**2 + outputs


def test_default_network_has_as_many_parameters_as_the_published_one():
  model = nnx.eval_shape(lambda: SegNet(13, TASKS, rngs=nnx.Rngs(0)))
  encoder = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 512)]
  decoder = [(512, 512), (512, 256), (256, 128), (128, 64), (64, 64)]
  extra = [(c, c) for _, c in encoder] + [(c, c) for _, c in decoder]
  extra += [(c, c) for _, c in encoder[2:]] + [(c, c) for _, c in decoder[:3]]
  trunk = sum(
    convolution(*channels) + 2 * channels[1] for channels in encoder + decoder + extra
  )
  heads = sum(convolution(64, 64) + convolution(64, c, 1) for c in (1, 3, 13))
  params = nnx.state(model, nnx.Param)
  sizes = {part: sum(x.size for x in jax.tree.leaves(params[part])) for part in params}
  assert sizes == {"trunk": trunk, "heads": heads}
  measured = trunk_only(params)
  assert all(jax.tree.leaves(measured["trunk"]))
  assert not any(jax.tree.leaves(measured["heads"]))


def small_model(filters=(4, 5, 6), tasks=TASKS):
  return SegNet(CLASSES, tasks, filters, rngs=nnx.Rngs(0))


def call(model, image):
  return model(image)


def test_kernels_are_xavier_normal_and_biases_zero():
  model = small_model((64,))
  kernel = model.trunk.encoder[0].layers[3].kernel[...]
  assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
  assert float(abs(kernel).max()) > 3 * math.sqrt(2 / (9 * 128))  # not truncated
  biases = [head.layers[i].bias[...] for head in model.heads.values() for i in (0, 1)]
  assert not any(bias.any() for bias in biases)


def test_outputs_have_the_shapes_of_their_tasks():
  image = jnp.asarray(example(0, h=16, w=24)[1]["image"])
  outputs = nnx.jit(call)(small_model((4, 5)), image)
  shapes = {task: output.shape[3:] for task, output in outputs.items()}
  assert shapes == {"depth": (), "normal": (3,), "segmentation": (CLASSES,)}
  assert {output.shape[:3] for output in outputs.values()} == {(2, 16, 24)}
  np.testing.assert_allclose(jnp.linalg.norm(outputs["normal"], axis=-1), 1, rtol=1e-5)
  depth_alone = small_model((4,), ["depth"])
  assert list(nnx.eval_shape(call, depth_alone, image)) == ["depth"]


def test_unsuitable_image_sizes_and_unknown_tasks_are_rejected():
  with pytest.raises(ValueError, match=r"divisible by 8.*got 16 x 20"):
    nnx.eval_shape(call, small_model(), jnp.zeros((1, 16, 20, 3)))
  with pytest.raises(ValueError, match=r"among .*'normal'.*got \['edges'\]"):
    small_model(tasks=["depth", "edges"])


def test_normalising_a_zero_vector_has_a_finite_gradient():
  vectors = jnp.array([[0.0, 0, 0], [0, 3, 4]])
  jacobian = jax.jacrev(unit_length)(vectors)
  np.testing.assert_allclose(unit_length(vectors), [[0, 0, 0], [0, 0.6, 0.8]])
  assert np.isfinite(jacobian).all()


def split_losses(model, batch):
  """Makes a function from parameters to losses and updated batch statistics."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  def task_losses(params):
    copy = nnx.merge(graphdef, params, rest, copy=True)
    return losses(copy(batch["image"]), batch), nnx.state(copy, nnx.Not(nnx.Param))

  return task_losses, params


def test_task_gradients_are_exact_and_update_batch_statistics_once():
  _, batch = example(3, h=8, w=8)
  batch = jax.tree.map(jnp.asarray, batch)
  model = small_model((3,))
  task_losses, params = split_losses(model, batch)
  take = jax.jit(value_and_task_grads(task_losses, has_aux=True))
  (values, statistics), grads = take(params)

  @jax.jit
  def one_by_one(params):
    grads = [
      jax.grad(lambda params, task=task: task_losses(params)[0][task])(params)
      for task in TASKS
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)

  assert list(values) == list(TASKS)
  assert_trees_close(grads, one_by_one(params), rtol=1e-4, atol=1e-5)

  before = nnx.state(model, nnx.BatchStat)
  assert all((x == x.ravel()[0]).all() for x in jax.tree.leaves(before))
  nnx.jit(call)(model, batch["image"])
  after = nnx.state(model, nnx.BatchStat)
  assert_trees_close(statistics, after, rtol=1e-5, atol=1e-6)
  first = model.trunk.encoder[0].layers
  activations = first[0](batch["image"])
  np.testing.assert_allclose(
    first[1].mean[...], 0.1 * activations.mean((0, 1, 2)), rtol=1e-3, atol=1e-6
  )
  np.testing.assert_allclose(
    first[1].var[...], 0.9 + 0.1 * activations.var((0, 1, 2)), rtol=1e-5
  )


def test_evaluation_uses_running_statistics_without_changing_them():
  image = jnp.asarray(example(4, h=8, w=8)[1]["image"])
  model = small_model((3, 4))

  @nnx.jit
  def forward(model, image):
    return model(image)["depth"]

  forward(model, image)
  before = jax.tree.map(np.array, nnx.state(model, nnx.BatchStat))
  model.eval()
  whole = forward(model, image)
  assert_trees_equal(nnx.state(model, nnx.BatchStat), before)
  # An image's outputs do not depend on the other images of the batch.
  np.testing.assert_allclose(forward(model, image[:1]), whole[:1], rtol=1e-4, atol=1e-5)
  model.train()
  assert np.abs(forward(model, image) - whole).max() > 1e-3


@pytest.mark.thorough
def test_training_lowers_every_loss():
  _, batch = example(5, h=8, w=8)
  batch = jax.tree.map(jnp.asarray, batch)
  model = small_model((8,))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  aggregator = maxgnr(num_tasks=3, shared=trunk_only)

  @jax.jit
  def step(params, rest, state):
    task_losses, _ = split_losses(nnx.merge(graphdef, params, rest, copy=True), batch)
    (values, rest), grads = value_and_task_grads(task_losses, has_aux=True)(params)
    grad, state = aggregator.update(grads, state, params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    return params, rest, state, values

  state, history = aggregator.init(params), []
  for _ in range(40):
    params, rest, state, values = step(params, rest, state)
    history.append(values)
  for task in TASKS:
    assert history[-1][task] < 0.9 * history[0][task]
