"""Multi-task reinforcement learning: one network balances three cart poles.

``python examples/cart_poles.py --picture cart_poles.png`` trains advantage actor-critic
on poles of three lengths, which pay rewards of 0.1, 1 and 10 for every step that they
stay up. The same network is trained with equal weights too, by which the large rewards
drown the small ones. The environment is written in JAX, so that a whole training run is
one ``jax.lax.scan``.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

from maxgnr_jax import maxgnr, value_and_task_grads
from maxgnr_jax.aggregators import equal_weights

LENGTHS = {"short": 0.25, "middle": 0.5, "long": 1.0}  # half of the pole, metres
REWARDS = {"short": 0.1, "middle": 1.0, "long": 10.0}
ENVIRONMENTS, ROLLOUT, MOST_STEPS, DISCOUNT = 16, 32, 200, 0.98


class CartPole(NamedTuple):
  """The state of an environment: position, angle, their velocities, and its age."""

  motion: jax.Array  # [4]
  age: jax.Array


def reset(key):
  motion = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
  return CartPole(motion, jnp.int32(0))


def move(cart, push, length):
  """Moves the cart pole of Barto, Sutton and Anderson (1983) by one step.

  Returns it, and whether the pole has fallen or the cart has left the track.
  """
  _, angle, x_dot, angle_dot = cart.motion
  force = jnp.where(push == 1, 10.0, -10.0)
  sine, cosine = jnp.sin(angle), jnp.cos(angle)
  common = (force + 0.1 * length * angle_dot**2 * sine) / 1.1
  turn = 9.8 * sine - cosine * common
  turn /= length * (4 / 3 - 0.1 * cosine**2 / 1.1)
  slide = common - 0.1 * length * turn * cosine / 1.1
  motion = cart.motion + 0.02 * jnp.stack([x_dot, angle_dot, slide, turn])
  failed = (jnp.abs(motion[0]) > 2.4) | (jnp.abs(motion[1]) > 0.21)
  return CartPole(motion, cart.age + 1), failed


def initial_params(key):
  keys = jax.random.split(key, 8)

  def dense(key, inputs, outputs):
    kernel = jax.random.normal(key, (inputs, outputs)) / np.sqrt(inputs)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}

  heads = {
    name: {"actor": dense(keys[2 + i], 64, 2), "critic": dense(keys[5 + i], 64, 1)}
    for i, name in enumerate(LENGTHS)
  }
  return {"trunk": [dense(keys[0], 4, 64), dense(keys[1], 64, 64)], "heads": heads}


def act(params, name, motion):
  """Returns the logits of the two pushes, and the critic's value."""
  x = motion * np.array([1.0, 10.0, 1.0, 1.0], np.float32)
  for layer in params["trunk"]:
    x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
  head = params["heads"][name]
  logits, value = (x @ head[one]["kernel"] + head[one]["bias"] for one in head)
  # In units of the most that can be earned, so that no head has to learn its scale.
  return logits, value[..., 0] * REWARDS[name] / (1 - DISCOUNT)


def play(params, name, carts, key):
  """Plays some steps in all environments of a task."""

  def step(carts, key):
    pushes, resets = jax.random.split(key)
    logits, _ = act(params, name, carts.motion)
    push = jax.random.categorical(pushes, logits)
    moved, failed = jax.vmap(move, in_axes=(0, 0, None))(carts, push, LENGTHS[name])
    done = failed | (moved.age >= MOST_STEPS)
    fresh = jax.vmap(reset)(jax.random.split(resets, ENVIRONMENTS))
    after = jax.tree.map(
      lambda new, old: jnp.where(done.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
      fresh,
      moved,
    )
    seen = {"motion": carts.motion, "next": moved.motion, "push": push}
    return after, seen | {"failed": failed, "done": done, "age": moved.age}

  return jax.lax.scan(step, carts, jax.random.split(key, ROLLOUT))


def loss(params, name, seen):
  """Computes the actor-critic loss of one task from what its policy has seen."""
  logits, value = act(params, name, seen["motion"])
  _, after = act(params, name, seen["next"])
  after = jnp.where(seen["failed"], 0.0, after)  # time that is up is no failure

  def back(total, now):
    after, done = now
    total = REWARDS[name] + DISCOUNT * jnp.where(done, after, total)
    return total, total

  _, total = jax.lax.scan(back, after[-1], (after, seen["done"]), reverse=True)
  error = jax.lax.stop_gradient(total) - value
  chosen = jax.nn.log_softmax(logits)
  entropy = -jnp.sum(jnp.exp(chosen) * chosen, axis=-1)
  chosen = jnp.take_along_axis(chosen, seen["push"][..., None], axis=-1)[..., 0]
  actor = -jax.lax.stop_gradient(error) * chosen - 0.01 * REWARDS[name] * entropy
  return jnp.mean(actor + 0.5 * error**2)


def train(aggregator, steps, seed=0):
  """Returns how long the poles of each task stayed up, [steps, K]."""
  keys = jax.random.split(jax.random.key(seed), 3)
  params = initial_params(keys[0])
  shared = {"trunk": True, "heads": False}
  tx = optax.chain(
    aggregator(num_tasks=len(LENGTHS), shared=shared),
    optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
  )
  many = jax.vmap(jax.vmap(reset))
  carts = many(jax.random.split(keys[1], (len(LENGTHS), ENVIRONMENTS)))
  carts = {
    name: jax.tree.map(lambda x, i=i: x[i], carts) for i, name in enumerate(LENGTHS)
  }
  lasted = {name: jnp.zeros(ENVIRONMENTS) for name in LENGTHS}

  def step(carry, key):
    params, opt_state, carts, lasted = carry
    seen = {}
    for name, own in zip(LENGTHS, jax.random.split(key, len(LENGTHS)), strict=True):
      carts[name], seen[name] = play(params, name, carts[name], own)
      for age, done in zip(seen[name]["age"], seen[name]["done"], strict=True):
        lasted[name] = jnp.where(done, age, lasted[name])

    def losses(params):
      return {name: loss(params, name, seen[name]) for name in LENGTHS}

    _, grads = value_and_task_grads(losses)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    mean = jnp.stack([lasted[name].mean() for name in LENGTHS])
    return (params, opt_state, carts, lasted), mean

  carry = params, tx.init(params), carts, lasted
  scan = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[1])
  return np.asarray(scan(carry, jax.random.split(keys[2], steps)))


def draw(path, curves):
  figure = Figure(figsize=(9, 3), layout="constrained")
  axes = figure.subplots(1, 3, sharey=True)
  for at, (ax, name) in enumerate(zip(axes, LENGTHS, strict=True)):
    for aggregator, lasted in curves.items():
      ax.plot(lasted[:, at], label=aggregator)
    ax.set(title=f"{name} pole, reward {REWARDS[name]}", xlabel="update")
  axes[0].set_ylabel("steps before it falls")
  axes[0].legend()
  figure.savefig(path, dpi=80)


def main(steps: int = 600, picture: Path | None = None) -> dict[str, np.ndarray]:
  curves = {
    "maxgnr": train(lambda **kwargs: maxgnr(smoothing=0.9, **kwargs), steps),
    "equal weights": train(equal_weights, steps),
  }
  for aggregator, lasted in curves.items():
    means = zip(LENGTHS, lasted[-max(1, steps // 10) :].mean(axis=0), strict=True)
    print(aggregator, {name: round(float(mean)) for name, mean in means})
  if picture:
    draw(picture, curves)
  return curves


if __name__ == "__main__":
  tyro.cli(main)
