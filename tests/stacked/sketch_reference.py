"""The definition of the sketch, number by number, in float64."""

import numpy as np


def hashed(bits):
  """The finaliser of MurmurHash3, in Python's integers of any length."""
  bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) % 2**32
  bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) % 2**32
  return bits ^ (bits >> 16)


def bucket_and_sign(leaf, position, size):
  """The bucket of a parameter's number, and 1 or -1."""
  key = hashed(hashed(leaf + 1))
  block, bucket = divmod(31 * size + key % size + position, size)
  group, bit = divmod(block, 32)
  word = hashed((hashed(bucket) + hashed((hashed(group) + key) % 2**32)) % 2**32)
  return bucket, -1.0 if (word >> bit) % 2 else 1.0


def reference(arrays, size):
  """The sketches [K, size] of a list of stacked arrays [K, ...]."""
  sums = np.zeros((len(arrays[0]), size))
  for leaf, x in enumerate(arrays):
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    for position, column in enumerate(flat.T):
      bucket, sign = bucket_and_sign(leaf, position, size)
      sums[:, bucket] += sign * column
  return sums
