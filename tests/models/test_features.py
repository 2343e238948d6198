"""Features in the place of an encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.features import Features

FEATURES = np.arange(1, 13, dtype=np.float32).reshape(4, 1, 1, 3)
WEIGHT = np.float32([1, 0, 1, 0])


def encode(slices, weight=WEIGHT, *, train=False):
  return Features(3).apply({}, slices, weight, groups=2, train=train)


@pytest.mark.parametrize("train", [False, True])
def test_features_come_out_as_they_are(train):
  z = encode(FEATURES, train=train)
  expected = [[1, 2, 3], [0, 0, 0], [7, 8, 9], [0, 0, 0]]
  np.testing.assert_array_equal(z, expected)
  assert z.dtype == jnp.float32


def test_filler_changes_nothing_whatever_it_holds():
  filled = FEATURES.copy()
  filled[1::2] = np.nan
  np.testing.assert_array_equal(encode(filled), encode(FEATURES))
  gradient = jax.grad(lambda s: encode(s).sum())(filled)
  np.testing.assert_array_equal(gradient[:, 0, 0, 0], WEIGHT)


def test_it_has_no_parameters():
  variables = Features(3).init(
    jax.random.key(0), FEATURES, WEIGHT, groups=1, train=True
  )
  assert not variables


def test_features_of_another_encoder_are_refused():
  with pytest.raises(ValueError, match=r"\(1, 1, 2\).*\(1, 1, 3\)"):
    encode(FEATURES[..., :2])
