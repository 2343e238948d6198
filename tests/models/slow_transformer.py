"""Plain-numpy reference of the transformer; see `test_heads.py`."""

import numpy as np
from scipy import special

FIELDS = {"transformer": {"head_size": 3, "num_heads": 3, "num_layers": 2}}


def slow_transformer(params, z, mask, positions_mm):
  """Without masks: the valid slices are all there is."""
  num_heads = FIELDS["transformer"]["num_heads"]

  def dense(x, name):
    return x @ params[name]["kernel"] + params[name].get("bias", 0)

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)
    return x * params[name]["scale"] + params[name]["bias"]

  def read(z, positions_mm):
    x = dense(z, "embed")
    size = x.shape[-1]
    count = (size + 1) // 2
    for i in range(size):  # sines and then cosines, from 10 mm to 400 mm
      wave = np.cos if i >= count else np.sin
      wavelength = 10 * 40 ** (i % count / (count - 1))
      x[:, i] += wave(2 * np.pi * positions_mm / wavelength)
    for layer in ("layer1", "layer2"):
      qkv = dense(norm(x, f"{layer}_norm1"), f"{layer}_qkv")
      read = []
      for head in np.split(np.arange(size), num_heads):
        query, key, value = (qkv[:, head + k * size] for k in range(3))
        weights = np.exp(query @ key.T / np.sqrt(len(head)))
        read.append(weights / weights.sum(1, keepdims=True) @ value)
      x = x + dense(np.concatenate(read, 1), f"{layer}_out")
      y = dense(norm(x, f"{layer}_norm2"), f"{layer}_dense1")
      y = y * (1 + special.erf(y / np.sqrt(2))) / 2
      x = x + dense(y, f"{layer}_dense2")
    return norm(x, "norm_last").mean(0)

  size = len(params["norm_last"]["bias"])
  return np.stack(
    [
      read(row[valid], at[valid]) if valid.any() else np.zeros(size)
      for row, valid, at in zip(z, mask, positions_mm, strict=True)
    ]
  )


REFERENCES = {"transformer": slow_transformer}
