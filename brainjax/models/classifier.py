"""From slices of many scans, packed end to end, to logits of each scan.

With a decoder it is an auto-encoder as well, or nothing else.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from brainjax.models.densenet import pool_maps
from brainjax.models.densenet3d import DenseNet3D
from brainjax.models.hierarchical import ScreenThenType

STATISTICS = ("batch", "pack", "frozen")


class Classifier(nn.Module):
  """Slice encoder, sequence head, and a linear classifier.

  Parameters are those of the methods that a model is initialised with. What
  attention weighs is sown in "intermediates": "place_weights", a dict of
  f[P,...], and "slice_weights", dicts of f[R,S].

  Attributes:
    encoder: `(slices, weight, *, groups, train) -> z`; see `densenet.py`. Or a
      `DenseNet3D`: the head then reads the one embedding of each scan.
    head: `(z, mask, positions_mm, *, train) -> features`; see `heads.py`.
    num_classes: Classes K.
    dropout: Rate at which features of the head are dropped in training.
    statistics: "batch": BatchNorm shares its statistics among all packs;
      "pack": each pack has its own; "frozen": the encoder's uses its running
      averages, in training too.
    in_plane: `(maps, slices, weight) -> (maps, weights)` between the encoder
      and the average over places; see `distance_attention.py`.
    slice_axis: `(z, mask, positions_mm) -> (z, weights)` before the head.
    decoder: `(maps, weight, *, slice_shape, groups, train) -> drawn`, if
      slices are to be reconstructed; see `autoencoder.py`.
    negative: Index of the class without a tumour, to screen for tumours and
      type them; None to tell all classes apart alike.
  """

  encoder: nn.Module
  head: nn.Module
  num_classes: int
  dropout: float
  statistics: str
  decoder: nn.Module | None = None
  in_plane: nn.Module | None = None
  slice_axis: nn.Module | None = None
  negative: int | None = None

  @property
  def reads_volumes(self) -> bool:
    """Whether scans are encoded as a whole, so that no slice is on its own."""
    return isinstance(self.encoder, DenseNet3D)

  def __call__(
    self,
    slices: jax.Array,
    owner: jax.Array,
    position: jax.Array,
    positions_mm: jax.Array,
    *,
    num_rows: int,
    max_length: int,
    train: bool,
    row_ids: jax.Array | None = None,
  ) -> jax.Array:
    """Classifies every scan of every pack.

    Packs meet in the statistics of "batch" alone, so a mesh that shards them
    moves nothing else between devices.

    Args:
      slices: f[G,N,H,W,C] intensities; what filler slices hold changes
        nothing.
      owner: i32[G,N] row of the scan within its pack; `num_rows` for filler.
      position: i32[G,N] index of the slice in its scan; for filler, unique
        and not less than `max_length`.
      positions_mm: f[G,N] along the slice axis, millimetres.
      num_rows: Scans B of a pack. Static.
      max_length: Slices S of the longest scan. Static.
      train: Use batch statistics and dropout. Static: a change recompiles.
      row_ids: i32[G,B], from which a row's dropout is drawn, so that it does
        not matter where in a batch a scan stands; by default its place.

    Returns:
      f32[G,B,K] logits; a row that owns no slice gets those of zero features.
    """
    if self.reads_volumes:
      rows = functools.partial(
        _to_rows, owner, position, num_rows=num_rows, max_length=max_length
      )
      mask = rows(owner < num_rows)
      z = self.encoder(
        rows(slices),
        mask,
        groups=self._groups(len(owner)),
        train=train and self.statistics != "frozen",
      )
      there = mask.any(1, keepdims=True)
      logits = self.classify(
        z[:, None],
        there,
        jnp.zeros(there.shape),
        train=train,
        row_ids=None if row_ids is None else row_ids.reshape(-1),
      )
      return logits.reshape(len(owner), num_rows, -1)
    z = self.encode(
      _end_to_end(slices),
      (owner < num_rows).reshape(-1),
      packs=len(owner),
      train=train,
    )
    return self.classify_packed(
      z,
      owner,
      position,
      positions_mm,
      num_rows=num_rows,
      max_length=max_length,
      train=train,
      row_ids=row_ids,
    )

  def reconstruct(
    self,
    slices: jax.Array,
    owner: jax.Array,
    position: jax.Array,
    positions_mm: jax.Array,
    *,
    num_rows: int,
    max_length: int,
    train: bool,
    row_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Draws every slice from its code; arguments are those of a call.

    Returns:
      f32[G,N,H,W,C] intensities, and f32[G,N,D] embeddings.
    """
    del position, positions_mm, max_length, row_ids
    maps, drawn = self._describe_and_draw(slices, owner < num_rows, train)
    return drawn, pool_maps(maps).reshape(*owner.shape, -1)

  def classify_and_reconstruct(
    self,
    slices: jax.Array,
    owner: jax.Array,
    position: jax.Array,
    positions_mm: jax.Array,
    *,
    num_rows: int,
    max_length: int,
    train: bool,
    row_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Does both, and encodes once; arguments are those of a call.

    Returns:
      f32[G,B,K] logits and f32[G,N,H,W,C] intensities.
    """
    maps, drawn = self._describe_and_draw(slices, owner < num_rows, train)
    weight = (owner < num_rows).reshape(-1).astype(jnp.float32)
    logits = self.classify_packed(
      self._pool(maps, _end_to_end(slices), weight),
      owner,
      position,
      positions_mm,
      num_rows=num_rows,
      max_length=max_length,
      train=train,
      row_ids=row_ids,
    )
    return logits, drawn

  def encode(
    self, slices: jax.Array, valid: jax.Array, *, packs: int, train: bool
  ) -> jax.Array:
    """Embeds slices, without regard to the scans they are of.

    Args:
      slices: f[P,H,W,C] of `packs` packs, end to end.
      valid: bool[P], False for filler.
      packs: G. Static.
      train: Use batch statistics. Static.

    Returns:
      f[P,D] slice embeddings.
    """
    arguments = {
      "groups": self._groups(packs),
      "train": train and self.statistics != "frozen",
    }
    weight = valid.astype(jnp.float32)
    if self.in_plane is None:
      return self.encoder(slices, weight, **arguments)
    maps = self.encoder.feature_maps(slices, weight, **arguments)
    return self._pool(maps["norm5"], slices, weight)

  @nn.compact
  def classify(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
    row_ids: jax.Array | None = None,
  ) -> jax.Array:
    """Classifies sequences of slice embeddings.

    Args:
      z: f[R,S,D] slice embeddings.
      mask: bool[R,S], True where a slice is; the others change nothing.
      positions_mm: f[R,S] along the slice axis, millimetres.
      train: Use dropout. Static.
      row_ids: i32[R], from which a row's dropout is drawn; its place if None.

    Returns:
      f32[R,K] logits.
    """
    if self.slice_axis is not None:
      z, weights = self.slice_axis(z, mask, positions_mm)
      self.sow("intermediates", "slice_weights", {"slice_axis": weights})
    features = self.head(z, mask, positions_mm, train=train)
    if train and self.dropout:
      rows = jnp.arange(len(z)) if row_ids is None else row_ids
      features = _drop(features, self.dropout, self.make_rng("dropout"), rows)
    if self.negative is None:
      classifier = nn.Dense(self.num_classes, name="classifier")
    else:
      classifier = ScreenThenType(
        self.num_classes, self.negative, name="classifier"
      )
    logits = classifier(features)
    return logits.astype(jnp.float32)

  def _describe_and_draw(self, slices, valid, train):
    """Returns f[G*N,h,w,D], the encoder's last map, and f32[G,N,H,W,C]."""
    if self.decoder is None:
      raise ValueError("the model was built without a decoder")
    packs = len(slices)
    flat, weight = _end_to_end(slices), valid.reshape(-1).astype(jnp.float32)
    maps = self.encoder.feature_maps(
      flat,
      weight,
      groups=self._groups(packs),
      train=train and self.statistics != "frozen",
    )["norm5"]
    drawn = self.decoder(
      maps,
      weight,
      slice_shape=flat.shape[1:],
      groups=self._groups(packs),
      train=train,
    )
    return maps, drawn.reshape(slices.shape)

  def _pool(self, maps, slices, weight) -> jax.Array:
    """Averages f[P,h,w,D] over places, which attention may weigh."""
    if self.in_plane is not None:
      maps, weights = self.in_plane(maps, slices, weight)
      self.sow("intermediates", "place_weights", weights)
    return pool_maps(maps)

  def _groups(self, packs: int) -> int:
    return packs if self.statistics == "pack" else 1

  def classify_packed(
    self,
    z: jax.Array,
    owner: jax.Array,
    position: jax.Array,
    positions_mm: jax.Array,
    *,
    num_rows: int,
    max_length: int,
    train: bool,
    row_ids: jax.Array | None = None,
  ) -> jax.Array:
    """Sorts f[G*N,D] embeddings into sequences and classifies those.

    The other arguments, and what is returned, are those of a call.
    """
    packs, num_slices = owner.shape
    rows = functools.partial(
      _to_rows, owner, position, num_rows=num_rows, max_length=max_length
    )
    logits = self.classify(
      rows(z.reshape(packs, num_slices, -1)),
      rows(owner < num_rows),
      rows(positions_mm),
      train=train,
      row_ids=None if row_ids is None else row_ids.reshape(-1),
    )
    return logits.reshape(packs, num_rows, -1)


def attention_weights(
  intermediates: Mapping[str, Any], name: str
) -> dict[str, jax.Array]:
  """Joins the dicts that were sown under a name, at any depth.

  Args:
    intermediates: The collection, after a call.
    name: "place_weights" or "slice_weights".
  """
  flat: Any = traverse_util.flatten_dict(intermediates)
  found: dict[str, jax.Array] = {}
  for path, (value,) in flat.items():
    if path[-1] == name:
      found |= value
  return found


def _to_rows(
  owner: jax.Array,
  position: jax.Array,
  values: jax.Array,
  *,
  num_rows: int,
  max_length: int,
) -> jax.Array:
  """Sorts [G,N,...] of slices into [G*B,S,...] of scans, zero elsewhere."""

  @jax.vmap
  def scatter(owner, position, values):
    shape = (num_rows, max_length, *values.shape[1:])
    # Unique, so that the gradient is a gather; out of range, so dropped.
    return (
      jnp.zeros(shape, values.dtype)
      .at[owner, position]
      .set(values, mode="drop", unique_indices=True)
    )

  return scatter(owner, position, values).reshape(
    len(owner) * num_rows, max_length, *values.shape[2:]
  )


def _drop(
  features: jax.Array, rate: float, key: jax.Array, row_ids: jax.Array
) -> jax.Array:
  """Drops features of f[R,F], each row by a key of its own."""
  keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(row_ids)
  kept = jax.vmap(
    lambda k: jax.random.bernoulli(k, 1 - rate, features.shape[1:])
  )(keys)
  return jnp.where(kept, features / (1 - rate), 0)


def _end_to_end(slices: jax.Array) -> jax.Array:
  """Reshapes f[G,N,...] to f[G*N,...]."""
  return slices.reshape(-1, *slices.shape[2:])
