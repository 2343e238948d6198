"""An encoder for every fold, fitted on that fold's training groups alone.

Features of one encoder for all folds would have seen, for most folds, the
groups they are tested on. Each run is an ordinary one and is continued as such.
"""

import pathlib
from collections.abc import Sequence

import ml_collections
import rich.console

from brainjax import InputError
from brainjax import config as config_lib
from brainjax.models import build
from brainjax.training import config_checks, encode, train
from brainjax.training import folds as folds_lib


def num_features(config: ml_collections.ConfigDict) -> int:
  """Returns D, how many features a slice will have.

  Raises:
    InputError: A field of the config is wrong.
  """
  config_checks.check_config(config)
  preset = config.model.encoder.preset
  if config_lib.reads_volumes(preset):
    raise InputError(
      f"config.model.encoder.preset={preset!r}: describes scans as a whole, so"
      " that slices have no features for heads to read; add --end-to-end, or"
      " choose an encoder of slices"
    )
  return build.build_encoder(preset).num_features


def fit_encoders(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  folds: Sequence[folds_lib.Fold],
  *,
  console: rich.console.Console,
) -> ml_collections.ConfigDict:
  """Trains the encoder of every fold, and encodes all scans with each.

  Unless the config's objective is to reconstruct, the encoder learns behind
  `mean`, a head that knows no order: one of those compared would have had an
  encoder made for it.

  Args:
    config: Of the ablation; its records are images.
    workdir: Of the ablation.
    folds: The folds.
    console: Where progress is shown.

  Returns:
    The config of heads on these features; in the folder of its records,
    "{fold}" stands for the fold's name.

  Raises:
    InputError: As `train.train` does.
    Stopped: As it does.
  """
  for fold in folds:
    one = folds_lib.config_of_fold(config, fold)
    with one.unlocked():
      one.model.head = ml_collections.ConfigDict(
        {
          "name": "mean",
          "projection": 0,
          "budget": config_lib.config_dict.placeholder(int),
        }
      )
    run = workdir / "encoders" / fold.name
    train.train(one, run, console=console)
    encode.encode(run, workdir / "features" / fold.name)
  config = config_checks.leave_encoder(config)
  config.data.records = str(workdir.resolve() / "features" / "{fold}")
  return config
