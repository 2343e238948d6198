"""What a training step of a config takes, before any data is touched.

Compiles the step of `brainjax train` for the devices at hand, for records that
it makes up, all scans of one length, and prints its memory, arithmetic and
traffic. What it compiles is kept, where compiled code is kept at all.

    python launch/aot_check.py --config=FILE[:arg] --slice-shape=H,W,C
      [--scans=R] [--length=S] [--config.SECTION.FIELD=VALUE ...]

By hand is an encoder of slices alone, all of it trained; see `models/cost.py`.
XLA counts all of the step, but a loop's body once, and on a GPU what libraries
do not always. All devices must be those of this process.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence

import brainjax
from brainjax import InputError

EXIT_INPUT = 2


@dataclasses.dataclass(frozen=True)
class Records:
  """As much of a `RecordSet` of images as a step is compiled for."""

  slice_shape: tuple[int, int, int]
  dtype: object
  num_features: None = None

  @property
  def index(self) -> dict[str, list[str]]:
    """Names of the modalities."""
    return {"modalities": [f"{c}" for c in range(self.slice_shape[-1])]}


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table and returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", metavar="FILE[:arg]", help="as of train")
  parser.add_argument("--slice-shape", metavar="H,W,C", help="of a record")
  parser.add_argument(
    "--scans",
    metavar="R",
    help="that train (default: config.data.scans_per_step, at least one a pack"
    " and a class)",
  )
  parser.add_argument(
    "--length",
    metavar="S",
    help="slices of each (default: config.preparation.num_slices)",
  )
  args, unknown = parser.parse_known_args(argv)
  try:
    _check(args, unknown)
  except InputError as error:
    line = " ".join(str(error).split())
    print(f"{parser.prog}: {line}", file=sys.stderr)
    return EXIT_INPUT
  return 0


def _check(args, unknown: Sequence[str]) -> None:
  for argument in unknown:
    if not argument.startswith("--config."):
      raise InputError(f"{argument}: no such argument; see --help")
  if not args.config:
    raise InputError("--config: missing; give a file, as of `brainjax train`")
  slice_shape = _numbers("--slice-shape", args.slice_shape or "missing", 3)
  brainjax.set_xla_flags()
  brainjax.set_compilation_cache()
  from brainjax import config as config_lib

  config = config_lib.load_config(
    args.config, [argument.removeprefix("--config.") for argument in unknown]
  )
  (length,) = _numbers(
    "--length", args.length or str(config.preparation.num_slices), 1
  )
  scans = _numbers("--scans", args.scans, 1)[0] if args.scans else None
  for name, value in table(config, slice_shape, length, scans):
    print(f"{name:22}{value}")


def _numbers(option: str, text: str, count: int) -> tuple[int, ...]:
  fields = text.split(",")
  good = all(f.isascii() and f.isdigit() and int(f) > 0 for f in fields)
  if len(fields) != count or not good:
    wanted = "H,W,C, such as 128,128,1" if count > 1 else "a number from 1"
    raise InputError(f"{option}={text}: give {wanted}")
  return tuple(map(int, fields))


def make_experiment(config, mesh, slice_shape, length: int, scans: int | None):
  """Returns the `Experiment` of a run on such records, all for training.

  Args:
    config: As the user gave it.
    mesh: The devices.
    slice_shape: H, W and C.
    length: Slices S of each scan.
    scans: How many; None for those of a step.

  Raises:
    InputError: A field is wrong, or does not fit the records.
  """
  import ml_collections
  import numpy as np

  from brainjax import config as config_lib
  from brainjax.input import plan
  from brainjax.training import (
    balance,
    config_checks,
    experiment,
    intensity,
    rates,
    sharding,
  )

  config = ml_collections.ConfigDict(config)
  config_checks.check_config(config)
  if config.data.packs is None:
    config.data.packs = sharding.data_devices(mesh)
  config_checks.check_division(config, sharding.data_devices(mesh))
  config_checks.check_regime(config)
  balance.check_balance(config)
  classes = tuple(config_lib.parse_classes(config.task.classes))
  balance.check_output(config, classes)
  if scans is None:
    scans = max(config.data.scans_per_step, config.data.packs, len(classes))
  if scans < len(classes):
    raise InputError(
      f"--scans={scans}: give {len(classes)} or more, one of each class"
    )
  rows = tuple(
    {
      "participant_id": f"{i}",
      "class": classes[i % len(classes)],
      "source": "",
      "split": "train",
      "record_index": f"{i}",
    }
    for i in range(scans)
  )
  lengths = np.full(scans, length, np.int32)
  sampling = balance.make_sampling(config.data.sampling, rows, lengths)
  shape = plan.plan_shape(
    lengths if sampling is None else sampling.envelope,
    packs=config.data.packs,
    scans_per_step=config.data.scans_per_step,
    pack_slices=config.data.pack_slices,
    longest=length,
  )
  config_checks.check_chunks(config, shape.slices)
  dtype = {"u8": np.dtype(np.uint8), "i16": np.dtype(np.int16)}
  records = Records(slice_shape, dtype[config.preparation.dtype])
  percentiles = intensity.PERCENTILES[config.data.intensity]
  # Of any scale; what it is made of is compiled in, and costs the same.
  values = dict.fromkeys(records.index["modalities"], percentiles)
  scale = {"percentiles": percentiles, "values": values}
  made = experiment.Experiment(
    config,
    pathlib.Path(),
    records,
    classes,
    rows,
    np.arange(scans) % len(classes),
    shape,
    sampling,
    scale if percentiles else None,
  )
  try:
    shapes = made.variable_shapes
  except ValueError as error:
    raise InputError(f"config.model: {error}") from error
  rates.check_rates(shapes["params"], made.rates)
  return made


def lower_step(experiment, mesh):
  """Returns the lowered training step, and the shapes of its state."""
  import jax
  import numpy as np

  from brainjax.input import packing
  from brainjax.training import sharding, step

  shape, records = experiment.shape, experiment.record_set
  model, optimizer, settings = experiment.build()
  arrays = packing.pack_batch(
    np.full((shape.packs, shape.rows), -1, np.int32),
    lambda index: None,
    experiment.targets,
    shape,
    slice_shape=records.slice_shape,
    dtype=records.dtype,
    landmarks=settings.standard is not None,
  )
  packs, slices = sharding.over_packs(mesh), sharding.over_slices(mesh)
  batch = {
    name: jax.ShapeDtypeStruct(
      array.shape, array.dtype, sharding=slices if name == "slices" else packs
    )
    for name, array in arrays.items()
  }
  state = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding.replicated(mesh)
    ),
    jax.eval_shape(
      lambda batch: step.init_state(model, optimizer, settings, batch), batch
    ),
  )
  train_step = sharding.parallelise(
    step.make_train_step(model, optimizer, settings),
    mesh,
    experiment.config.mesh.parallelism,
  )
  return train_step.lower(state, batch), state


def table(config, slice_shape, length: int, scans: int | None):
  """Yields name and value of each line; arguments are as of the others."""
  import jax

  from brainjax import config as config_lib
  from brainjax.models import cost
  from brainjax.training import sharding

  mesh = sharding.make_mesh(config.mesh.devices, config.mesh.slice_devices)
  experiment = make_experiment(config, mesh, slice_shape, length, scans)
  shape, encoder = experiment.shape, experiment.build()[0].encoder
  lowered, state = lower_step(experiment, mesh)
  size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  yield "parameters", f"{size:,}"
  slots = shape.packs * shape.slices
  yield (
    "slices a step",
    f"{slots:,} in {shape.packs} packs, of which"
    f" {length * len(experiment.scans) / shape.steps_per_epoch:,.0f} of scans",
  )
  began = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - began
  yield "compiled in", f"{seconds:.0f} s"
  device = jax.devices()[0].device_kind
  yield f"each of {mesh.size} device(s)", device
  memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
  for what, num_bytes in (
    ("arguments", memory.argument_size_in_bytes),
    ("temporaries", memory.temp_size_in_bytes),
    ("output", memory.output_size_in_bytes),
    ("output in arguments", memory.alias_size_in_bytes),
  ):
    yield what, f"{num_bytes / 1e6:,.1f} MB"
  share = slots / mesh.size
  if config_lib.reads_volumes(config.model.encoder.preset):
    yield "FLOPs a step", f"{counted['flops'] / 1e9:,.3f} G by XLA"
    yield "bytes a step", f"{counted['bytes accessed'] / 1e6:,.1f} MB by XLA"
    return
  flops = share * cost.training_flops(encoder, slice_shape)
  floor = share * cost.training_bytes(encoder, slice_shape)
  yield (
    "FLOPs a step",
    f"{flops / 1e9:,.3f} G by hand, {counted['flops'] / 1e9:,.3f} G by XLA",
  )
  yield (
    "bytes a step",
    f"{floor / 1e6:,.1f} MB at least, by hand;"
    f" {counted['bytes accessed'] / 1e6:,.1f} MB by XLA",
  )


if __name__ == "__main__":
  sys.exit(main())
