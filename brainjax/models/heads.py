"""The sequence heads, by name.

A head is a module `(z, mask, positions_mm, *, train) -> f[B,F]` that reads each
sequence into one feature vector. Its arguments are

    z             f[B,S,D] slice embeddings
    mask          bool[B,S], True where a slice is
    positions_mm  f[B,S] along the slice axis, 0 = brain centre
    train         whether what is random is drawn; static

What z and positions_mm hold where the mask is False changes nothing, and a row
without a valid slice gives finite output and no gradient.
"""

import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from brainjax.models.convolutional import DenseNet1D
from brainjax.models.pooling import Max, Mean
from brainjax.models.recurrent import GRU, LSTM

HEADS: Mapping[str, type[nn.Module]] = types.MappingProxyType(
  {
    "lstm": LSTM,
    "gru": GRU,
    "densenet1d": DenseNet1D,
    "mean": Mean,
    "max": Max,
  }
)


def build_head(fields: Mapping[str, Any]) -> nn.Module:
  """Builds the head `fields["name"]` from the other fields.

  >>> build_head({"name": "lstm", "hidden_size": 8, "unroll": 2}).hidden_size
  8

  Raises:
    ValueError: There is no such head.
    TypeError: The head has no such field.
  """
  kwargs = dict(fields)
  name = kwargs.pop("name")
  if name not in HEADS:
    raise ValueError(f"no head {name!r}; choose one of {sorted(HEADS)}")
  return HEADS[name](**kwargs)
