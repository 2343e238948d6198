"""The sequence heads, by name.

A head is a module `(z f[B,S,D], mask bool[B,S], positions_mm f[B,S], *,
train) -> f[B,F]`. Positions that the mask excludes change nothing, and a row
without a valid slice gives finite output and no gradient.
"""

import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from brainjax.models.pooling import Mean
from brainjax.models.recurrent import LSTM

HEADS: Mapping[str, type[nn.Module]] = types.MappingProxyType(
  {"lstm": LSTM, "mean": Mean}
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
