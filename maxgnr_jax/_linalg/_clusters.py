"""Groups of similar numbers, by the optimum of k-means in one dimension."""

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import num_active
from maxgnr_jax._linalg._gramian import unit_largest


def cluster_means(
  active: jax.Array, values: jax.Array, max_clusters: int | jax.Array
) -> jax.Array:
  """Replaces numbers by the means of their clusters.

  The clusters minimise the sum of the squared distances to their means. They are
  intervals, so that dynamic programming over the sorted numbers finds them. Derivatives
  hold the clusters fixed.

  Args:
    active: [K], bool: the numbers to be divided.
    values: [K], non-negative.
    max_clusters: The number of clusters, an integer of at least 1, possibly traced;
      fewer where there are fewer different numbers.

  Returns:
    [K]; 0 for what is not active.
  """
  last = jnp.max(jnp.where(active, values, 0.0))
  order = jnp.argsort(jnp.where(active, values, jnp.inf))
  place = jnp.argsort(order)
  ordered = jnp.where(active, values, last)[order]  # what is not active comes last
  begins = _first_places(ordered, jnp.sum(active), max_clusters)
  cluster = jnp.cumsum(begins.astype(jnp.int32))[place]
  together = (cluster[:, None] == cluster[None, :]) & active[None, :] & active[:, None]
  means = jax.vmap(lambda members: _mean(members, values))(together)
  return jnp.where(active, means, 0.0)


def _mean(members: jax.Array, values: jax.Array) -> jax.Array:
  number = num_active(members, values.dtype)
  return jnp.sum(jnp.where(members, values / number, 0.0))


def _first_places(
  ordered: jax.Array, number: jax.Array, clusters: int | jax.Array
) -> jax.Array:
  """Tells which of the first ``number`` sorted numbers begins a cluster, [K] bool."""
  cost = _interval_costs(unit_largest(jax.lax.stop_gradient(ordered)))
  size = len(ordered)
  rounds = size if isinstance(clusters, jax.core.Tracer) else min(int(clusters), size)

  # best[j] is the least cost of the numbers before j, and first[j] the place where the
  # last cluster of the numbers up to j begins, with one cluster more in every round.
  def add_cluster(best, _):
    total = best[:-1, None] + cost
    best = jnp.concatenate([jnp.zeros((1,), best.dtype), jnp.min(total, axis=0)])
    return best, jnp.argmin(total, axis=0)

  none = jnp.where(jnp.arange(size + 1) > 0, jnp.inf, 0.0).astype(ordered.dtype)
  _, firsts = jax.lax.scan(add_cluster, none, length=rounds)

  def mark(carry, last_cluster):
    begins, end = carry
    first, cluster = last_cluster
    start = first[jnp.maximum(end - 1, 0)]
    used = (end > 0) & (cluster < clusters)
    begins |= (jnp.arange(size) == start) & used
    return (begins, jnp.where(used, start, end)), None

  start = (jnp.zeros(size, bool), number)
  (begins, _), _ = jax.lax.scan(mark, start, (firsts, jnp.arange(rounds)), reverse=True)
  return begins


def _interval_costs(ordered: jax.Array) -> jax.Array:
  """Returns the squared distances of the numbers i to j to their mean, [K, K].

  They are summed up without cancellation; infinite where i > j.
  """
  places = jnp.arange(len(ordered))

  def step(carry, new):
    mean, cost = carry
    place, value = new
    number = jnp.maximum(place - places + 1, 1).astype(value.dtype)
    change = value - mean
    cost = jnp.where(places < place, cost + change**2 * (1.0 - 1.0 / number), 0.0)
    mean = jnp.where(places < place, mean + change / number, value)
    return (mean, cost), jnp.where(places <= place, cost, jnp.inf)

  start = (jnp.zeros_like(ordered), jnp.zeros_like(ordered))
  return jax.lax.scan(step, start, (places, ordered))[1].T
