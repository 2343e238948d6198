"""The model of a run, from `model.json` and its best checkpoint alone.

The records, the splits, the config and the devices of the training may be
gone.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from brainjax import InputError, checkpoint
from brainjax import config as config_lib
from brainjax.models import build
from brainjax.models.classifier import Classifier
from brainjax.training.step import OBJECTIVES

SCHEMA_VERSION = 3  # of model.json


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model that can be used.

  Attributes:
    workdir: Of the run.
    facts: What `model_file.write_model_file` wrote.
    model: The classifier.
    variables: Its parameters and BatchNorm statistics, numpy arrays.
    step: Of the checkpoint they are from.
    checkpoint_sha256: Identifies that checkpoint.
  """

  workdir: pathlib.Path
  facts: dict[str, Any]
  model: Classifier
  variables: dict[str, Any]
  step: int
  checkpoint_sha256: str

  @property
  def calibration(self) -> dict[str, Any] | None:
    """Temperature and operating point of these parameters, if known."""
    return calibration_of(self.facts, self.step)


def load_trained(workdir: pathlib.Path) -> Trained:
  """Loads the model of a run, on any machine and without its records.

  A head that was trained on features comes behind the encoder that made them.

  Raises:
    InputError: The run is not ready, or a file is missing or damaged.
  """
  facts = read_model_file(workdir)
  features = facts.get("encoder")
  model = build_model(
    ml_collections.ConfigDict(facts["model"]),
    facts["classes"],
    facts["slice_shape"][-1] if features else None,
    negative=facts["negative"],
  )
  abstract = variable_shapes(model, facts["objective"], facts["slice_shape"])
  averaged = facts["weights"] == "averages"
  if averaged:
    abstract = {"averages": abstract}
  step, folder = best_step(workdir), workdir / "checkpoints"
  variables = checkpoint.restore_arrays(folder, step, abstract)
  variables = variables["averages"] if averaged else variables
  run = Trained(
    workdir=workdir,
    facts=facts,
    model=model,
    variables=variables,
    step=step,
    checkpoint_sha256=checkpoint.sha256_of_step(folder, step),
  )
  return _behind_encoder(run, features) if features else run


def variable_shapes(
  model: Classifier, objective: str, slice_shape: Sequence[int]
) -> dict[str, Any]:
  """Returns the shapes and types of a model's `{"params", "batch_stats"}`.

  Args:
    model: The model.
    objective: What it learns, one of `step.OBJECTIVES`.
    slice_shape: H, W and C.
  """
  slots, method = (1, 1), OBJECTIVES[objective]
  return jax.eval_shape(
    functools.partial(
      model.init, num_rows=1, max_length=1, train=False, method=method
    ),
    jax.random.key(0),
    jax.ShapeDtypeStruct((*slots, *slice_shape), np.float32),
    jax.ShapeDtypeStruct(slots, np.int32),
    jax.ShapeDtypeStruct(slots, np.int32),
    jax.ShapeDtypeStruct(slots, np.float32),
  )


def read_model_file(workdir: pathlib.Path) -> dict[str, Any]:
  """Reads `model.json`; lists become tuples, as in a config.

  Raises:
    InputError: It is missing, or of another schema version.
  """
  path = workdir / "model.json"
  if not path.is_file():
    raise InputError(
      f"{path}: missing; give the --workdir of a run of `brainjax train`"
    )
  content = json.loads(path.read_text(), object_hook=_with_tuples)
  if content["schema_version"] != SCHEMA_VERSION:
    raise InputError(
      f"{path}: schema version {content['schema_version']}, this brainjax"
      f" reads {SCHEMA_VERSION}; run `brainjax train` again, with another"
      " --workdir"
    )
  if content.setdefault("weights", "params") == "ema":
    raise InputError(
      f"{path}: its averages are of an earlier brainjax and leave out"
      " BatchNorm's statistics; run `brainjax train` again, with another"
      " --workdir"
    )
  # A run from before these existed told all classes apart alike.
  content["model"] = {"output": "flat"} | content["model"]
  defaults = {"negative": "", "calibration": None, "intensity": None}
  return defaults | content


def calibration_of(
  facts: Mapping[str, Any], step: int
) -> dict[str, Any] | None:
  """Returns what `evaluation/calibrate.py` fitted; None if to other parameters.

  Args:
    facts: Of `read_model_file`.
    step: Of the parameters.
  """
  found = facts.get("calibration")  # there once validation has been scored
  return found if found and found["step"] == step else None


