"""What a run does about a step whose loss or gradient is not finite.

The step has already rejected the update, see `step.make_train_step`.
"""

import collections
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from brainjax import InputError, records
from brainjax.training import processes
from brainjax.training.experiment import Experiment


class Guard:
  """Ends the run at such a step, or counts it and goes on.

  Attributes:
    counts: `{"skipped", "in_a_row"}`, steps so far, and of late without one
      that was finite. They are part of a checkpoint.
  """

  def __init__(self, experiment: Experiment, counts: Mapping[str, int]):
    """Counts on from a checkpoint, or from `{}`."""
    self.counts = {"skipped": 0, "in_a_row": 0, **counts}
    self._experiment = experiment
    # The step before, the one that is judged, and the one under way.
    self._batches: collections.deque[tuple[int, jax.Array]] = collections.deque(
      maxlen=3
    )

  def watch(self, step: int, batch: Mapping[str, jax.Array]) -> None:
    """Remembers which scans a step is made of."""
    self._batches.append((step, batch["record_index"]))

  def accepts(self, step: int, finite: bool) -> bool:
    """Whether the sums of a step are of use.

    Raises:
      InputError: They are not, and the run is to end; `non_finite.json` names
        the scans of that step and of the one before.
    """
    if finite:
      self.counts["in_a_row"] = 0
      return True
    self.counts["skipped"] += 1
    self.counts["in_a_row"] += 1
    train, in_a_row = self._experiment.config.train, self.counts["in_a_row"]
    if train.non_finite == "skip" and in_a_row <= train.most_skipped:
      return False
    path = self._experiment.workdir / "non_finite.json"
    scans = self._scans(step)
    if processes.is_first():
      records.write_text(path, json.dumps(scans, indent=1) + "\n")
    raise InputError(
      f"{self._experiment.workdir}: the loss or a gradient of step {step} is"
      f" not finite and the update was rejected, {in_a_row} in a row; lower"
      " config.optimizer.learning_rate, or look at the scans that"
      f" {path.name} names"
    )

  def _scans(self, last_step: int) -> dict[str, Any]:
    rows = self._experiment.record_set.rows
    return {
      "step": last_step,
      "batches": [
        {
          "step": step,
          "scans": [
            {
              "participant_id": rows[i]["participant_id"],
              "session_id": rows[i].get("session_id", ""),
              "record_index": i,
            }
            for i in _record_indices(array)
          ],
        }
        for step, array in self._batches
        if last_step - 1 <= step <= last_step
      ],
    }


def _record_indices(array: jax.Array) -> list[int]:
  """Returns those of all processes, without filler."""
  return [int(i) for i in np.unique(processes.fetch(array)) if i >= 0]
