"""Recurrent sequence heads: states that read the slices in order.

The inputs of all steps are projected in one matrix product, so that the scan
holds nothing but the recurrence. A masked step keeps the state, which starts as
zeros, so padding before or after a sequence changes nothing. Both directions
of a layer run in one scan, side by side on an axis R.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from brainjax.models.pooling import masked_mean

READOUTS = ("last", "mean")


class Recurrent(nn.Module):
  """Layers of a gated cell, the base of `LSTM` and `GRU`.

  The parameters of later layers end in `_l1`, `_l2`, ..., those of the reverse
  direction in `_reverse`, as in PyTorch.

  Attributes:
    hidden_size: Features F of the state.
    unroll: Steps a loop body holds; changes speed only.
    num_layers: Layers; each reads the states of the one below.
    bidirectional: A second state reads the slices backwards, and the two stand
      side by side.
    readout: "last": the state that has read all slices; "mean": the mean of
      the states at the valid slices.
  """

  hidden_size: int
  unroll: int = 1
  num_layers: int = 1
  bidirectional: bool = False
  readout: str = "last"

  _num_gates: ClassVar[int]
  _num_states: ClassVar[int]
  _init_bias: ClassVar[Callable]

  def __post_init__(self):
    if self.readout not in READOUTS:
      raise ValueError(
        f"no readout {self.readout!r}; choose one of {list(READOUTS)}"
      )
    if self.num_layers < 1:
      raise ValueError(f"num_layers is {self.num_layers}; at least 1")
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns f[B,F], or f[B,2F] of both directions; see `heads.py`."""
    del positions_mm, train
    last = z
    for layer in range(self.num_layers):
      suffix = f"_l{layer}" if layer else ""
      suffixes = [suffix, suffix + "_reverse"][: 1 + self.bidirectional]
      z, last = self._read(z, mask, suffixes)
    return last if self.readout == "last" else masked_mean(z, mask)

  def _read(
    self, z: jax.Array, mask: jax.Array, suffixes: Sequence[str]
  ) -> tuple[jax.Array, jax.Array]:
    """Reads f[B,S,D] into all states f[B,S,R*F] and the last, f[B,R*F]."""
    projected = [self._project(z, mask, suffix) for suffix in suffixes]
    cell = self._cell(suffixes)

    def step(state, inputs):
      projection, valid = inputs
      new = cell(state, projection)
      kept = jax.tree.map(lambda n, old: jnp.where(valid, n, old), new, state)
      return kept, kept[0]

    masks = [mask.T[..., None]] * len(suffixes)
    steps = (
      jnp.stack(_turn_second(projected), 1),
      jnp.stack(_turn_second(masks), 1),
    )
    zeros = jnp.zeros(
      (len(suffixes), len(z), self.hidden_size), projected[0].dtype
    )
    state, states = lax.scan(
      step, (zeros,) * self._num_states, steps, unroll=self.unroll
    )
    in_order = jnp.concatenate(_turn_second(jnp.moveaxis(states, 1, 0)), -1)
    return jnp.swapaxes(in_order, 0, 1), jnp.concatenate(state[0], -1)

  def _project(self, z: jax.Array, mask: jax.Array, suffix: str) -> jax.Array:
    """Projects f[B,S,D] into the gates of every step, f[S,B,gates*F]."""
    size = self._num_gates * self.hidden_size
    kernel = self.param(
      f"input_kernel{suffix}",
      nn.initializers.lecun_normal(),
      (z.shape[-1], size),
    )
    offset = self.param(f"bias{suffix}", self._init_bias, (size,))
    z = jnp.where(mask[..., None], z, 0)
    return jnp.einsum("bsd,df->sbf", z, kernel) + offset[None, None]

  def _recurrent_kernel(self, suffixes: Sequence[str]) -> jax.Array:
    """Returns f[R,F,gates*F]."""
    return jnp.stack(
      [
        self.param(
          f"recurrent_kernel{suffix}",
          _init_recurrent,
          self.hidden_size,
          self._num_gates,
        )
        for suffix in suffixes
      ]
    )

  def _cell(self, suffixes: Sequence[str]) -> Callable:
    """Returns `(states f[R,B,F], projection f[R,B,gates*F]) -> states`.

    The first of the states is what is read out.
    """
    raise NotImplementedError


class LSTM(Recurrent):
  """Long short-term memory; gates in the order input, forget, cell, output.

  Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
    2000; forget bias 1 as in Jozefowicz et al. 2015; both directions as in
    Graves and Schmidhuber 2005.
  """

  _num_gates = 4
  _num_states = 2

  @staticmethod
  def _init_bias(key, shape):
    del key
    return jnp.zeros((4, shape[0] // 4)).at[1].set(1).reshape(-1)

  def _cell(self, suffixes: Sequence[str]) -> Callable:
    recurrent_kernel = self._recurrent_kernel(suffixes)

    def cell(state, projection):
      hidden, memory = state
      gates = projection + hidden @ recurrent_kernel
      i, f, g, o = jnp.split(gates, 4, axis=-1)
      memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
      return nn.sigmoid(o) * jnp.tanh(memory), memory

    return cell


class GRU(Recurrent):
  """Gated recurrent unit; gates in the order reset, update, new.

  Source: Cho et al. 2014, arXiv:1406.1078, section 2.3.
  Differs: the reset gate acts on the product with the state and its bias, as
    in cuDNN, so that the recurrence is one matrix product a step.
  """

  _num_gates = 3
  _num_states = 1
  _init_bias = staticmethod(nn.initializers.zeros_init())

  def _cell(self, suffixes: Sequence[str]) -> Callable:
    recurrent_kernel = self._recurrent_kernel(suffixes)
    new_bias = jnp.stack(
      [
        self.param(
          f"recurrent_new_bias{suffix}", self._init_bias, (self.hidden_size,)
        )
        for suffix in suffixes
      ]
    )[:, None]

    def cell(state, projection):
      (hidden,) = state
      r, u, n = jnp.split(projection, 3, axis=-1)
      hidden_r, hidden_u, hidden_n = jnp.split(
        hidden @ recurrent_kernel, 3, axis=-1
      )
      r = nn.sigmoid(r + hidden_r)
      u = nn.sigmoid(u + hidden_u)
      n = jnp.tanh(n + r * (hidden_n + new_bias))
      return ((1 - u) * n + u * hidden,)

    return cell


def _turn_second(directions) -> list[jax.Array]:
  """Turns the second of one or two f[S,...] round, along S."""
  return [x[::-1] if i else x for i, x in enumerate(directions)]


def _init_recurrent(key, features, gates):
  """Draws an orthogonal matrix for each gate, side by side."""
  orthogonal = nn.initializers.orthogonal()
  keys = jax.random.split(key, gates)
  return jnp.concatenate([orthogonal(k, (features, features)) for k in keys], 1)
