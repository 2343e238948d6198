"""An encoder of slices that are encoded already."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Features(nn.Module):
  """Takes features as they are, in the place of an encoder.

  It has no parameters, so that a head is trained on features as it would be
  behind the frozen encoder that made them.

  Attributes:
    num_features: Size D of a feature vector.
  """

  num_features: int

  def __call__(
    self, slices: jax.Array, weight: jax.Array, *, groups: int, train: bool
  ) -> jax.Array:
    """Returns the features of every slice.

    Args:
      slices: f[N,1,1,D] features.
      weight: f[N], 0 for filler slices, whose content changes nothing.
      groups: Without effect: nothing is shared among slices.
      train: Without effect.

    Returns:
      f[N,D]; rows of weight 0 are zero.

    Raises:
      ValueError: The slices are not D features each.
    """
    del groups, train
    if slices.shape[1:] != (1, 1, self.num_features):
      raise ValueError(
        f"slices are of shape {slices.shape[1:]}; the features of this model"
        f" are of shape {(1, 1, self.num_features)}"
      )
    return jnp.where(weight[:, None] > 0, slices[:, 0, 0], 0)
