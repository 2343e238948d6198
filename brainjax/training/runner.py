"""A run on its devices: the state, the compiled steps, the batches."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from brainjax import checkpoint
from brainjax.input import packing, pipeline, resident
from brainjax.training import experiment as experiment_lib
from brainjax.training import inference, processes, sharding, trained
from brainjax.training import step as step_lib
from brainjax.training import throughput as throughput_lib
from brainjax.training.state import AveragedState


class Runner:
  """A run on its devices: the state, the compiled steps, the batches.

  Attributes:
    experiment: The run's facts.
    state: The current `TrainState`.
  """

  def __init__(self, experiment: experiment_lib.Experiment):
    """Builds the model and its first state."""
    self.experiment = experiment
    model, optimizer, self._settings = experiment.build()
    self._mesh = _mesh_of(experiment)
    self._packs = sharding.local_packs(self._mesh, experiment.shape.packs)
    self._put = sharding.batch_putter(self._mesh)
    self._model, self._optimizer = model, optimizer
    everywhere = sharding.replicated(self._mesh)
    self._example = self._put(self._empty_batch())
    init = jax.jit(
      lambda batch: step_lib.init_state(
        model, optimizer, self._settings, batch
      ),
      out_shardings=everywhere,
    )
    self.state = init(self._example)

  @property
  def num_parameters(self) -> int:
    """Trained numbers of the model."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

  def abstract_state(self) -> Any:
    """Shapes, types and shardings of the state, to restore into."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=leaf.sharding
      ),
      self.state,
    )

  def adopt(self, state: Any) -> None:
    """Takes a restored state."""
    # Restored arrays may not be donatable; a copy by XLA is.
    self.state = jax.jit(
      lambda tree: jax.tree.map(lambda leaf: leaf + 0, tree),
      out_shardings=sharding.replicated(self._mesh),
    )(state)

  def start_from(self, variables: Mapping[str, Any]) -> None:
    """Takes modules of `{"params", "batch_stats"}` for its own, at step 0."""
    state = self.state.replace(
      params=self.state.params | variables["params"],
      batch_stats=self.state.batch_stats | variables["batch_stats"],
    )
    if isinstance(state, AveragedState):
      started = {"params": state.params, "batch_stats": state.batch_stats}
      state = state.replace(averages=started)
    self.adopt(state)

  @functools.cached_property
  def train_step(self) -> jax.stages.Compiled:
    """The compiled training step; it never compiles again."""
    step = sharding.parallelise(
      step_lib.make_train_step(self._model, self._optimizer, self._settings),
      self._mesh,
      self.experiment.config.mesh.parallelism,
    )
    return step.lower(self.state, self._example).compile()

  @functools.cached_property
  def eval_step(self) -> jax.stages.Compiled:
    """The compiled evaluation step."""
    step = jax.jit(
      inference.make_eval_step(self._model, self._settings),
      out_shardings=sharding.over_packs(self._mesh),
    )
    return step.lower(self.state, self._example).compile()

  @functools.cached_property
  def placement(self) -> resident.Placement:
    """Where the training slices are; `InputError` if they cannot be there."""
    experiment, data = self.experiment, self.experiment.config.data
    return resident.choose_placement(
      data.mode,
      resident.slices_bytes(experiment.record_set, experiment.subset("train")),
      limit_bytes=resident.default_limit(
        data.mode, jax.local_devices()[0].memory_stats()
      )
      if data.resident_gb is None
      else data.resident_gb * 1e9,
      num_devices=sharding.data_devices(self._mesh),
      num_processes=jax.process_count(),
    )

  @functools.cached_property
  def throughput(self) -> throughput_lib.Throughput | None:
    """What training on a slice takes; see `throughput.of_run`."""
    kind = jax.devices()[0].device_kind
    return throughput_lib.of_run(
      self.experiment, self._model.encoder, self._mesh.size, kind
    )

  @property
  def where_slices_are(self) -> str:
    """Says in a line what `placement` is."""
    size = f"training slices: {self.placement.num_bytes / 1e6:.1f} MB, "
    if self.placement.dealt:
      return size + "dealt over the devices"
    if self.placement.resident:
      return size + "on every device"
    experiment, data = self.experiment, self.experiment.config.data
    most = pipeline.batches_in_flight(data.read_threads, data.prefetch_steps)
    one = pipeline.batch_bytes(experiment.record_set, experiment.shape) / 1e6
    return size + f"streamed, at most {most} batches of {one:.1f} MB at once"

  def training_batches(self, *, first_step: int, num_steps: int):
    """Yields the device batches of steps `first_step` to `num_steps` - 1."""
    experiment, data = self.experiment, self.experiment.config.data
    record_set, subset = experiment.record_set, experiment.subset("train")
    rows_of = pipeline.training_rows(
      record_set.lengths,
      subset,
      experiment.shape,
      seed=experiment.config.train.seed,
      packs=self._packs,
      sampling=experiment.sampling,
    )
    source = record_set, rows_of, experiment.targets, experiment.shape
    landmarks = self._settings.standard is not None
    steps = {"first_step": first_step, "num_steps": num_steps}
    if not self.placement.resident:
      return pipeline.training_batches(
        *source,
        **steps,
        read_threads=data.read_threads,
        prefetch_steps=data.prefetch_steps,
        put=self._put,
        landmarks=landmarks,
      )
    put, take = sharding.row_store(self._mesh, dealt=self.placement.dealt)
    rows, scans = resident.load(
      record_set,
      subset,
      multiple_of=sharding.data_devices(self._mesh),
      read_threads=data.read_threads,
      landmarks=landmarks,
    )
    return resident.training_batches(
      put(rows),
      scans,
      take,
      *source,
      **steps,
      prefetch_steps=data.prefetch_steps,
      put=self._put,
      landmarks=landmarks,
    )

  def score(self, subset: np.ndarray) -> np.ndarray:
    """Scores every scan of a subset exactly once.

    Args:
      subset: i64[T] record indices.

    Returns:
      f64[T,K] log-probabilities, in the order of `subset`; or f64[T,1] mean
      squared errors, see `inference.make_eval_step`.
    """
    outputs = [
      (batch["record_index"], self.eval_step(self.state, batch))
      for batch in self._evaluation_batches(subset)
    ]
    found = {}
    for record_index, log_probabilities in processes.fetch(outputs):
      for index, row in zip(
        record_index.ravel(),
        log_probabilities.reshape(-1, log_probabilities.shape[-1]),
        strict=True,
      ):
        if index >= 0:
          found[int(index)] = row
    return np.array([found[int(index)] for index in subset], np.float64)

  def attention(self, subset: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Asks what the model weighs in every scan of a subset.

    Args:
      subset: i64[T] record indices.

    Returns:
      For each of `subset`, f32[S,...] by the names of
      `inference.make_attention_step`; nothing at all without attention.
    """
    step = inference.make_attention_step(self._model, self._settings)
    if not jax.eval_shape(step, self.state, self._example):
      return []
    found = dict(self._of_slices(step, subset))
    return [found[int(index)] for index in subset]

  @property
  def code_size(self) -> int:
    """Numbers of the auto-encoder's code of a slice."""
    slice_shape = self.experiment.record_set.slice_shape
    height, width = self._model.encoder.map_size(*slice_shape[:2])
    return (
      height * width * self.state.params["decoder"]["code"]["kernel"].shape[-1]
    )

  def reconstruct(
    self, subset: np.ndarray
  ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Draws every scan of a subset from its code, batch by batch.

    Args:
      subset: i64[T] record indices.

    Yields:
      The record index, and `{"drawn": f32[S,H,W,C], "embedding": f32[S,D]}`.
    """
    step = inference.make_reconstruction_step(self._model, self._settings)
    return self._of_slices(step, subset)

  def _of_slices(
    self, step: Callable[..., Any], subset: np.ndarray
  ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Sorts what a step says of slices, f[G,N,...] by name, by their scans."""
    step = jax.jit(step, out_shardings=sharding.over_packs(self._mesh))
    for batch in self._evaluation_batches(subset):
      outputs, owner, indices = processes.fetch(
        (step(self.state, batch), batch["owner"], batch["record_index"])
      )
      for pack, row in np.argwhere(indices >= 0):
        # The slices of a scan lie in order; see `packing.pack_batch`.
        slots = owner[pack] == row
        yield (
          int(indices[pack, row]),
          {name: value[pack, slots] for name, value in outputs.items()},
        )

  def _evaluation_batches(self, subset: np.ndarray):
    """Yields device batches that hold every scan of a subset once."""
    experiment = self.experiment
    return pipeline.evaluation_batches(
      experiment.record_set,
      subset,
      experiment.targets,
      experiment.shape,
      packs=self._packs,
      read_threads=experiment.config.data.read_threads,
      prefetch_steps=experiment.config.data.prefetch_steps,
      put=self._put,
      landmarks=self._settings.standard is not None,
    )

  def _empty_batch(self) -> dict[str, np.ndarray]:
    experiment, shape = self.experiment, self.experiment.shape
    return packing.pack_batch(
      np.full((len(self._packs), shape.rows), -1, np.int32),
      experiment.record_set.__getitem__,
      experiment.targets,
      shape,
      slice_shape=experiment.record_set.slice_shape,
      dtype=experiment.record_set.dtype,
      landmarks=self._settings.standard is not None,
    )


def _mesh_of(experiment: experiment_lib.Experiment) -> jax.sharding.Mesh:
  """Returns the run's mesh, or what there is of it on this machine.

  A run may be used on a machine with other devices than it began on.
  """
  asked = experiment.config.mesh
  num_devices, slice_devices = jax.device_count(), asked.slice_devices
  wanted = num_devices if asked.devices is None else asked.devices
  packs = experiment.shape.packs // experiment.config.train.accumulation
  if wanted <= num_devices and (
    packs * slice_devices == wanted
    or (slice_devices == 1 and packs % wanted == 0)
  ):
    return sharding.make_mesh(wanted, slice_devices)
  return sharding.make_mesh(math.gcd(num_devices, packs))


def restore_best(runner: Runner) -> int:
  """Puts the parameters of the lowest validation loss into the runner.

  Returns:
    The step they are from.

  Raises:
    InputError: The run has no sound checkpoint yet.
  """
  workdir = runner.experiment.workdir
  step = trained.best_step(workdir)
  folder = (workdir / "checkpoints").resolve()
  runner.adopt(checkpoint.restore(folder, step, runner.abstract_state()).state)
  return step
