"""Where a run starts from: another run, or a file of torchvision's weights."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from brainjax import InputError, records
from brainjax.models import pretrained
from brainjax.training import trained

GROUP_FIELDS = (
  "encoder_group_ids",
  "model_group_ids",
  "selection_group_ids",
)
_FIELD = "config.model.init_from"


@dataclasses.dataclass(frozen=True)
class StartingPoint:
  """Weights to start from, and whom they were fitted on.

  Attributes:
    path: Workdir or file.
    sha256: Of the file, or of the checkpoint.
    variables: `{"params", "batch_stats"}`, numpy arrays by module.
    classes: What the classifier tells apart; empty if there is none.
    encoder_group_ids: The groups that the encoder was fitted on.
    model_group_ids: Those that any part of the model was.
    selection_group_ids: Those that its checkpoint was chosen by.
  """

  path: pathlib.Path
  sha256: str
  variables: Mapping[str, Any]
  classes: tuple[str, ...] = ()
  encoder_group_ids: tuple[str, ...] = ()
  model_group_ids: tuple[str, ...] = ()
  selection_group_ids: tuple[str, ...] = ()


def read_starting_point(
  path: pathlib.Path, encoder: nn.Module, slice_shape: tuple[int, ...]
) -> StartingPoint:
  """Reads a workdir, or a file of weights of the encoder.

  Args:
    path: Workdir of a run, or a file; see `pretrained.read_weights`.
    encoder: That of the run to start.
    slice_shape: H, W and C of its slices.

  Raises:
    InputError: There is neither, or it does not fit.
  """
  if path.is_dir():
    run = trained.load_trained(path)
    return StartingPoint(
      path=path,
      sha256=run.checkpoint_sha256,
      variables=run.variables,
      classes=tuple(run.facts["classes"]),
      **{name: run.facts[name] for name in GROUP_FIELDS},
    )
  try:
    variables = pretrained.load_encoder(path, encoder, slice_shape)
  except (OSError, ValueError) as error:
    raise InputError(f"{_FIELD}={path}: {error}") from error
  return StartingPoint(
    path=path,
    sha256=records.sha256_of(path),
    variables={name: {"encoder": tree} for name, tree in variables.items()},
  )


def start_from(
  point: StartingPoint,
  variables: Mapping[str, Any],
  classes: Sequence[str],
) -> tuple[dict[str, Any], str]:
  """Takes over what has the same name and shape.

  The encoder must fit whole. A head is taken whole or not at all, and so is a
  classifier, which must tell the same classes apart.

  Args:
    point: Where from.
    variables: `{"params", "batch_stats"}` of the model: arrays, or shapes.
    classes: What it is to tell apart.

  Returns:
    `{"params", "batch_stats"}`, holding the modules taken over alone; and a
    line that says what starts from where.

  Raises:
    InputError: The encoder does not fit.
  """
  given, wanted = point.variables, variables["params"]
  differences = {name: _difference(given, variables, name) for name in wanted}
  if differences["encoder"]:
    raise InputError(
      f"{_FIELD}={point.path}: its encoder is another one"
      f" ({differences['encoder']}); set config.model.encoder.preset and the"
      " modalities as they were"
    )
  # Names alone would give a classifier to other classes, or to another head.
  if point.classes != tuple(classes) or differences.get("head"):
    differences["classifier"] = "of something else"
  fresh = [name for name in wanted if differences[name]]
  taken = [name for name in wanted if not differences[name]]
  size = sum(
    leaf.size for name in taken for leaf in jax.tree.leaves(wanted[name])
  )
  said = (
    f"{size:,} parameters ({', '.join(taken)}) start from {point.path} (sha256"
    f" {point.sha256[:12]})"
  )
  if fresh:
    said += f"; drawn at random: {', '.join(fresh)}"
  unused = [name for name in given["params"] if name not in wanted]
  if unused:
    said += f"; not used of it: {', '.join(unused)}"
  found = {
    kind: {name: tree[name] for name in taken if name in tree}
    for kind, tree in given.items()
  }
  return found, said


def _difference(
  given: Mapping[str, Any], wanted: Mapping[str, Any], name: str
) -> str:
  """Says how a module differs; "" if all of it is there and fits."""
  for kind, tree in wanted.items():
    if name not in tree:
      continue
    found = dict(jax.tree.leaves_with_path(given.get(kind, {}).get(name, {})))
    for path, leaf in jax.tree.leaves_with_path(tree[name]):
      where = f"{name}{jax.tree_util.keystr(path)}"
      if path not in found:
        return f"no {where}"
      if np.shape(found[path]) != leaf.shape:
        return f"{where} is {np.shape(found[path])}, not {leaf.shape}"
    if len(found) > len(jax.tree.leaves(tree[name])):
      return f"more layers in {name}"
  return ""
