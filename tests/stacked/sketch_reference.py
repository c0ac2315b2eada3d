"""The definition of the sketch, number by number, in float64."""

import numpy as np


def hashed(bits):
  """The finaliser of MurmurHash3, in Python's integers of any length."""
  bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) % 2**32
  bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) % 2**32
  return bits ^ (bits >> 16)


def sign(bucket, block):
  group, bit = divmod(block, 32)
  word = hashed((hashed(bucket) + hashed(hashed(group))) % 2**32)
  return -1.0 if (word >> bit) % 2 else 1.0


def in_segments(arrays, size):
  """Stacked arrays [K, length]: large ones, and small ones end to end."""
  found, small = [], None
  for x in arrays:
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    if flat.shape[1] >= size + 16:
      found.append(flat)
    elif flat.size:
      if small is None or found[small].shape[1] + flat.shape[1] > 16 * size:
        small = len(found)
        found.append(flat)
      else:
        found[small] = np.concatenate([found[small], flat], axis=1)
  return found


def reference(arrays, size):
  """The sketches [K, size] of a list of stacked arrays [K, ...]."""
  sums, first = np.zeros((len(arrays[0]), size)), 0
  for x in in_segments(arrays, size):
    length = x.shape[1]
    last = (length - 1) // size
    if last >= 8:
      first += -first % 4
    for position, numbers in enumerate(x.T):
      block, bucket = divmod(position, size)
      if block == last:
        bucket += (last + 1) * size - length
      sums[:, bucket] += sign(bucket, first + block) * numbers
    first += last + 1
  return sums
