"""The classifier with attention: what it starts as, and what it tells."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.classifier import Classifier, attention_weights
from brainjax.models.densenet import pool_maps
from brainjax.models.distance_attention import IN_PLANE, SliceAttention
from brainjax.models.heads import build_head
from models import test_classifier as plain

GATED = {"name": "attention", "attention_size": 3, "projection": 4}
NEW = ("in_plane", "slice_axis")


class Blocks(nn.Module):
  """An encoder that is quick to compile: blocks of pixels are its maps."""

  def feature_maps(self, slices, weight, *, groups, train):
    blocks = slices[..., 0].reshape(-1, 2, 8, 2, 8).swapaxes(2, 3)
    maps = blocks.reshape(-1, 2, 2, 64)[..., :16]
    return {"norm5": jnp.where(weight[:, None, None, None] > 0, maps, 0)}

  def __call__(self, slices, weight, **static):
    return pool_maps(self.feature_maps(slices, weight, **static)["norm5"])


def model_with(in_plane="distance", head=plain.LSTM):
  return Classifier(
    encoder=Blocks(),
    head=build_head(head),
    num_classes=3,
    dropout=0.0,
    statistics="pack",
    in_plane=IN_PLANE[in_plane](),
    slice_axis=SliceAttention(),
  )


def attended(in_plane="distance", head=plain.LSTM):
  """The model, with parameters that are nowhere zero."""
  model = model_with(in_plane, head)
  return model, plain.variables(model)


@pytest.mark.parametrize("in_plane", sorted(IN_PLANE))
def test_starts_as_the_model_without(in_plane):
  model = model_with(in_plane, {"name": "mean"})
  fields = {"num_rows": plain.B, "max_length": plain.S, "train": False}
  # Not jitted: XLA adds in another order where it fuses other operations.
  logits, variables = model.init_with_output(
    jax.random.key(0), *plain.batch(), **fields
  )
  assert set(variables) == {"params"}
  params = dict(variables["params"])
  for name in NEW:
    del params[name]
  assert set(params) == {"classifier"}
  bare = model.clone(in_plane=None, slice_axis=None)
  expected = bare.apply({"params": params}, *plain.batch(), **fields)
  np.testing.assert_array_equal(logits, expected)


def test_names_reach_their_modules():
  model = plain.classifier(in_plane="cbam", slice_axis="distance")
  assert model.in_plane == IN_PLANE["cbam"]()
  assert model.slice_axis == SliceAttention()
  assert plain.classifier(in_plane="none").in_plane is None
  shapes = plain.variables(model)["params"]
  assert set(shapes) == {"encoder", "head", "classifier", *NEW}


def test_without_attention_nothing_is_added():
  model = plain.classifier()
  slices, owner, *_ = plain.batch()
  slices, valid = (
    slices.reshape(-1, *slices.shape[2:]),
    (owner < plain.B).ravel(),
  )
  variables = plain.variables(model)
  encoder = {name: variables[name]["encoder"] for name in variables}

  def encode(slices, valid):
    return model.apply(
      variables, slices, valid, packs=plain.G, train=False, method="encode"
    )

  def encode_alone(slices, valid):
    weight = valid.astype(jnp.float32)
    return model.encoder.apply(
      encoder, slices, weight, groups=plain.G, train=False
    )

  given, expected = (
    str(jax.make_jaxpr(function)(slices, valid))
    for function in (encode, encode_alone)
  )
  assert given == expected


def test_attention_changes_what_is_answered():
  model, variables = attended()
  for name in NEW:
    params = dict(variables["params"])
    gamma = {"gamma": jnp.zeros(())}
    params[name] = params[name] | gamma
    logits = plain.infer(model, {**variables, "params": params}, plain.batch())
    other = plain.infer(model, variables, plain.batch())
    assert np.abs(logits - other).max() > 1e-4


def test_content_of_filler_changes_no_bit():
  model, variables = attended()
  slices, owner, position, positions_mm = plain.batch()
  expected = plain.train(
    model, variables, (slices, owner, position, positions_mm)
  )
  filler = owner == plain.B
  slices, positions_mm = slices.copy(), positions_mm.copy()
  slices[filler], positions_mm[filler] = np.nan, np.nan
  given = plain.train(model, variables, (slices, owner, position, positions_mm))
  jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_devices_exchange_nothing_for_attention():
  model, _ = attended(head=GATED)
  collectives, logits = plain.run_on_eight_devices(
    model, functools.partial(plain.run, model, train=False)
  )
  assert collectives == set()
  expected = plain.infer(model, plain.variables(model), plain.EIGHT_PACKS)
  np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_weights_come_out_by_name():
  fields = {"num_rows": plain.B, "max_length": plain.S, "train": False}
  model, variables = attended(head=GATED)
  slices, owner, position, positions_mm = plain.batch()
  _, collected = jax.jit(
    functools.partial(model.apply, **fields, mutable=["intermediates"])
  )(variables, slices, owner, position, positions_mm)
  sown = collected["intermediates"]
  places = attention_weights(sown, "place_weights")
  rows = attention_weights(sown, "slice_weights")
  slots, (g, b, s) = plain.G * plain.N, (plain.G, plain.B, plain.S)
  assert {name: value.shape for name, value in places.items()} == {
    "in_plane": (slots, 2, 2),
    "in_plane_offset": (slots, 2),
  }
  assert {name: value.shape for name, value in rows.items()} == {
    "slice_axis": (g * b, s),
    "head": (g * b, s),
  }
  owned = (owner < plain.B).ravel()
  assert (
    places["in_plane"][owned].all() and not places["in_plane"][~owned].any()
  )
  lengths = np.ravel(plain.LENGTHS[0] + [0] + plain.LENGTHS[1])
  np.testing.assert_allclose(rows["head"].sum(1), lengths > 0, atol=1e-6)
  np.testing.assert_array_equal((rows["slice_axis"] != 0).sum(1), lengths)


def test_model_without_attention_says_nothing():
  assert attention_weights({}, "place_weights") == {}
  transformer = {"head": {"attention": (np.zeros((1, 2, 3, 3)),)}}
  assert attention_weights(transformer, "slice_weights") == {}
