"""The files of a run's workdir, and what a restart may change of them."""

import contextlib
import csv
import datetime
import errno
import importlib.metadata
import json
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.input import plan

SPLIT_COLUMNS = (
  "participant_id",
  "session_id",
  "group_id",
  "source",
  "label",
  "class",
  "split",
  "fold",
  "record_index",
)
# What may differ when a run is started again; it changes no earlier step.
FREE_FIELDS = (
  "train.epochs",
  "train.log_every_steps",
  "train.accumulation",
  "model.encoder.residuals",
  "train.non_finite",
  "train.most_skipped",
  "train.tensorboard",
  "train.profile_steps",
  "checkpoint.",
  "mesh.",
  "eval.",
  "data.read_threads",
  "data.prefetch_steps",
  "data.mode",
  "data.resident_gb",
)

# What a file system says when it is full, gone or may not be written.
_REFUSALS = {
  *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES),
  *(errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENOTCONN),
}


@contextlib.contextmanager
def saving(workdir: pathlib.Path) -> Iterator[None]:
  """Says in one line that a file of a run cannot be written.

  Raises:
    InputError: Instead of an `OSError` of a full or lost folder.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _REFUSALS:
      raise
    file = f" ({error.filename})" if error.filename else ""
    raise InputError(
      f"{workdir}: {error.strerror}{file}; make room, or bring the folder back,"
      " and start the same command again: it continues from the last sound"
      " checkpoint"
    ) from error


def read_config(path: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads a resolved `config.json`.

  A field that was not there when it was written has its default, which is
  always what was done before.
  """
  fields: Any = _tuples(json.loads(path.read_text()))
  if fields["data"].get("pack_slices") is None:
    # Written before there was a choice: the run keeps its plan.
    fields["data"].setdefault("steps_per_epoch", plan.NEAREST)
  rate = fields["optimizer"].pop("encoder_rate", 1.0)
  if rate != 1:  # written before there were `rates`
    fields["optimizer"]["rates"] = (f"encoder: {rate}",)
  defaults = config_lib.get_config(f"head={fields['model']['head']['name']}")
  return ml_collections.ConfigDict(_merged(defaults.to_dict(), fields))


def read_scans(path: pathlib.Path) -> tuple[dict[str, str], ...]:
  """Reads `splits.csv`: the scans that take part in the run."""
  with open(path, newline="", encoding="utf-8") as file:
    return tuple(csv.DictReader(file))


def adopt_unset(
  config: ml_collections.ConfigDict, earlier: ml_collections.ConfigDict
) -> None:
  """Fills what a restart leaves unset with what the first start derived."""
  fields = config_lib.leaf_fields(earlier)
  for name, value in config_lib.leaf_fields(config).items():
    # What the machine has may change from start to start; the packs stay.
    of_machine = name in ("mesh.devices", "data.resident_gb")
    if value is None and fields.get(name) is not None and not of_machine:
      config_lib.set_field(config, f"{name}={fields[name]}")


def refuse_changes(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Raises `InputError` if the workdir holds a run of another config.

  A field that the run does not know yet must have its default.
  """
  before = config_lib.leaf_fields(read_config(workdir / "config.json"))
  after = config_lib.leaf_fields(config)
  epochs = before["train.epochs"]
  if before["optimizer.schedule"] == after[
    "optimizer.schedule"
  ] == "cosine" and (epochs != after["train.epochs"]):
    raise InputError(
      f"config.train.epochs ({epochs} before, {after['train.epochs']} now): the"
      f" cosine schedule of {workdir} ends with its last epoch; leave it at"
      f" {epochs}, or choose another --workdir and start from this run with"
      " config.model.init_from"
    )
  changed = [
    f"config.{name} ({before.get(name)!r} before, {value!r} now)"
    for name, value in sorted(after.items())
    if before.get(name) != value and not name.startswith(FREE_FIELDS)
  ]
  if changed:
    raise InputError(
      f"{workdir}: holds a run of another config: {'; '.join(changed)};"
      " choose another --workdir"
    )


def write_environment_file(workdir: pathlib.Path) -> None:
  """Writes `environment.json`: versions, devices and command of this start."""
  records.write_text(
    workdir / "environment.json",
    json.dumps(environment(), indent=2) + "\n",
  )


def environment() -> dict[str, Any]:
  """Returns versions, devices, command and date of this process."""
  packages = ("brainjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  return {
    "command": " ".join(["brainjax", *sys.argv[1:]]),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "machine": platform.machine(),
    "system": platform.platform(),
    **{name: importlib.metadata.version(name) for name in packages},
    "platform": jax.default_backend(),
    "devices": [device.device_kind for device in jax.devices()],
    "git_revision": git_revision(),
  }


def _merged(defaults, fields):
  if not isinstance(defaults, dict) or not isinstance(fields, dict):
    return fields
  return defaults | {
    name: _merged(defaults.get(name), value) for name, value in fields.items()
  }


def _tuples(value):
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(value) if isinstance(value, list) else value


def git_revision() -> str | None:
  """Returns the commit of the source; None where it is not under git."""
  if not shutil.which("git"):
    return None
  found = subprocess.run(
    ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  )
  return found.stdout.strip() or None
