"""The sequence heads, by name.

A head is a module `(z, mask, positions_mm, *, train) -> f[B,F]` that reads each
sequence into one feature vector. Its arguments are

    z             f[B,S,D] slice embeddings
    mask          bool[B,S], True where a slice is
    positions_mm  f[B,S] along the slice axis, 0 = brain centre
    train         whether what is random is drawn; static

What z and positions_mm hold where the mask is False changes nothing, and a row
without a valid slice gives finite output and no gradient.

So that heads can be compared at equal size, any of them may read embeddings
that are first projected, and may be given a budget of parameters in place of a
width.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.convolutional import TCN, DenseNet1D, SeqConv
from brainjax.models.image2d import Image2D
from brainjax.models.linear_recurrence import LRU, MinGRU, MinLSTM
from brainjax.models.pooling import GatedAttention, LogSumExp, Max, Mean
from brainjax.models.recurrent import GRU, LSTM
from brainjax.models.transformer import Transformer

HEADS: Mapping[str, type[nn.Module]] = types.MappingProxyType(
  {
    "lstm": LSTM,
    "gru": GRU,
    "densenet1d": DenseNet1D,
    "image2d": Image2D,
    "seqconv": SeqConv,
    "tcn": TCN,
    "attention": GatedAttention,
    "transformer": Transformer,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "lru": LRU,
    "mean": Mean,
    "max": Max,
    "logsumexp": LogSumExp,
  }
)
# The field that a budget sets; a tuple grows or shrinks in proportion. Heads
# that are not here have no parameters.
WIDTH_FIELDS: Mapping[str, str] = types.MappingProxyType(
  {
    "lstm": "hidden_size",
    "gru": "hidden_size",
    "densenet1d": "growth_rate",
    "image2d": "growth_rate",
    "seqconv": "filters",
    "tcn": "channels",
    "attention": "attention_size",
    "transformer": "head_size",
    "mingru": "hidden_size",
    "minlstm": "hidden_size",
    "lru": "hidden_size",
  }
)
_BUDGET_TOLERANCE = 0.2  # that a head may miss its budget by, of the budget


class Projected(nn.Module):
  """A head that reads projected and normalised embeddings.

  Attributes:
    head: The head.
    size: Features each embedding is projected to.
  """

  head: nn.Module
  size: int

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    mask: jax.Array,
    positions_mm: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns the features of the head."""
    z = jnp.where(mask[..., None], z, 0)
    z = nn.Dense(self.size, name="projection")(z)
    z = nn.LayerNorm(name="norm")(z)
    return self.head(z, mask, positions_mm, train=train)


def build_head(
  fields: Mapping[str, Any], *, input_size: int | None = None
) -> nn.Module:
  """Builds the head `fields["name"]` from the other fields.

  Args:
    fields: The fields of the head, and of any head
      `projection`: Features each embedding is first projected to, by a matrix
        and a LayerNorm; absent or 0: none.
      `budget`: Parameters to come nearest to, those of the projection
        included, by another value of the field in `WIDTH_FIELDS`; absent or
        None: the fields are as they are. A head without parameters of its own
        ignores it.
    input_size: Size D of an embedding; only a budget needs it.

  >>> build_head({"name": "lstm", "hidden_size": 8, "unroll": 2}).hidden_size
  8
  >>> build_head(
  ...   {"name": "lstm", "hidden_size": 8, "budget": 10_000}, input_size=20
  ... ).hidden_size
  41

  Raises:
    ValueError: There is no such head, it has no such field, a value is not
      possible, or no width comes within 20 % of the budget.
  """
  own = dict(fields)
  name = own.pop("name")
  projection, budget = own.pop("projection", 0), own.pop("budget", None)
  if name not in HEADS:
    raise ValueError(f"no head {name!r}; choose one of {sorted(HEADS)}")
  if projection < 0:
    raise ValueError(f"projection is {projection}; 0 (none) or more")
  _check_fields(name, own)
  if budget is not None and name in WIDTH_FIELDS:
    if input_size is None:
      raise ValueError(f"a budget ({budget}) needs the input_size as well")
    return _fit_width(name, own, projection, budget, input_size)
  return _assemble(name, own, projection)


def count_parameters(head: nn.Module, input_size: int) -> int:
  """Returns how many numbers are trained in a head that reads f[B,S,D]."""
  variables = jax.eval_shape(
    functools.partial(head.init, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 1, input_size), jnp.float32),
    jax.ShapeDtypeStruct((1, 1), jnp.bool_),
    jax.ShapeDtypeStruct((1, 1), jnp.float32),
  )
  return sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))


def _check_fields(name: str, own: Mapping[str, Any]) -> None:
  fields = {
    field.name: field.default is dataclasses.MISSING
    for field in dataclasses.fields(HEADS[name])
    if field.name not in ("parent", "name")
  }
  for field in own:
    if field not in fields:
      raise ValueError(
        f"head {name!r} has no field {field!r}; its fields are {list(fields)}"
      )
  for field, required in fields.items():
    if required and field not in own:
      raise ValueError(f"head {name!r} needs a value of its field {field!r}")
  width = WIDTH_FIELDS.get(name)
  if width and min(_widths(own[width])) < 1:
    raise ValueError(f"{width} is {own[width]}; at least 1")


def _fit_width(
  name: str,
  own: Mapping[str, Any],
  projection: int,
  budget: int,
  input_size: int,
) -> nn.Module:
  """Finds the width whose number of parameters is nearest to the budget."""
  field = WIDTH_FIELDS[name]
  first, *others = _widths(own[field])

  def at(width: int) -> nn.Module:
    value = width
    if others:
      rest = (max(1, round(width * other / first)) for other in others)
      value = (width, *rest)
    return _assemble(name, {**own, field: value}, projection)

  @functools.cache
  def count(width: int) -> int:
    return count_parameters(at(width), input_size)

  low = high = first
  while low > 1 and count(low) >= budget:
    low //= 2
  while count(high) < budget:
    high *= 2
  while high - low > 1:
    share = (budget - count(low)) / (count(high) - count(low))
    middle = low + round(share * (high - low))
    middle = min(max(middle, low + 1), high - 1)
    low, high = (middle, high) if count(middle) < budget else (low, middle)
  width = min(low, high, key=lambda width: abs(count(width) - budget))
  if abs(count(width) - budget) > _BUDGET_TOLERANCE * budget:
    raise ValueError(
      f"budget is {budget}, but the nearest that head {name!r} can have is"
      f" {count(width)} parameters"
    )
  return at(width)


def _widths(value: int | tuple[int, ...]) -> tuple[int, ...]:
  return value if isinstance(value, tuple) else (value,)


def _assemble(name: str, own: Mapping[str, Any], projection: int) -> nn.Module:
  head = HEADS[name](**own)
  return Projected(head=head, size=projection) if projection else head
