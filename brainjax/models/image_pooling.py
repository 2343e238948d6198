"""Pooling of images, written so that XLA needs no loop over windows.

Its own pooling reduces window by window, and scatters in the backward pass,
which on a CPU takes longer than the convolution before it.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
  """Takes the maximum over 3x3 windows, two pixels apart, padded by one.

  Args:
    x: f[N,H,W,C].

  Returns:
    f[N,ceil(H/2),ceil(W/2),C].

  Differs from other implementations: where values of a window tie, each gets
    the gradient. Behind a ReLU these are zeros, through which none passes.
  """
  x = _even(x)
  rows = _largest_of_three(x[:, 0::2], x[:, 1::2], 1)
  return _largest_of_three(rows[:, :, 0::2], rows[:, :, 1::2], 2)


def average_pool(x: jax.Array) -> jax.Array:
  """Averages f[N,H,W,C] over 2x2 windows; an odd last row or column is left."""
  num_slices, height, width, channels = x.shape
  height, width = height // 2, width // 2
  x = x[:, : 2 * height, : 2 * width]
  return x.reshape(num_slices, height, 2, width, 2, channels).mean((2, 4))


def _max_pool_forward(x):
  y = max_pool(x)
  return y, (x, y)


def _max_pool_backward(residuals, cotangent):
  x, y = residuals
  _, height, width, _ = x.shape
  x = _even(x)

  def gradient(row: int, column: int) -> jax.Array:
    """Of the pixels with these parities: an odd one is in two windows."""
    pixels = x[:, row::2, column::2]
    total = jnp.zeros_like(pixels)
    for i in range(row + 1):
      for j in range(column + 1):
        window, passed = (_next(_next(a, i, 1), j, 2) for a in (y, cotangent))
        total += jnp.where(pixels == window, passed, 0)
    return total

  rows = [
    jnp.stack([gradient(row, column) for column in (0, 1)], 3) for row in (0, 1)
  ]
  d_x = jnp.stack(rows, 2).reshape(x.shape)
  return (d_x[:, :height, :width],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _even(x: jax.Array) -> jax.Array:
  """Pads height and width to even numbers with what is no maximum."""
  odd = [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)]
  return jnp.pad(x, odd, constant_values=-jnp.inf)


def _largest_of_three(even, odd, axis: int) -> jax.Array:
  """Returns the maximum of an even pixel and its two odd neighbours."""
  size = odd.shape[axis]
  before = jnp.pad(
    jax.lax.slice_in_dim(odd, 0, size - 1, axis=axis),
    [(int(i == axis), 0) for i in range(4)],
    constant_values=-jnp.inf,
  )
  return jnp.maximum(jnp.maximum(before, even), odd)


def _next(x: jax.Array, step: int, axis: int) -> jax.Array:
  """Shifts by a step towards the front, NaN coming in at the end."""
  size = x.shape[axis]
  return jnp.pad(
    jax.lax.slice_in_dim(x, step, size, axis=axis),
    [(0, step * int(i == axis)) for i in range(4)],
    constant_values=jnp.nan,
  )
