import functools

import jax
import jax.numpy as jnp
import pytest

from brainjax import config as config_lib
from brainjax.models import build, densenet3d
from brainjax.models.build import build_classifier
from brainjax.models.heads import count_parameters

FIELDS = {
  "preset": "tiny",
  "statistics": "pack",
  "head": {"name": "lstm", "hidden_size": 4, "unroll": 2},
  "dropout": 0.25,
  "dtype": "bfloat16",
  "num_classes": 3,
}


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("preset", "large", "no encoder preset 'large'; .*'densenet121'"),
    ("statistics", "global", r"no BatchNorm statistics 'global'; .*'pack'"),
    ("dtype", "float16", r"no dtype 'float16'; .*'bfloat16', 'float32'"),
    ("in_plane", "dwa", r"no in-plane attention 'dwa'; .*'distance', .*'none'"),
    ("slice_axis", "se", r"no attention along the slice axis 'se'; .*'none'"),
    ("head", {"name": "rnn"}, r"no head 'rnn'; .*'lstm', .*'mean'"),
  ],
)
def test_bad_value_names_the_choices(field, value, message):
  with pytest.raises(ValueError, match=message):
    build_classifier(**(FIELDS | {field: value}))


def test_features_have_no_places_to_attend_to():
  fields = FIELDS | {"num_features": 5, "slice_axis": "distance"}
  assert build_classifier(**fields).slice_axis is not None
  with pytest.raises(ValueError, match="'cbam' weighs places of a feature map"):
    build_classifier(**fields, in_plane="cbam")


def test_fields_reach_their_modules():
  model = build_classifier(**FIELDS)
  assert model.encoder.growth_rate == 12
  assert model.encoder.dtype == jnp.bfloat16
  assert model.head.hidden_size == 4
  assert (model.dropout, model.statistics) == (0.25, "pack")


def test_budget_counts_the_head_as_built():
  head = {"name": "gru", "hidden_size": 9, "projection": 6, "budget": 2_000}
  model = build_classifier(**(FIELDS | {"preset": "micro", "head": head}))
  owner = jnp.zeros((1, 2), jnp.int32)
  init = functools.partial(model.init, num_rows=1, max_length=2, train=False)
  arguments = jnp.zeros((1, 2, 16, 16, 1)), owner, owner, jnp.zeros((1, 2))
  params = jax.eval_shape(init, jax.random.key(0), *arguments)["params"]
  assert params["head"].keys() == {"projection", "norm", "head"}
  count = sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
  assert count == count_parameters(model.head, model.encoder.num_features)
  assert abs(count - 2_000) < 100


@pytest.mark.parametrize(
  ("preset", "size"),
  [
    ("densenet121", 1024),
    ("small", 512),
    ("tiny", 93),
    ("densenet121_3d", 1024),
    ("tiny_3d", 93),
    ("cnn2d", 128),
  ],
)
def test_presets_have_their_embedding_sizes(preset, size):
  model = build_classifier(**(FIELDS | {"preset": preset}))
  assert model.encoder.num_features == size


@pytest.mark.parametrize("preset", build.PRESETS)
def test_a_preset_says_what_it_reads(preset):
  encoder = build.build_encoder(preset)
  of_volumes = isinstance(encoder, densenet3d.DenseNet3D)
  assert of_volumes == config_lib.reads_volumes(preset)


def test_computation_is_half_and_parameters_are_single():
  model = build_classifier(**FIELDS)
  owner = jnp.zeros((1, 2), jnp.int32)

  def run(slices, owner, position, positions_mm):
    return model.init_with_output(
      jax.random.key(0),
      slices,
      owner,
      position,
      positions_mm,
      num_rows=1,
      max_length=2,
      train=False,
    )

  arguments = jnp.zeros((1, 2, 64, 64, 1)), owner, owner, jnp.zeros((1, 2))
  logits, variables = jax.eval_shape(run, *arguments)
  leaves = jax.tree.leaves((logits, variables))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
  assert logits.shape == (1, 1, 3)
  text = str(jax.make_jaxpr(run)(*arguments))
  kernels = [line for line in text.splitlines() if "conv_general" in line]
  assert kernels and all("bf16" in line for line in kernels)
