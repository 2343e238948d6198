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
  def variables(self) -> dict[str, Any]:
    """What answers: `{"params", "batch_stats"}`, f32."""
    return {"params": self.params, "batch_stats": self.batch_stats}


class AveragedState(TrainState):
  """A state that also holds running averages of the parameters.

  It is a class of its own so that a checkpoint without averages has no such
  field. The running BatchNorm statistics are averaged alike: those of the last
  few steps, gathered under other parameters, would fit the averages badly.

  Attributes:
    averages: `{"params", "batch_stats"}`, f32; they answer.
  """

  averages: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What answers: `{"params", "batch_stats"}`, f32."""
    return self.averages


def average(averages: Any, new: Any, decay: float, step: jax.Array) -> Any:
  """Returns the running averages after one more step.

      a <- d a + (1 - d) w,  d = min(decay, (1 + t) / (10 + t))

  The decay rises from 0.1, so that what was drawn at random is soon forgotten.

  Args:
    averages: So far, a, f32.
    new: What the step left, w, f32.
    decay: The highest decay.
    step: i32[], t, steps done before this one.

  Source: TensorFlow's ExponentialMovingAverage with `num_updates`.
  """
  decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda a, w: a + (1 - decay_now) * (w - a), averages, new)
