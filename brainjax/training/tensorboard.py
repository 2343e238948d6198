"""The log's numbers for TensorBoard, beside `metrics.jsonl`."""

import importlib
import pathlib
from collections.abc import Mapping
from types import ModuleType

from brainjax import InputError


class TensorBoard:
  """Event files, which `tensorboard --logdir` shows."""

  def __init__(self, folder: pathlib.Path, *, first_step: int):
    """Opens the folder to continue after `first_step` steps.

    Raises:
      InputError: tensorboardX is not installed.
    """
    self._writer = load_module().SummaryWriter(
      str(folder), purge_step=first_step + 1
    )

  def write(self, line: Mapping[str, float]) -> None:
    """Adds a line of the log: each of its numbers, at its step."""
    for name, value in line.items():
      if name != "step":
        self._writer.add_scalar(name, value, line["step"])

  def close(self) -> None:
    """Writes what is still held back."""
    self._writer.close()


def load_module() -> ModuleType:
  """Returns tensorboardX.

  Raises:
    InputError: It is not installed.
  """
  try:
    return importlib.import_module("tensorboardX")
  except ModuleNotFoundError as error:
    raise InputError(
      "config.train.tensorboard=True: tensorboardX is not installed; run `pip"
      " install 'brainjax[tensorboard]'`, or leave the field at False"
    ) from error
