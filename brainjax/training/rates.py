"""Which parameters learn at which part of the learning rate.

`optimizer.rates` is a list of "PATTERN: FACTOR"; the first pattern that fits a
parameter counts, and what none fits learns at the whole rate. A pattern is a
regular expression for the path of a parameter, or of a module that holds it:
"encoder/denseblock1" is that block, "encoder/(conv0|norm0)" two modules, ".*"
everything. What has the factor 0 stays as it is, and no gradient reaches it.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from brainjax import InputError

Rates = Sequence[tuple[str, float]]
REST = "rest"  # label of what no pattern fits
_FIELD = "config.optimizer.rates"


def parse_rates(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
  """Reads `optimizer.rates` into (pattern, factor) pairs, in order.

  >>> parse_rates(("encoder/conv0: 0", "encoder: 0.1"))
  (('encoder/conv0', 0.0), ('encoder', 0.1))

  Raises:
    InputError: An entry is malformed.
  """
  parsed = {}
  for entry in entries:
    pattern, _, text = str(entry).rpartition(":")
    pattern = pattern.strip()
    try:
      factor = float(text)
      re.compile(pattern)
    except (ValueError, re.error):
      factor = math.nan
    if pattern in parsed:
      raise InputError(f"{_FIELD}: {pattern!r} stands twice")
    if not pattern or not 0 <= factor < math.inf:
      raise InputError(
        f"{_FIELD}: {entry!r} is not of the form 'encoder: 0.1', a regular"
        " expression for parameters and a factor of at least 0"
      )
    parsed[pattern] = factor
  return tuple(parsed.items())


def label_parameters(params: Any, rates: Rates) -> Any:
  """Returns a tree like `params` of the first pattern that fits, or `REST`."""

  def label(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, _ in rates:
      if re.fullmatch(f"(?:{pattern})(?:/.*)?", name):
        return pattern
    return REST

  return jax.tree.map_with_path(label, params)


def factors(params: Any, rates: Rates) -> Any:
  """Returns a tree like `params` of every parameter's factor."""
  factor_of = {REST: 1.0} | dict(rates)
  return jax.tree.map(factor_of.get, label_parameters(params, rates))


def stop_gradients(params: Any, rates: Rates) -> Any:
  """Returns the parameters; no gradient passes to those that stay."""
  return jax.tree.map(
    lambda leaf, factor: leaf if factor else jax.lax.stop_gradient(leaf),
    params,
    factors(params, rates),
  )


def check_rates(params: Any, rates: Rates) -> None:
  """Checks that every pattern fits, and that something is left to learn.

  Args:
    params: Parameters or their shapes.
    rates: What `parse_rates` returned.

  Raises:
    InputError: A pattern fits nothing, or all factors are 0.
  """
  labels = set(jax.tree.leaves(label_parameters(params, rates)))
  for pattern, _ in rates:
    if pattern not in labels:
      raise InputError(
        f"{_FIELD}: {pattern!r} fits no parameter that an earlier one leaves;"
        f" the modules are {', '.join(sorted(params))}"
      )
  if not any(jax.tree.leaves(factors(params, rates))):
    raise InputError(f"{_FIELD}: nothing is left to learn; all factors are 0")


def check_drawn(params: Any, rates: Rates, drawn: Iterable[str]) -> None:
  """Checks that nothing stays as it was drawn at random.

  Args:
    params: Parameters or their shapes, by module.
    rates: What `parse_rates` returned.
    drawn: Modules that start from nothing else.

  Raises:
    InputError: One of them would.
  """
  found = factors(params, rates)
  for name in sorted(drawn):
    if 0 in jax.tree.leaves(found[name]):
      raise InputError(
        f"{_FIELD}: {name} would stay as it was drawn at random, for"
        " config.model.init_from has none that fits; give it a factor above 0"
      )
