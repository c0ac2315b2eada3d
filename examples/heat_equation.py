"""A physics-informed network: the losses of one equation are the tasks.

``python examples/heat_equation.py --picture heat.png`` solves the heat equation on a
rod whose ends have given temperatures: residual, ends and start are three tasks. Four
aggregators take turns, which is a change of one line. MaxGNR is not the one to take
here: a rod whose temperature hardly changes has hardly a residual, so that this task
soon has the smallest gradients and gets nearly all the weight.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

from maxgnr_jax import aggregator_state, aggregators, maxgnr, value_and_combined_grad

CONDUCTIVITY = 1 / np.pi**2
POINTS = 128
AGGREGATORS = {
  "equal weights": aggregators.equal_weights(num_tasks=3),
  "MaxGNR": maxgnr(num_tasks=3, smoothing=0.9),
  "ConFIG": aggregators.config(num_tasks=3),
  "Nash-MTL": aggregators.nash_mtl(num_tasks=3),
}


def solution(t, x):
  """Computes the true temperature at time t in [0, 1] and place x in [-1, 1]."""
  slow = jnp.exp(-t) * jnp.cos(jnp.pi * x)
  return slow + jnp.exp(-9 * t) * jnp.sin(3 * jnp.pi * x)


def initial_params(key, sizes=(2, 48, 48, 48, 1)):
  keys = jax.random.split(key, len(sizes) - 1)
  return [
    (jax.random.normal(k, (a, b)) * np.sqrt(2 / (a + b)), jnp.zeros(b))
    for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
  ]


def network(params, t, x):
  """Computes the network's temperature at one point."""
  features = jnp.stack([t, x])
  *hidden, (kernel, bias) = params
  for weights, offset in hidden:
    features = jnp.tanh(features @ weights + offset)
  return (features @ kernel + bias)[0]


def residual(params, t, x):
  in_time = jax.grad(network, argnums=1)(params, t, x)
  in_space = jax.grad(jax.grad(network, argnums=2), argnums=2)(params, t, x)
  return in_time - CONDUCTIVITY * in_space


def losses(params, key):
  """Computes the three losses at random points, which ``key`` determines."""
  keys = jax.random.split(key, 4)
  t = jax.random.uniform(keys[0], (POINTS,))
  x = jax.random.uniform(keys[1], (POINTS,), minval=-1, maxval=1)
  ends = jnp.where(jax.random.bernoulli(keys[2], shape=(POINTS,)), 1.0, -1.0)
  start = jnp.zeros(POINTS)

  def error(t, x):
    return jax.vmap(network, (None, 0, 0))(params, t, x) - solution(t, x)

  return {
    "residual": jnp.mean(jax.vmap(residual, (None, 0, 0))(params, t, x) ** 2),
    "ends": jnp.mean(error(t, ends) ** 2),
    "start": jnp.mean(error(start, x) ** 2),
  }


def train(aggregator, steps):
  """Returns the parameters, the losses [steps] by name and the last weights."""
  params = initial_params(jax.random.key(0))
  combined = value_and_combined_grad(losses, aggregator)
  adam = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

  def step(carry, key):
    params, weights_state, adam_state = carry
    values, grad, weights_state = combined.value_and_grad(weights_state, params, key)
    updates, adam_state = adam.update(grad, adam_state, params)
    return (optax.apply_updates(params, updates), weights_state, adam_state), values

  carry = params, combined.init(params), adam.init(params)
  keys = jax.random.split(jax.random.key(1), steps)
  scan = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
  (params, weights_state, _), values = scan(carry, keys)
  return params, values, aggregator_state(weights_state).weights


def draw(path, grid, found):
  figure = Figure(figsize=(9, 2.6), layout="constrained")
  axes = figure.subplots(1, 1 + len(found), sharey=True)
  true = solution(*grid)
  for ax, (title, shown) in zip(axes, {"solution": true, **found}.items(), strict=True):
    image = ax.pcolormesh(*grid, shown, cmap="RdBu_r", vmin=-2, vmax=2, rasterized=True)
    error = jnp.linalg.norm(shown - true) / jnp.linalg.norm(true)
    ax.set(title=f"{title}\nerror {error:.3f}", xlabel="time")
  axes[0].set(title="solution", ylabel="place")
  figure.colorbar(image, ax=axes, label="temperature")
  figure.savefig(path, dpi=80)


def main(steps: int = 3000, picture: Path | None = None) -> dict[str, float]:
  grid = jnp.meshgrid(jnp.linspace(0, 1, 61), jnp.linspace(-1, 1, 61))
  everywhere = jax.jit(jax.vmap(jax.vmap(network, (None, 0, 0)), (None, 0, 0)))
  true, found, errors = solution(*grid), {}, {}
  for name, aggregator in AGGREGATORS.items():
    params, values, weights = train(aggregator, steps)
    found[name] = everywhere(params, *grid)
    errors[name] = float(jnp.linalg.norm(found[name] - true) / jnp.linalg.norm(true))
    shares = zip(sorted(values), (weights / weights.sum()).tolist(), strict=True)
    told = ", ".join(f"{task} {share:.1%}" for task, share in shares)
    print(f"{name}: relative error {errors[name]:.3f}; of the weight {told}")
  if picture:
    draw(picture, grid, found)
  return errors


if __name__ == "__main__":
  tyro.cli(main)
