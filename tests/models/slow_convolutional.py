"""Plain-numpy references of the convolutional heads; see `test_heads.py`.

They go row by row and slice by slice; slices outside the mask read as zeros.
"""

import functools

import numpy as np

FIELDS = {
  "densenet1d": {
    "growth_rate": 3,
    "block_config": (2, 1, 1),
    "num_init_features": 4,
  },
  "image2d": {
    "growth_rate": 2,
    "block_config": (2, 1),
    "num_init_features": 4,
  },
  "image2d:permuted": {
    "growth_rate": 2,
    "block_config": (1,),
    "num_init_features": 3,
    "permute_channels": True,
    "permutation_seed": 3,
  },
  "seqconv": {"filters": (3, 4), "kernel_size": 5},
  "tcn": {
    "channels": 4,
    "dilations": (1, 3),
    "kernel_size": 3,
    "dropout": 0.5,
  },
}


def norm(x, params):
  axes = tuple(range(1, x.ndim))
  centred = x - x.mean(axes, keepdims=True)
  variance = np.square(centred).mean(axes, keepdims=True)
  unit = centred / np.sqrt(variance + 1e-6)
  return np.maximum(unit * params["scale"] + params["bias"], 0)


def convolve(x, valid, kernel, stride=1, dilation=1):
  result = []
  for centre in range(0, len(x), stride):
    total = np.zeros(kernel.shape[-1])
    for k, tap in enumerate(kernel):
      s = centre + dilation * (k - len(kernel) // 2)
      if 0 <= s < len(x) and valid[s]:
        total += x[s] @ tap
    result.append(total)
  return np.stack(result)


def convolve2d(x, valid, kernel, stride=1):
  length, width, _ = x.shape
  result = np.zeros((length, -(-width // stride), kernel.shape[-1]))
  for s, column in np.ndindex(result.shape[:2]):
    for k, m in np.ndindex(3, 3):
      row, e = s + k - 1, stride * column + m - 1
      if 0 <= row < length and 0 <= e < width and valid[row]:
        result[s, column] += x[row, e] @ kernel[k, m]
  return result


def masked_mean(x, valid):
  return x[valid].sum(0) / max(valid.sum(), 1)


def pool(x, valid):
  pairs = [slice(s, s + 2) for s in range(0, len(x), 2)]
  x = np.stack([masked_mean(x[pair], valid[pair]) for pair in pairs])
  if x.ndim == 3:
    halves = [x[:, e : e + 2].mean(1) for e in range(0, x.shape[1], 2)]
    x = np.stack(halves, 1)
  return x, np.array([valid[pair].any() for pair in pairs])


def dense_blocks(params, x, valid, blocks, convolution):
  for b, num_layers in enumerate(blocks, 1):
    for i in range(1, num_layers + 1):
      name = f"denseblock{b}_denselayer{i}"
      y = norm(x, params[f"{name}_norm1"]) @ params[f"{name}_conv1"]["kernel"]
      y = norm(y, params[f"{name}_norm2"])
      y = convolution(y, valid, params[f"{name}_conv2"]["kernel"])
      x = np.concatenate([x, y], -1)
    if b < len(blocks):
      x = norm(x, params[f"transition{b}_norm"])
      x, valid = pool(x @ params[f"transition{b}_conv"]["kernel"], valid)
  return norm(x, params["norm_last"]), valid


def slow_densenet1d(params, x, valid, *, block_config, **_):
  x = convolve(x, valid, params["conv0"]["kernel"])
  return masked_mean(*dense_blocks(params, x, valid, block_config, convolve))


def slow_image2d(
  params,
  x,
  valid,
  *,
  block_config,
  permute_channels=False,
  permutation_seed=0,
  **_,
):
  if permute_channels:
    order = np.random.default_rng(permutation_seed).permutation(x.shape[-1])
    x = np.stack([x[:, d] for d in order], 1)
  x = convolve2d(x[..., None], valid, params["conv0"]["kernel"], stride=2)
  x, valid = dense_blocks(params, x, valid, block_config, convolve2d)
  return masked_mean(x, valid).mean(0)


def slow_seqconv(params, x, valid, *, filters, **_):
  for i in range(1, len(filters) + 1):
    x = convolve(x, valid, params[f"conv{i}"]["kernel"], stride=2)
    x = norm(x, params[f"norm{i}"])
    pairs = [slice(2 * s, 2 * s + 2) for s in range(len(x))]
    valid = np.array([valid[pair].any() for pair in pairs])
  return masked_mean(x, valid)


def slow_tcn(params, x, valid, *, channels, dilations, **_):
  for b, dilation in enumerate(dilations, 1):
    y = x
    for i in (1, 2):
      kernel = params[f"block{b}_conv{i}"]["kernel"]
      y = convolve(y, valid, kernel, dilation=dilation)
      y = norm(y, params[f"block{b}_norm{i}"])
    if x.shape[-1] != channels:
      residual = params[f"block{b}_residual"]
      x = x @ residual["kernel"] + residual["bias"]
    x = np.maximum(x + y, 0)
  return masked_mean(x, valid)


def over_rows(slow_row, fields, params, z, mask, positions_mm):
  rows = zip(z, mask, strict=True)
  return np.stack([slow_row(params, *row, **fields) for row in rows])


SLOW_ROWS = {
  "densenet1d": slow_densenet1d,
  "image2d": slow_image2d,
  "seqconv": slow_seqconv,
  "tcn": slow_tcn,
}
REFERENCES = {
  key: functools.partial(over_rows, SLOW_ROWS[key.partition(":")[0]], fields)
  for key, fields in FIELDS.items()
}
