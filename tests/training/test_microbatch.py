import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from brainjax import InputError
from brainjax.training import experiment, microbatch, runner


def test_sum_over_parts_adds_every_pack_once():
  tree = {"x": jnp.arange(24.0).reshape(8, 3)}

  def part_of_sum(tree):
    return {"sum": tree["x"].sum(0), "packs": jnp.float32(len(tree["x"]))}

  whole = part_of_sum(tree)
  for parts, unroll in ((1, True), (2, True), (4, False)):
    found = jax.jit(
      functools.partial(
        microbatch.sum_over_parts, part_of_sum, parts=parts, unroll=unroll
      )
    )(tree)
    jax.tree.map(np.testing.assert_array_equal, found, whole)


def test_averages_that_do_not_move_stay_to_the_bit():
  old = {"a": jnp.array([0.1, 1e-7, 3e5])}
  moves = microbatch.weighted_moves(old, old, jnp.float32(7))
  found = microbatch.move_by(old, moves, jnp.float32(13))
  np.testing.assert_array_equal(found["a"], old["a"])


def make_run(cohort, workdir, *overrides):
  config = helpers.micro_config(
    cohort,
    "data.packs=2",
    "data.pack_slices=16",
    "model.encoder.statistics=pack",
    *overrides,
  )
  return runner.Runner(experiment.resolve(config, workdir, 1))


@pytest.mark.slow
def test_chunks_are_groups_of_statistics(tmp_path):
  helpers.write_cohort(tmp_path / "records")
  run = make_run(tmp_path / "records", tmp_path / "run")
  model, _, _ = run.experiment.build()
  rng = np.random.default_rng(0)
  slices = rng.normal(size=(2, 16, 16, 16, 1)).astype(np.float32)
  valid = np.arange(16) < np.array([[13], [4]])  # the last chunk of one: empty
  params, stats = run.state.params, run.state.batch_stats
  variables = {"params": params, "batch_stats": stats}

  @functools.partial(jax.jit, static_argnames="unroll")
  def in_chunks(params, unroll):
    def loss(params):
      z, moved = microbatch.encode_in_chunks(
        model,
        variables | {"params": params},
        slices,
        valid,
        chunk_slices=4,
        unroll=unroll,
      )
      return jnp.sum(jnp.square(z)), (z, moved)

    return jax.grad(loss, has_aux=True)(params)

  @jax.jit
  def at_once(params):
    def loss(params):
      z, updated = model.apply(
        variables | {"params": params},
        slices.reshape(32, 16, 16, 1),
        valid.reshape(-1),
        packs=8,
        train=True,
        mutable=["batch_stats"],
        method="encode",
      )
      return jnp.sum(jnp.square(z)), (z, updated["batch_stats"])

    return jax.grad(loss, has_aux=True)(params)

  expected, (z, moved) = at_once(params)
  for unroll in (True, False):
    grads, (found, averages) = in_chunks(params, unroll=unroll)
    np.testing.assert_allclose(found, z.reshape(found.shape), atol=1e-5)
    for ours, theirs in ((grads, expected), (averages, moved)):
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-3),
        ours,
        theirs,
      )


@pytest.mark.slow
def test_chunks_need_less_memory(tmp_path):
  helpers.write_cohort(tmp_path / "records")
  run = make_run(tmp_path / "records", tmp_path / "run")
  model, _, _ = run.experiment.build()
  stats = run.state.batch_stats

  def bytes_with(chunk_slices):
    def loss(params, slices, valid):
      z, _ = microbatch.encode_in_chunks(
        model,
        {"params": params, "batch_stats": stats},
        slices,
        valid,
        chunk_slices=chunk_slices,
        unroll=False,
      )
      return jnp.sum(jnp.square(z))

    slices = jax.ShapeDtypeStruct((1, 32, 64, 64, 1), np.float32)
    valid = jax.ShapeDtypeStruct((1, 32), bool)
    step = jax.jit(jax.grad(loss)).lower(run.state.params, slices, valid)
    return step.compile().memory_analysis().temp_size_in_bytes

  assert bytes_with(8) < 0.4 * bytes_with(32)


@pytest.mark.parametrize(
  "fields, message",
  [
    (("train.accumulation=3",), "3 parts"),
    (("model.encoder.chunk_slices=5",), "does not divide the 16 slices"),
    (
      ("train.accumulation=2", "model.encoder.statistics=batch"),
      "config.model.encoder.statistics to 'pack'",
    ),
    (
      ("model.encoder.chunk_slices=4", "train.objective=reconstruct"),
      "only for",
    ),
    (("mesh.slice_devices=2",), "config.data.packs to 1"),
    (("mesh.parallelism=both",), "choose one of"),
  ],
)
def test_what_does_not_divide_is_refused(tmp_path, fields, message):
  helpers.write_cohort(tmp_path / "records")
  with pytest.raises(InputError, match=message):
    make_run(tmp_path / "records", tmp_path / "run", *fields)
