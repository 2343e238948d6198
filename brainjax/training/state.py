"""What a training step changes, and the running average of the weights."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


class TrainState(flax.struct.PyTreeNode):
  """What a step changes.

  Attributes:
    step: i32[], steps done.
    params: Parameters, f32.
    batch_stats: Running BatchNorm statistics, f32.
    opt_state: Of the optimizer.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def weights(self) -> Any:
    """The parameters that answer, f32."""
    return self.params


class AveragedState(TrainState):
  """A state that also holds a running average of the parameters.

  It is a class of its own so that a checkpoint without an average has no such
  field. The BatchNorm statistics that answer with the average are the running
  ones as they are, gathered under the parameters themselves.

  Attributes:
    ema: The average, f32; it answers in the place of `params`.
  """

  ema: Any

  @property
  def weights(self) -> Any:
    """The parameters that answer, f32."""
    return self.ema


def average(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
  """Returns the running average of the weights after one more step.

      a <- d a + (1 - d) w,  d = min(decay, (1 + t) / (10 + t))

  The decay rises from 0.1, so that what was drawn at random is soon forgotten.

  Args:
    ema: The average so far, f32.
    params: The weights after the step, f32.
    decay: The highest decay.
    step: i32[], t, steps done before this one.

  Source: TensorFlow's ExponentialMovingAverage with `num_updates`.
  """
  decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda a, w: a + (1 - decay_now) * (w - a), ema, params)
