"""Layers, directions and readouts of the recurrent heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from brainjax.models import recurrent
from brainjax.models.heads import build_head

B, S, D, F = 3, 6, 4, 2


def sequences():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(B, S, D)).astype(np.float32)
  mask = np.arange(S) < np.array([[6], [4], [1]])
  return z, mask, np.zeros((B, S), np.float32)


def initialised(**fields):
  head = build_head({"hidden_size": F, **fields})
  init = functools.partial(head.init, train=False)
  return head, helpers.draw_variables(init, *sequences())


@pytest.mark.parametrize("name, gates", [("lstm", 4), ("gru", 3)])
def test_old_checkpoints_fit_the_default_form(name, gates):
  _, variables = initialised(name=name)
  shapes = jax.tree.map(np.shape, variables["params"])
  expected = {
    "input_kernel": (D, gates * F),
    "bias": (gates * F,),
    "recurrent_kernel": (F, gates * F),
  }
  if name == "gru":
    expected["recurrent_new_bias"] = (F,)
  assert shapes == expected


def test_further_parameters_are_named_as_in_torch():
  _, variables = initialised(name="lstm", num_layers=2, bidirectional=True)
  params = variables["params"]
  assert {name.removeprefix("bias") for name in params if "bias" in name} == {
    "",
    "_reverse",
    "_l1",
    "_l1_reverse",
  }
  assert params["input_kernel_l1_reverse"].shape == (2 * F, 4 * F)


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_directions_swap_when_the_slices_are_turned_round(readout):
  head, variables = initialised(name="gru", bidirectional=True, readout=readout)
  params = variables["params"]
  own = [name for name in params if not name.endswith("_reverse")]
  swapped = {name: params[name + "_reverse"] for name in own}
  swapped |= {name + "_reverse": params[name] for name in own}
  z, mask, positions_mm = sequences()
  apply = jax.jit(functools.partial(head.apply, train=False))
  forward, backward = np.split(apply(variables, z, mask, positions_mm), 2, 1)
  given = apply(
    {"params": swapped}, z[:, ::-1], mask[:, ::-1], positions_mm[:, ::-1]
  )
  assert np.abs(forward - backward).max() > 0.01
  np.testing.assert_allclose(
    given, np.concatenate([backward, forward], 1), atol=1e-6
  )


def gradients(head, variables, z, mask, positions_mm):
  """Gradients of a sum of cubes by the variables and z."""

  def loss(variables, z):
    features = head.apply(variables, z, mask, positions_mm, train=False)
    return (features**3).sum()

  return jax.grad(loss, (0, 1))(variables, z)


BOTH_WAYS = {"bidirectional": True, "readout": "mean", "unroll": 2}


@pytest.mark.parametrize(
  "name, fields",
  [
    ("lstm", BOTH_WAYS),
    ("gru", {}),
    pytest.param("lstm", {}, marks=pytest.mark.slow),
    pytest.param("gru", BOTH_WAYS, marks=pytest.mark.slow),
  ],
)
def test_own_gradients_are_those_of_autodiff(name, fields, monkeypatch):
  with jax.enable_x64(True):
    head, variables = initialised(name=name, **fields)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape), variables)
    z, _, positions_mm = sequences()
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0] * 6], bool)
    inputs = variables, np.float64(z), mask, positions_mm
    given = jax.jit(functools.partial(gradients, head))(*inputs)
    monkeypatch.setattr(recurrent, "_scan_states_fast", recurrent._scan_states)
    expected = jax.jit(functools.partial(gradients, head))(*inputs)
  for ours, wanted in zip(
    *map(jax.tree.leaves, (given, expected)), strict=True
  ):
    assert ours.dtype == np.float64
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(ours, wanted, rtol=1e-10, atol=1e-12)


def test_models_side_by_side_have_the_gradients_of_each():
  head, variables = initialised(name="gru", bidirectional=True)
  scales = np.float32([1, 0.5, 2])
  stacked = jax.tree.map(
    lambda x: jnp.stack([scale * x for scale in scales]), variables
  )
  inputs = sequences()
  one = jax.jit(lambda variables: gradients(head, variables, *inputs))
  given = jax.jit(jax.vmap(one))(stacked)
  for i in range(len(scales)):
    expected = one(jax.tree.map(lambda x, i=i: x[i], stacked))
    jax.tree.map(
      lambda ours, wanted, i=i: np.testing.assert_allclose(
        ours[i], wanted, rtol=1e-5, atol=1e-6
      ),
      given,
      expected,
    )


@pytest.mark.parametrize(
  "halved", [["z"], ["variables"], ["z", "variables"]], ids="-".join
)
def test_half_precision_comes_near(halved):
  head, variables = initialised(name="lstm")
  z, mask, positions_mm = sequences()
  given = {"variables": variables, "z": z}
  mixed = given | {
    name: jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), given[name])
    for name in halved
  }

  @jax.jit
  def by(variables, z):
    return gradients(head, variables, z, mask, positions_mm)

  leaves = map(
    jax.tree.leaves, (by(**mixed), tuple(mixed.values()), by(**given))
  )
  for ours, like, wanted in zip(*leaves, strict=True):
    assert ours.dtype == like.dtype
    np.testing.assert_allclose(
      np.float32(ours), wanted, atol=0.1 * np.abs(wanted).max()
    )


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"readout": "max"}, r"no readout 'max'; choose one of \['last', 'mean'\]"),
    ({"num_layers": 0}, "num_layers is 0; at least 1"),
  ],
)
def test_recurrent_head_refuses_a_bad_value(fields, message):
  with pytest.raises(ValueError, match=message):
    build_head({"name": "lstm", "hidden_size": F, **fields})
