"""Recurrent sequence heads: a state that reads the slices in order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class LSTM(nn.Module):
  """Long short-term memory, read out at the last valid slice.

  The inputs of all steps are projected in one matrix product, so that the
  scan holds nothing but the recurrence; a masked step keeps the state. Gates
  lie in the order input, forget, cell, output. The state is f32.

  Attributes:
    hidden_size: Features F of the state.
    unroll: Steps a loop body holds; changes speed only.

  Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
    2000; forget bias 1 as in Jozefowicz et al. 2015.
  """

  hidden_size: int
  unroll: int = 4

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Reads each sequence into one feature vector.

    Args:
      z: f[B,S,D] slice embeddings.
      mask: bool[B,S], True where a slice is; what z holds elsewhere changes
        nothing.
      positions_mm: f[B,S]; unused, an LSTM knows order but not distance.
      train: Unused; there is nothing random here.

    Returns:
      f[B,F] state after the last valid slice; zeros where there is none.
    """
    del positions_mm, train
    features = self.hidden_size
    input_kernel = self.param(
      "input_kernel",
      nn.initializers.lecun_normal(),
      (z.shape[-1], 4 * features),
    )
    recurrent_kernel = self.param("recurrent_kernel", _init_recurrent, features)
    bias = self.param("bias", _init_bias, features)
    z = jnp.where(mask[..., None], z, 0)
    projected = jnp.einsum("bsd,df->sbf", z, input_kernel) + bias[None, None]

    def step(state, inputs):
      cell, hidden = state
      projection, valid = inputs
      gates = projection + hidden @ recurrent_kernel
      i, f, g, o = jnp.split(gates, 4, axis=-1)
      new_cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
      new_hidden = nn.sigmoid(o) * jnp.tanh(new_cell)
      cell = jnp.where(valid, new_cell, cell)
      hidden = jnp.where(valid, new_hidden, hidden)
      return (cell, hidden), None

    zeros = jnp.zeros((len(z), features), projected.dtype)
    (_, hidden), _ = lax.scan(
      step, (zeros, zeros), (projected, mask.T[..., None]), unroll=self.unroll
    )
    return hidden


def _init_recurrent(key, features):
  """Draws an orthogonal matrix for each gate, side by side."""
  orthogonal = nn.initializers.orthogonal()
  keys = jax.random.split(key, 4)
  return jnp.concatenate([orthogonal(k, (features, features)) for k in keys], 1)


def _init_bias(key, features):
  del key
  return jnp.zeros((4, features)).at[1].set(1).reshape(-1)
