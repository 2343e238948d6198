"""The optimizer: Adam, AdamW, SGD or LAMB.

In the order in which they act on the gradient of the loss: clipping; L2, added
to the gradient of kernels before any moment is taken (coupled, as the source
paper's Table 3 prints: MATLAB adds lambda * w for weights, not for biases or
normalisation); the moments; for AdamW and LAMB the decoupled decay of kernels;
for LAMB the trust ratio; the learning rate; the factor of a group.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import ml_collections
import optax

from brainjax.training import rates as rates_lib
from brainjax.training.schedule import Schedule

OPTIMIZERS = ("adam", "adamw", "sgd", "lamb")


def from_config(
  section: ml_collections.ConfigDict, schedule: Schedule
) -> optax.GradientTransformationExtraArgs:
  """Builds the optimizer of the config's section `optimizer`.

  Args:
    section: Of the config.
    schedule: The learning rate.

  Returns:
    A transformation whose `update` takes `step`, i32[] steps done, besides.

  Source: Adam, Kingma & Ba 2015; AdamW, Loshchilov & Hutter 2019; LAMB, You et
  al. 2020, arXiv:1904.00962, algorithm 2. Differs: LAMB's trust ratio leaves
  out biases and normalisation, as its authors' code does. The source paper's
  Table 3, decoded: Adam, beta1 0.9, beta2 0.99, 3e-4, L2 1e-4.
  """
  moments = optax.scale_by_adam(
    b1=section.b1, b2=section.b2, eps=section.epsilon
  )
  coupled = optax.add_decayed_weights(section.l2, mask=_is_kernel)
  decoupled = optax.add_decayed_weights(section.weight_decay, mask=_is_kernel)
  parts = {
    "adam": (coupled, moments),
    "adamw": (moments, decoupled),
    "sgd": (coupled, optax.trace(section.momentum, nesterov=section.nesterov)),
    "lamb": (
      moments,
      decoupled,
      optax.masked(optax.scale_by_trust_ratio(), _is_kernel),
    ),
  }
  rule = optax.chain(*parts[section.name], _scale_by_schedule(schedule))
  rates = rates_lib.parse_rates(section.rates)
  if rates:
    groups = {
      pattern: optax.chain(rule, optax.scale(factor))
      if factor
      else optax.set_to_zero()
      for pattern, factor in rates
    }
    rule = optax.partition(
      groups | {rates_lib.REST: rule},
      lambda params: rates_lib.label_parameters(params, rates),
    )
  clip = CLIPS[section.clip](section.clip_norm)
  rule = optax.with_extra_args_support(rule)
  return optax.chain(clip, rule) if clip else rule


def clip_by_array_norm(limit: float) -> optax.GradientTransformation:
  """Scales each array's gradient down to a norm of at most `limit`.

  Source: MATLAB's GradientThresholdMethod "l2norm".
  """

  def clip(gradient):
    norm = optax.tree.norm(gradient)
    return jnp.where(norm > limit, gradient * (limit / norm), gradient)

  return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


CLIPS: Mapping[str, Callable[[float], optax.GradientTransformation | None]] = (
  MappingProxyType(
    {
      "none": lambda limit: None,
      "global_norm": optax.clip_by_global_norm,
      "array_norm": clip_by_array_norm,
    }
  )
)


def _scale_by_schedule(schedule: Schedule):
  """Scales by minus the rate of the step; it has no counter of its own."""

  def update(updates, state, params=None, *, step, **_):
    rate = -schedule(step, jnp)
    return jax.tree.map(lambda update: rate * update, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _is_kernel(params):
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
