"""Checkpoints: Orbax writes them, a sha256 manifest beside each proves them.

Orbax restores a file with a flipped bit without a word, so a checkpoint counts
only if every file matches its manifest, which is written last.
"""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
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
      _manifest(self.folder, step), json.dumps(manifest, indent=1) + "\n"
    )
    kept = set(self._manager.all_steps())
    for step_there in _steps(self.folder):
      if step_there not in kept:
        _manifest(self.folder, step_there).unlink()

  def restore_latest(self, abstract_state: Any) -> Restored | None:
    """Restores the newest sound checkpoint; unsound newer ones are deleted.

    Args:
      abstract_state: `jax.ShapeDtypeStruct`s with the shardings wanted.

    Returns:
      None if there is no sound one.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      if is_sound(self.folder, step):
        return self._restore(step, abstract_state)
      self._manager.delete(step)
    return None

  def restore(self, step: int, abstract_state: Any) -> Restored:
    """Restores one checkpoint.

    Raises:
      InputError: It is gone, or a file does not match the manifest.
    """
    _check_sound(self.folder, step)
    return self._restore(step, abstract_state)

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


def is_sound(folder: pathlib.Path, step: int) -> bool:
  """Whether every file of the checkpoint matches its manifest."""
  manifest = _manifest(folder, step)
  if not manifest.is_file():
    return False
  files = folder / str(step)
  return all(
    (files / name).is_file() and records.sha256_of(files / name) == sha256
    for name, sha256 in json.loads(manifest.read_text()).items()
  )


def latest_loop(folder: pathlib.Path) -> dict[str, Any] | None:
  """Reads the loop's counters of the newest sound checkpoint.

  Nothing in the folder is changed, and it need not exist.

  Returns:
    None if there is no sound one.
  """
  for step in sorted(_steps(folder), reverse=True):
    if is_sound(folder, step):
      with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
        return handler.restore((folder / str(step) / "loop").resolve())
  return None


def restore_arrays(
  folder: pathlib.Path, step: int, abstract: dict[str, Any]
) -> dict[str, Any]:
  """Reads some fields of the state, on whatever devices it was written.

  Args:
    folder: Of the checkpoints; nothing in it is changed.
    step: Of the checkpoint.
    abstract: `jax.ShapeDtypeStruct`s of the fields wanted.

  Returns:
    The fields as numpy arrays.

  Raises:
    InputError: It is gone, a file does not match the manifest, or the fields
      have other shapes.
  """
  _check_sound(folder, step)
  path = (folder / str(step) / "state").resolve()
  with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    stored = handler.metadata(path).tree
    # Checked here: Orbax leaves out what it does not find, and takes any shape.
    if _shapes({name: stored.get(name) for name in abstract}) != _shapes(
      abstract
    ):
      raise InputError(
        f"{path}: its parameters are not those of the model that model.json"
        " describes; use the version of brainjax that trained it"
      )
    return handler.restore(
      path,
      args=ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract
        ),
        partial_restore=True,
      ),
    )


def sha256_of_step(folder: pathlib.Path, step: int) -> str:
  """Returns the sha256 of a checkpoint's manifest, and so of all its files."""
  return records.sha256_of(_manifest(folder, step))


def _check_sound(folder: pathlib.Path, step: int) -> None:
  if not is_sound(folder, step):
    raise InputError(
      f"{folder / str(step)}: the checkpoint is missing or damaged"
      " (sha256); run `brainjax train` again to continue from a sound one"
    )


def _manifest(folder: pathlib.Path, step: int) -> pathlib.Path:
  return folder / f"{step}.sha256.json"


def _steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps that have a manifest."""
  return [int(path.name.split(".")[0]) for path in folder.glob("*.sha256.json")]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path): tuple(leaf.shape)
    for path, leaf in jax.tree.leaves_with_path(tree)
  }