def shared_facts(workdirs: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Returns `model.json` of the first of runs that can answer together.

  Raises:
    InputError: A file is missing, or a run has other classes, modalities or
      another preparation than the first.
  """
  first, *others = [read_model_file(workdir) for workdir in workdirs]
  for workdir, facts in zip(workdirs, [first, *others], strict=True):
    if facts["objective"] == "reconstruct":
      raise InputError(
        f"{workdir}: an auto-encoder's run, which has no answer; train a head"
        f" on it, --config.model.init_from={workdir}, and ask that"
      )
  wanted = _decisive(first)
  for workdir, facts in zip(workdirs[1:], others, strict=True):
    found = _decisive(facts)
    for name in sorted(wanted.keys() | found.keys()):
      if wanted.get(name) != found.get(name):
        raise InputError(
          f"{workdir}: its {name} is {found.get(name)}, that of {workdirs[0]}"
          f" is {wanted.get(name)}; only runs of the same classes and"
          " preparation answer together"
        )
  return first


def preparation_of(facts: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns how a run's records were prepared, in fields of today.

  One that was not there then has its default, which is what was done.
  """
  section = config_lib.get_config().preparation
  with section.unlocked():
    section.update(facts["preparation"])
  return section


def build_model(
  section: ml_collections.ConfigDict,
  classes: Sequence[str],
  num_features: int | None = None,
  axis_name: str | None = None,
  *,
  negative: str,
) -> Classifier:
  """Builds the model of the config's section `model`.

  Args:
    section: Of the config.
    classes: Names, in index order.
    num_features: D, if it reads features; None, if it reads images.
    axis_name: Of a mapped axis that its packs are dealt over.
    negative: `task.negative`, which an output of "hierarchical" needs.
  """
  return build.build_classifier(
    preset=section.encoder.preset,
    statistics=section.encoder.statistics,
    head=section.head.to_dict(),
    dropout=section.dropout,
    dtype=section.dtype,
    num_classes=len(classes),
    in_plane=section.attention.in_plane,
    slice_axis=section.attention.slice_axis,
    decoder=section.decoder,
    num_features=num_features,
    # A model of before there was a choice kept what is fast.
    residuals=section.encoder.get("residuals", "fast"),
    axis_name=axis_name,
    negative=classes.index(negative)
    if section.output == "hierarchical"
    else None,
  )


def best_step(workdir: pathlib.Path) -> int:
  """Returns the step of the lowest validation loss, as of the last epoch.

  Raises:
    InputError: The run has no sound checkpoint yet.
  """
  loop = checkpoint.latest_loop(workdir / "checkpoints")
  if loop is None or not loop["best_step"]:
    raise InputError(
      f"{workdir / 'checkpoints'}: no checkpoint of a whole epoch yet; run"
      " `brainjax train` to its end first"
    )
  return loop["best_step"]


def _behind_encoder(head: Trained, features: Mapping[str, Any]) -> Trained:
  """Returns a head that was trained on features behind their encoder."""
  said = f"{head.workdir}: trained on features of {features['workdir']}"
  try:
    run = load_trained(pathlib.Path(features["workdir"]))
  except InputError as error:
    raise InputError(f"{said}, which is needed: {error}") from error
  if run.checkpoint_sha256 != features["checkpoint_sha256"]:
    raise InputError(
      f"{said}, step {features['step']}, whose best step is {run.step} by now;"
      " run `brainjax encode` again, and train again with another --workdir"
    )
  variables = {
    kind: {name: tree[name] for name in ("encoder", "in_plane") if name in tree}
    for kind, tree in run.variables.items()
  }
  variables["params"] |= head.variables["params"]
  facts = {**head.facts, "intensity": run.facts["intensity"]}
  model = head.model.clone(
    encoder=run.model.encoder, in_plane=run.model.in_plane
  )
  return dataclasses.replace(
    head, facts=facts, model=model, variables=variables
  )


def _decisive(facts: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what must be equal in runs that answer together."""
  preparation = preparation_of(facts)
  return {
    "classes": facts["classes"],
    **{
      f"preparation.{name}": value
      for name, value in config_lib.leaf_fields(preparation).items()
      if name != "shard_scans"  # how records were stored
    },
    # Where the config leaves it to the manifest, this says what it was.
    "preparation.modalities": facts["modalities"],
  }


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in fields.items()
  }
