"""From slices of many scans, packed end to end, to logits of each scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Classifier(nn.Module):
  """Slice encoder, sequence head, and a linear classifier.

  Attributes:
    encoder: `(slices, weight, *, groups, train) -> z`; see `densenet.py`.
    head: `(z, mask, positions_mm, *, train) -> features`; see `heads.py`.
    num_classes: Classes K.
    dropout: Rate at which features of the head are dropped in training.
    statistics: "batch": BatchNorm shares its statistics among all packs;
      "pack": each pack has its own.
  """

  encoder: nn.Module
  head: nn.Module
  num_classes: int
  dropout: float
  statistics: str

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

    Returns:
      f32[G,B,K] logits; a row that owns no slice gets those of zero features.
    """
    packs, num_slices = owner.shape
    valid = owner < num_rows
    z = self.encode(
      slices.reshape(packs * num_slices, *slices.shape[2:]),
      valid.reshape(-1),
      packs=packs,
      train=train,
    )

    @jax.vmap
    def scatter(owner, position, values):
      shape = (num_rows, max_length, *values.shape[1:])
      # Unique, so that the gradient is a gather; out of range, so dropped.
      return (
        jnp.zeros(shape, values.dtype)
        .at[owner, position]
        .set(values, mode="drop", unique_indices=True)
      )

    def rows(values):
      return scatter(owner, position, values).reshape(
        packs * num_rows, max_length, *values.shape[2:]
      )

    logits = self.classify(
      rows(z.reshape(packs, num_slices, -1)),
      rows(valid),
      rows(positions_mm),
      train=train,
    )
    return logits.reshape(packs, num_rows, -1)

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
    return self.encoder(
      slices,
      valid.astype(jnp.float32),
      groups={"batch": 1, "pack": packs}[self.statistics],
      train=train,
    )

  @nn.compact
  def classify(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Classifies sequences of slice embeddings.

    Args:
      z: f[R,S,D] slice embeddings.
      mask: bool[R,S], True where a slice is; the others change nothing.
      positions_mm: f[R,S] along the slice axis, millimetres.
      train: Use dropout. Static.

    Returns:
      f32[R,K] logits.
    """
    features = self.head(z, mask, positions_mm, train=train)
    features = nn.Dropout(self.dropout, deterministic=not train)(features)
    logits = nn.Dense(self.num_classes, name="classifier")(features)
    return logits.astype(jnp.float32)
