"""A step in parts, one after another, for what does not fit into memory.

Packs only add, so a step over G packs is a sum of steps over fewer; a part is
gone before the next one begins. Loops are unrolled where asked: XLA compiles
the gradient of a convolution inside a loop to slow code on CPUs; but then it
may begin a part before another is gone, and less memory is saved.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from brainjax.models.classifier import Classifier


def sum_over_parts(
  part_of_sum: Callable[[Any], Any], tree: Any, parts: int, *, unroll: bool
) -> Any:
  """Calls a function for each part of a batch and adds what it returns.

  Args:
    part_of_sum: From a tree like `tree`, with G / parts packs, to numbers.
    tree: Arrays that lead with G.
    parts: In how many; divides G, and G / parts divides among the devices.
    unroll: Whether the loop is unrolled.

  Returns:
    What `part_of_sum` returns, summed.
  """
  if parts == 1:
    return part_of_sum(tree)

  # Every parts-th pack: the packs of a part then lie on all devices.
  def dealt(leaf):
    return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

  tree = jax.tree.map(dealt, tree)
  first = jax.tree.map(lambda leaf: leaf[0], tree)
  shapes = jax.eval_shape(part_of_sum, first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total, part):
    return jax.tree.map(jnp.add, total, part_of_sum(part)), None

  return jax.lax.scan(add, zeros, tree, unroll=unroll)[0]


def encode_in_chunks(
  model: Classifier,
  variables: dict[str, Any],
  slices: jax.Array,
  valid: jax.Array,
  *,
  chunk_slices: int,
  unroll: bool,
) -> tuple[jax.Array, Any]:
  """Embeds packs a few slices at a time, with the statistics of training.

  Of a chunk only the embeddings are kept: its encoder runs again in the
  backward pass. A chunk of a pack is a group of batch statistics.

  Args:
    model: The classifier.
    variables: Its `{"params", "batch_stats"}`.
    slices: f32[G,N,H,W,C].
    valid: bool[G,N], False for filler.
    chunk_slices: Of a pack, encoded at a time; divides N.
    unroll: Whether the loop is unrolled.

  Returns:
    f32[G,N,D] embeddings, and the moved running averages.
  """
  packs, num_slices = valid.shape
  batch_stats = variables.get("batch_stats", {})

  def chunks(values):
    shape = (packs, num_slices // chunk_slices, chunk_slices)
    return jnp.moveaxis(values.reshape(*shape, *values.shape[2:]), 1, 0)

  @jax.checkpoint
  def encode(params, slices, valid):
    z, updated = model.apply(
      {"params": params, "batch_stats": batch_stats},
      slices.reshape(packs * chunk_slices, *slices.shape[2:]),
      valid.reshape(-1),
      packs=packs,
      train=True,
      mutable=["batch_stats"],
      method="encode",
    )
    found = updated.get("batch_stats", {})
    weighted = weighted_moves(batch_stats, found, jnp.sum(valid))
    return z.reshape(packs, chunk_slices, -1), weighted

  def body(total, chunk):
    z, weighted = encode(variables["params"], *chunk)
    return jax.tree.map(jnp.add, total, weighted), z

  zeros = jax.tree.map(jnp.zeros_like, batch_stats)
  total, z = jax.lax.scan(
    body, zeros, (chunks(slices), chunks(valid)), unroll=unroll
  )
  z = jnp.moveaxis(z, 0, 1).reshape(packs, num_slices, -1)
  return z, move_by(batch_stats, total, jnp.sum(valid))


def weighted_moves(old: Any, new: Any, slices: jax.Array) -> Any:
  """Returns how far running averages moved, times the slices that did it.

  Summed over parts and divided by all slices, see `move_by`, that is the move
  of the whole; and what did not move, stays to the bit.
  """
  return jax.tree.map(lambda a, b: (b - a) * slices, old, new)


def move_by(old: Any, total: Any, slices: jax.Array) -> Any:
  """Moves running averages by the sum of `weighted_moves` over parts."""
  return jax.tree.map(lambda a, t: a + t / jnp.maximum(slices, 1), old, total)
