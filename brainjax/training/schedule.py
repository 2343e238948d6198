"""The learning rate of every step.

A pure function of the number of steps done, so a checkpoint need not hold it,
and the log says what the step used without asking a device.
"""

import dataclasses
from types import ModuleType
from typing import Any

import ml_collections
import numpy as np

SCHEDULES = ("constant", "cosine", "step")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Learning rate after t = 0, 1, ... steps: r(t) = peak * warm(t) * decay(t).

      warm(t) = min((t + 1) / warmup_steps, 1)
      constant: decay(t) = 1
      cosine:   decay(t) = f + (1 - f) (1 + cos(pi u)) / 2,
                u = (t - warmup_steps) / (num_steps - 1 - warmup_steps),
                clipped to [0, 1]; f = final_rate, reached by the last step
      step:     decay(t) = decay_factor ** floor(t / decay_steps)

  Attributes:
    kind: One of `SCHEDULES`.
    peak: The highest rate.
    warmup_steps: Steps of the linear rise; 0 to go without.
    num_steps: Of the whole run; of "cosine".
    final_rate: Times the peak, the last rate of "cosine".
    decay_steps: Steps from drop to drop of "step", counted from the first.
    decay_factor: Of each drop.

  Source: cosine as Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one
  period; step as MATLAB's LearnRateDropPeriod and LearnRateDropFactor.
  """

  kind: str
  peak: float
  warmup_steps: int = 0
  num_steps: int = 1
  final_rate: float = 0.0
  decay_steps: int = 1
  decay_factor: float = 1.0

  def __call__(self, step: Any, xp: ModuleType = np) -> Any:
    """Returns the rate of the update that follows `step` steps.

    >>> Schedule("step", 0.5, decay_steps=10, decay_factor=0.5)(25)
    0.125

    Args:
      step: A number of steps, or an array of them; i32[] on a device.
      xp: `numpy`, or `jax.numpy` if `step` is traced.
    """
    warm = decay = 1.0
    if self.warmup_steps:
      warm = xp.minimum((step + 1) / self.warmup_steps, 1.0)
    if self.kind == "cosine":
      span = max(self.num_steps - 1 - self.warmup_steps, 1)
      done = xp.clip((step - self.warmup_steps) / span, 0.0, 1.0)
      fall = (1 + xp.cos(np.pi * done)) / 2
      decay = self.final_rate + (1 - self.final_rate) * fall
    elif self.kind == "step":
      decay = self.decay_factor ** (step // self.decay_steps)
    return self.peak * warm * decay


def from_config(
  section: ml_collections.ConfigDict, *, epochs: int, steps_per_epoch: int
) -> Schedule:
  """Returns the schedule of the config's section `optimizer`.

  Args:
    section: Of the config; it counts in epochs.
    epochs: Of the whole run.
    steps_per_epoch: Steps an epoch has.
  """
  return Schedule(
    kind=section.schedule,
    peak=section.learning_rate,
    warmup_steps=round(section.warmup_epochs * steps_per_epoch),
    num_steps=epochs * steps_per_epoch,
    final_rate=section.final_rate,
    decay_steps=max(round(section.decay_epochs * steps_per_epoch), 1),
    decay_factor=section.decay_factor,
  )
