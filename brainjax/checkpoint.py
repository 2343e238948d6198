"""Checkpoints: Orbax writes them, a sha256 manifest beside each proves them.

Orbax restores a file with a flipped bit without a word, so a checkpoint counts
only if every file matches its manifest. The files are written while training
goes on, the manifest after them, and an older checkpoint is deleted only once
a newer one counts.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from brainjax import InputError, records

# Orbax would cut each array that several devices hold into a piece for each of
# them, and compile the cutting for every shape: a minute at the first save of a
# network of small arrays, and nothing gained.
_verbosity = absl_logging.get_verbosity()
absl_logging.set_verbosity(absl_logging.ERROR)  # it warns of the override
ocp.type_handlers.register_type_handler(
  jax.Array,
  ocp.type_handlers.ArrayHandler(use_replica_parallel=False),
  override=True,
)
absl_logging.set_verbosity(_verbosity)


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
    self._keep = keep
    # Step that is being written or just was, and the best then.
    self._begun: tuple[int, int] | None = None
    self._best_step: int | None = None  # when the last one was proven
    folder.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      folder,
      item_names=("state", "loop"),
      options=ocp.CheckpointManagerOptions(
        # Orbax deletes before we know that what it wrote can be read.
        preservation_policy=managers.LatestN(None),
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
      ),
    )

  def save(
    self, step: int, state: Any, *, loop: dict[str, Any], best_step: int
  ) -> None:
    """Begins to write a checkpoint, after the one before it has been proven.

    Returns once the arrays are copied; they may then be donated.

    Args:
      step: Steps done.
      state: The arrays.
      loop: The loop's own counters; JSON.
      best_step: Whose checkpoint is kept, however old it is.

    Raises:
      OSError: This one or the one before cannot be written.
    """
    self.finish()
    with _as_os_error():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), loop=ocp.args.JsonSave(loop)
        ),
      )
    self._begun = step, best_step

  def prove(self) -> None:
    """Writes the manifest of the last checkpoint if its files are complete.

    To be called between steps: it does not wait for them.

    Raises:
      OSError: They could not be written.
    """
    if self._begun and not self._manager.is_saving_in_progress():
      self._prove(*self._begun)

  def _prove(self, step: int, best_step: int) -> None:
    self._begun = None  # one that failed is never proven
    with _as_os_error():
      self._manager.wait_until_finished()
    if not jax.process_index():  # the first process does it for all
      folder = self.folder / str(step)
      manifest = {
        str(path.relative_to(folder)): records.sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
      }
      records.write_text(
        _manifest(self.folder, step), json.dumps(manifest, indent=1) + "\n"
      )
    # Last: until then, the best before it is the one to keep.
    self._best_step = best_step

  def finish(self) -> None:
    """Waits for the last checkpoint, proves it, and deletes what it replaces.

    Raises:
      OSError: It could not be written; nothing is deleted then.
    """
    if self._begun:
      self._prove(*self._begun)
    if self._best_step is None:
      return
    proven = sorted(set(self._manager.all_steps()) & set(_steps(self.folder)))
    oldest_kept = _as_the_first(proven[-self._keep :][0] if proven else 0)
    for step in sorted(self._manager.all_steps()):
      if step < oldest_kept and step != self._best_step:
        self._delete(step)

  def _delete(self, step: int) -> None:
    if not jax.process_index():
      _manifest(self.folder, step).unlink(missing_ok=True)
    self._manager.delete(step)  # by the first process; the others wait

  def restore_latest(
    self, abstract_state: Any, say: Callable[[str], None]
  ) -> Restored | None:
    """Restores the newest sound checkpoint; unsound newer ones are deleted.

    Args:
      abstract_state: `jax.ShapeDtypeStruct`s with the shardings wanted.
      say: Told of each that is deleted.

    Returns:
      None if there is no sound one.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    sound = (step for step in steps if is_sound(self.folder, step))
    newest = _as_the_first(next(sound, -1))
    for step in steps:
      if step == newest:
        return _restore(self._manager, step, abstract_state)
      finished = _manifest(self.folder, step).is_file()
      why = "damaged (sha256)" if finished else "not finished"
      say(f"{self.folder / str(step)}: the checkpoint is {why}; deleted")
      self._delete(step)
    return None

  def close(self) -> None:
    """Finishes the last checkpoint, and frees the threads of Orbax."""
    try:
      self.finish()
    finally:
      self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, exc_type, *exc_info) -> None:
    if exc_type is not None and jax.process_count() > 1:
      return  # the others may not come here, and closing would wait for them
    self.close()


def restore(folder: pathlib.Path, step: int, abstract_state: Any) -> Restored:
  """Restores one checkpoint; nothing in the folder is changed.

  Args:
    folder: Of the checkpoints; absolute.
    step: Of the checkpoint.
    abstract_state: `jax.ShapeDtypeStruct`s with the shardings wanted.

  Raises:
    InputError: It is gone, or a file does not match the manifest.
  """
  _check_sound(folder, step)
  # Read only, or it would delete what a run is just writing.
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(
    folder, item_names=("state", "loop"), options=options
  ) as manager:
    return _restore(manager, step, abstract_state)


def is_sound(folder: pathlib.Path, step: int) -> bool:
  """Whether every file of the checkpoint matches its manifest."""
  manifest = _manifest(folder, step)
  if not manifest.is_file():
    return False
  try:
    sha256_of_name = json.loads(manifest.read_text())
  except ValueError:  # the manifest is what was damaged
    return False
  files = folder / str(step)
  return bool(sha256_of_name) and all(
    (files / name).is_file() and records.sha256_of(files / name) == sha256
    for name, sha256 in sha256_of_name.items()
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


def _restore(
  manager: ocp.CheckpointManager, step: int, abstract_state: Any
) -> Restored:
  restored = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract_state),
      loop=ocp.args.JsonRestore(),
    ),
  )
  return Restored(step, restored["state"], restored["loop"])


def _check_sound(folder: pathlib.Path, step: int) -> None:
  if not is_sound(folder, step):
    raise InputError(
      f"{folder / str(step)}: the checkpoint is missing or damaged"
      " (sha256); run `brainjax train` again to continue from a sound one"
    )


def _as_the_first(step: int) -> int:
  """Returns what the first process says, whose look at the files counts."""
  if jax.process_count() == 1:
    return step
  return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def _manifest(folder: pathlib.Path, step: int) -> pathlib.Path:
  return folder / f"{step}.sha256.json"


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
  """Raises what the file system refused to tensorstore as an `OSError`."""
  try:
    yield
  except ValueError as error:
    said = str(error)
    code = re.search(r"os_error_code='(\d+)'", said)
    if code:
      number = int(code[1])
    elif said.startswith("NOT_FOUND:"):
      number = errno.ENOENT
    else:
      raise
    raise OSError(number, os.strerror(number)) from error


def _steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps that have a manifest."""
  return [int(path.name.split(".")[0]) for path in folder.glob("*.sha256.json")]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path): tuple(leaf.shape)
    for path, leaf in jax.tree.leaves_with_path(tree)
  }
