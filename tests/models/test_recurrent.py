"""Layers, directions and readouts of the recurrent heads."""

import functools

import jax
import numpy as np
import pytest

from brainjax.models.heads import build_head

B, S, D, F = 3, 6, 4, 2


def sequences():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(B, S, D)).astype(np.float32)
  mask = np.arange(S) < np.array([[6], [4], [1]])
  return z, mask, np.zeros((B, S), np.float32)


def initialised(**fields):
  head = build_head({"hidden_size": F, **fields})
  init = jax.jit(functools.partial(head.init, train=False))
  return head, init(jax.random.key(0), *sequences())


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
