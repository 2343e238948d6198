"""Plain-numpy references of the attentions; see `test_distance_attention.py`.

Each works on one slice, `(params, maps f[h,w,C], slice f[H,W,C']) -> maps`, or
on one row; none knows of filler.
"""

import numpy as np


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def brain_place(image, shape):
  """Offsets of cells from the brain's centre, in radii, and the radius."""
  pixels = [
    (i, j)
    for i, j in np.ndindex(image.shape[:2])
    if any(value != 0 for value in image[i, j])
  ] or list(np.ndindex(image.shape[:2]))
  centre = np.mean(pixels, axis=0)
  sides = np.max(pixels, axis=0) - np.min(pixels, axis=0) + 1
  radius = np.sqrt(np.sum(sides**2)) / 2
  place = np.zeros((*shape, 2))
  for cell in np.ndindex(*shape):
    for axis in range(2):
      step = image.shape[axis] / shape[axis]
      # The mean of the pixels that the cell covers, whole or in part.
      middle = (cell[axis] * step + (cell[axis] + 1) * step - 1) / 2
      place[cell][axis] = (middle - centre[axis]) / radius
  return place, radius


def slow_distance(params, maps, image, fixed=False):
  """Weighed maps, the factor of each cell, the offset of the centre."""
  place, radius = brain_place(image, maps.shape[:2])
  exponentials, centre = {}, np.zeros(2)
  for cell in np.ndindex(*maps.shape[:2]):
    hidden = maps[cell] @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    score = np.tanh(hidden) @ params["score"]["kernel"][:, 0]
    exponentials[cell] = np.exp(score)
  for cell, value in exponentials.items():
    centre += value / sum(exponentials.values()) * place[cell]
  between = np.linalg.norm(centre)
  factor, weighed = np.zeros(maps.shape[:2]), np.zeros_like(maps)
  for cell in np.ndindex(*maps.shape[:2]):
    d_t = np.linalg.norm(place[cell] - centre)
    d_b = np.linalg.norm(place[cell])
    if fixed:
      attention = np.exp(-(d_t**2) / (2 * 0.25**2))
    else:
      terms = np.array([1, d_t, d_t**2, d_b, between])
      attention = sigmoid(terms @ params["distance_weights"])
    factor[cell] = 1 + params["gamma"] * attention
    weighed[cell] = maps[cell] * factor[cell]
  return weighed, factor, centre * radius


def slow_distance_fixed(params, maps, image):
  return slow_distance(params, maps, image, fixed=True)


def bottleneck(params, x):
  hidden = np.tanh(x @ params["reduce"]["kernel"])
  return hidden @ params["expand"]["kernel"]


def slow_se(params, maps, image):
  gate = sigmoid(bottleneck(params, maps.mean((0, 1))))
  return (maps * (1 + params["gamma"] * gate),)


def slow_cbam(params, maps, image):
  gate = bottleneck(params, maps.mean((0, 1)))
  gate = sigmoid(gate + bottleneck(params, maps.max((0, 1))))
  gated = maps * gate
  pooled = np.pad(
    np.stack([gated.mean(-1), gated.max(-1)], -1), ((1, 1), (1, 1), (0, 0))
  )
  kernel = params["spatial"]["kernel"][..., 0]
  factor, weighed = np.zeros(maps.shape[:2]), np.zeros_like(maps)
  for i, j in np.ndindex(*maps.shape[:2]):
    place = sigmoid((pooled[i : i + 3, j : j + 3] * kernel).sum())
    factor[i, j] = 1 + params["gamma"] * gate.mean() * place
    weighed[i, j] = maps[i, j] * (1 + params["gamma"] * gate * place)
  return weighed, factor


def slow_coordconv(params, maps, image):
  place, _ = brain_place(image, maps.shape[:2])
  added = np.zeros_like(maps)
  for cell in np.ndindex(*maps.shape[:2]):
    length = np.linalg.norm(place[cell])
    given = np.concatenate([maps[cell], place[cell], [length]])
    added[cell] = bottleneck(params, given)
  return (maps + added,)


def slow_slices(params, z, mask, positions_mm):
  """Weighed embeddings and factors of one row, f[S,D] and f[S]."""
  valid = np.flatnonzero(mask)
  exponentials = np.exp(z[valid] @ params["score"]["kernel"][:, 0])
  weights = exponentials / exponentials.sum()
  centre = sum(weights * positions_mm[valid])
  sigma = np.exp(params["log_sigma_mm"])
  factor = np.zeros(len(z))
  for s in valid:
    weight = np.exp(-((positions_mm[s] - centre) ** 2) / (2 * sigma**2))
    factor[s] = 1 + params["gamma"] * (weight - 1)
  return z * factor[:, None], factor


REFERENCES = {
  "distance": slow_distance,
  "distance_fixed": slow_distance_fixed,
  "se": slow_se,
  "cbam": slow_cbam,
  "coordconv": slow_coordconv,
}
