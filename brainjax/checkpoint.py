"""Checkpoints: Orbax writes them, a sha256 manifest beside each proves them.

Orbax restores a file with a flipped bit without a word, so a checkpoint counts
only if every file matches its manifest, which is written last.
"""

import dataclasses
import json
import pathlib
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from brainjax import InputError, records

_BEST = "validation_loss"


@dataclasses.dataclass(frozen=True)
class Restored:
  """A checkpoint as read.

  Attributes:
    step: Steps done when it was written.
    state: The arrays, like the abstract state asked for.
    loop: The loop's own counters, as saved.
  """

  step: int
  state: Any
  loop: dict[str, Any]


class Checkpoints:
  """The checkpoints of a run: the latest ones and the best.

  Attributes:
    folder: Where they are.
  """

  def __init__(self, folder: pathlib.Path, *, keep: int):
    """Opens or makes the folder.

    Args:
      folder: Of the checkpoints; absolute.
      keep: How many of the latest to keep, besides the best.
    """
    self.folder = folder
    folder.mkdir(parents=True, exist_ok=True)

    def best(metrics):
      return metrics[_BEST]

    self._manager = ocp.CheckpointManager(
      folder,
      item_names=("state", "loop"),
      options=ocp.CheckpointManagerOptions(
        # best_fn is set because without it Orbax forgets the metrics.
        best_fn=best,
        best_mode="min",
        preservation_policy=managers.AnyPreservationPolicy(
          [
            managers.LatestN(keep),
            managers.BestN(
              get_metric_fn=best,
              reverse=True,
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
      ),
    )

  def save(
    self,
    step: int,
    state: Any,
    *,
    loop: dict[str, Any],
    validation_loss: float | None,
  ) -> None:
    """Writes a checkpoint, then its manifest; older ones may go.

    Args:
      step: Steps done.
      state: The arrays.
      loop: The loop's own counters; JSON.
      validation_loss: Decides which is best; None inside an epoch.
    """
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), loop=ocp.args.JsonSave(loop)
      ),
      metrics=None if validation_loss is None else {_BEST: validation_loss},
    )
    folder = self.folder / str(step)
    manifest = {
      str(path.relative_to(folder)): records.sha256_of(path)
      for path in sorted(folder.rglob("*"))
      if path.is_file()
    }
    records.write_text(
      self._manifest(step), json.dumps(manifest, indent=1) + "\n"
    )
    kept = set(self._manager.all_steps())
    for path in self.folder.glob("*.sha256.json"):
      if int(path.name.split(".")[0]) not in kept:
        path.unlink()

  def restore_latest(self, abstract_state: Any) -> Restored | None:
    """Restores the newest sound checkpoint; unsound newer ones are deleted.

    Args:
      abstract_state: `jax.ShapeDtypeStruct`s with the shardings wanted.

    Returns:
      None if there is no sound one.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      if self.is_sound(step):
        return self._restore(step, abstract_state)
      self._manager.delete(step)
    return None

  def restore(self, step: int, abstract_state: Any) -> Restored:
    """Restores one checkpoint.

    Raises:
      InputError: It is gone, or a file does not match the manifest.
    """
    if not self.is_sound(step):
      raise InputError(
        f"{self.folder / str(step)}: the checkpoint is missing or damaged"
        " (sha256); run `brainjax train` again to continue from a sound one"
      )
    return self._restore(step, abstract_state)

  def is_sound(self, step: int) -> bool:
    """Whether every file of the checkpoint matches its manifest."""
    manifest = self._manifest(step)
    if not manifest.is_file():
      return False
    folder = self.folder / str(step)
    return all(
      (folder / name).is_file() and records.sha256_of(folder / name) == sha256
      for name, sha256 in json.loads(manifest.read_text()).items()
    )

  def close(self) -> None:
    """Waits for Orbax and frees its threads."""
    self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()

  def _restore(self, step: int, abstract_state: Any) -> Restored:
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state),
        loop=ocp.args.JsonRestore(),
      ),
    )
    return Restored(step, restored["state"], restored["loop"])

  def _manifest(self, step: int) -> pathlib.Path:
    return self.folder / f"{step}.sha256.json"
