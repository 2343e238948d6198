"""Weights of PyTorch in the slice encoder.

Files are fabricated here byte by byte, so that neither PyTorch nor a download
is needed; one test holds the real thing against PyTorch where it is installed.
"""

import functools
import os
import pathlib
import pickle
import struct
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from brainjax.models import dense_block
from brainjax.models.densenet import PRESETS, DenseNet
from brainjax.models.pretrained import import_densenet, read_weights

LEAVES = {
  ("params", "kernel"): "weight",
  ("params", "scale"): "weight",
  ("params", "bias"): "bias",
  ("batch_stats", "mean"): "running_mean",
  ("batch_stats", "var"): "running_var",
}
STORAGES = {
  "float32": "FloatStorage",
  "float16": "HalfStorage",
  "float64": "DoubleStorage",
  "bfloat16": "BFloat16Storage",
  "int64": "LongStorage",
}


class Name(NamedTuple):
  """What a pickle calls by its name."""

  module: str
  name: str


class Call(NamedTuple):
  """What a pickle has called on loading."""

  function: Name
  arguments: tuple


class Stored(NamedTuple):
  """What lies beside a pickle."""

  identity: tuple


def program(value):
  """Writes a pickle's opcodes (protocol 0, and 1 for `Stored`)."""
  match value:
    case Name(module, name):
      return f"c{module}\n{name}\n".encode()
    case Call(function, arguments):
      return program(function) + program(arguments) + b"R"
    case Stored(identity):
      return program(identity) + b"Q"
    case tuple():
      return b"(" + b"".join(map(program, value)) + b"t"
    case dict():
      pairs = [program(part) for pair in value.items() for part in pair]
      return b"(" + b"".join(pairs) + b"d"
    case None:
      return b"N"
    case str():
      return f"V{value}\n".encode()
    case _:
      return f"I{value}\n".encode()


def tensor(array, key, *more, stride=None, offset=0):
  """Describes an array as torch.save does."""
  storage = Name("torch", STORAGES[str(array.dtype)])
  strides = tuple(step // array.itemsize for step in array.strides)
  return Call(
    Name("torch._utils", "_rebuild_tensor_v2"),
    (
      Stored(("storage", storage, key, "cpu", array.size, *more)),
      offset,
      array.shape,
      strides if stride is None else stride,
      0,
      Call(Name("collections", "OrderedDict"), ()),
    ),
  )


def write_zip(path, content, numbers=(), byteorder="little"):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", program(content) + b".")
    archive.writestr("archive/byteorder", byteorder)
    for key, array in numbers:
      archive.writestr(f"archive/data/{key}", array.tobytes())


def write_pth(path, weights):
  numbers = [(str(i), array) for i, array in enumerate(weights.values())]
  tensors = {
    name: tensor(array, key)
    for (name, array), (key, _) in zip(weights.items(), numbers, strict=True)
  }
  write_zip(path, tensors, numbers)


def write_stream(path, weights):
  """Writes the format before PyTorch 1.6."""
  tensors = {name: tensor(a, name, None) for name, a in weights.items()}
  keys = sorted(weights)
  with open(path, "wb") as file:
    for content in (0x1950A86A20F9469CFC6C, 1001):
      pickle.dump(content, file, protocol=2)
    pickle.dump({"little_endian": True}, file, protocol=2)
    file.write(program(tensors) + b".")
    pickle.dump(keys, file, protocol=2)
    for key in keys:
      file.write(struct.pack("<q", weights[key].size))
      file.write(weights[key].tobytes())


def write_npz(path, weights):
  np.savez(path, **weights)


def write_safetensors(path, weights):
  safetensors.numpy.save_file(weights, path)


@functools.cache
def shapes_of(preset, channels=1):
  encoder = DenseNet(**PRESETS[preset])
  init = functools.partial(encoder.init, groups=1, train=False)
  slices = jnp.zeros((1, 64, 64, channels))
  return jax.eval_shape(init, jax.random.key(0), slices, jnp.ones(1))


def torch_names(variables, change=lambda name: name):
  """Turns variables into a state_dict: the import, the other way round."""
  weights = {}
  for path, value in jax.tree.leaves_with_path(variables):
    collection, *modules, leaf = [entry.key for entry in path]
    name = ".".join(["features", *modules, LEAVES[collection, leaf]])
    if value.ndim == 4:
      value = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    weights[change(name)] = value
    if leaf == "mean":
      counter = name.replace("running_mean", "num_batches_tracked")
      weights[change(counter)] = np.array(7, np.int64)
  weights["classifier.weight"] = np.zeros((5, 20), np.float32)
  return weights


def random_variables(preset="micro", channels=1):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    shapes_of(preset, channels),
  )


def assert_equal(given, expected):
  jax.tree.map(np.testing.assert_array_equal, given, expected)
  types = {leaf.dtype for leaf in jax.tree.leaves(given)}
  assert types == {np.dtype(np.float32)}


@pytest.mark.parametrize(
  ("write", "file"),
  [
    (write_npz, "weights.npz"),
    (write_safetensors, "weights.safetensors"),
    (write_pth, "weights.pth"),
    (write_pth, "weights.pt"),
    (write_stream, "weights.pth"),
  ],
)
def test_every_format_gives_the_variables_back(tmp_path, write, file):
  variables = random_variables()
  weights = torch_names(variables)
  write(tmp_path / file, weights)
  given = read_weights(tmp_path / file)
  assert given.keys() == weights.keys()
  assert_equal(import_densenet(given, shapes_of("micro")), variables)


@pytest.mark.parametrize(
  "change",
  [
    lambda name: name.removeprefix("features."),
    lambda name: f"module.{name}",
    # torchvision until 2017, which its files still have
    lambda name: (
      name
      if "denselayer" not in name
      else name.replace("norm", "norm.").replace("conv", "conv.")
    ),
    # MONAI
    lambda name: (
      name
      if "denselayer" not in name
      else name.replace(".norm", ".layers.norm").replace(
        ".conv", ".layers.conv"
      )
    ),
  ],
  ids=["bare", "data parallel", "old torchvision", "monai"],
)
def test_other_names_are_understood(change):
  variables = random_variables()
  weights = torch_names(variables, change)
  assert "features.denseblock1.denselayer1.norm1.weight" not in weights
  assert_equal(import_densenet(weights, shapes_of("micro")), variables)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_precisions_become_single(tmp_path, dtype):
  dtype = jnp.dtype(dtype)
  rounded = jax.tree.map(
    lambda leaf: leaf.astype(dtype).astype(np.float32), random_variables()
  )
  weights = {n: a.astype(dtype) for n, a in torch_names(rounded).items()}
  write_pth(tmp_path / "weights.pth", weights)
  given = read_weights(tmp_path / "weights.pth")
  assert_equal(import_densenet(given, shapes_of("micro")), rounded)


def test_views_parameters_and_nested_dicts_are_resolved(tmp_path):
  numbers = np.arange(10, dtype=np.float32)
  whole = np.zeros((2, 3), np.float32)
  view = tensor(whole, "0", stride=(1, 2), offset=3)
  parameter = Name("torch._utils", "_rebuild_parameter")
  content = {
    "epoch": 7,
    "state_dict": {"a.weight": Call(parameter, (view, 1, None))},
  }
  write_zip(tmp_path / "w.pth", content, [("0", numbers)])
  given = read_weights(tmp_path / "w.pth")
  assert list(given) == ["state_dict.a.weight"]
  np.testing.assert_array_equal(
    given["state_dict.a.weight"], [[3, 5, 7], [4, 6, 8]]
  )


@pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 2), (1, 4)])
def test_grey_slices_are_answered_as_grey_pictures(before, after):
  weights = torch_names(random_variables(channels=before))
  given = import_densenet(weights, shapes_of("micro", after))
  kernel = given["params"]["conv0"]["kernel"]
  assert kernel.shape == (7, 7, after, 8)
  grey = np.random.default_rng(1).normal(size=(1, 9, 9, 1))
  grey = grey.astype(np.float32)
  expected = dense_block.convolve(
    jnp.repeat(grey, before, -1),
    jnp.asarray(weights["features.conv0.weight"].transpose(2, 3, 1, 0)),
  )
  np.testing.assert_allclose(
    dense_block.convolve(jnp.repeat(grey, after, -1), kernel),
    expected,
    atol=1e-4,
  )


def test_as_many_channels_are_taken_one_by_one():
  variables = random_variables(channels=3)
  given = import_densenet(torch_names(variables), shapes_of("micro", 3))
  assert_equal(given, variables)


class Trap:
  """Would leave a folder behind if it were ever unpickled in earnest."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (os.mkdir, (self.path,))


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_is_never_run(tmp_path, stream):
  trap = pickle.dumps(Trap(str(tmp_path / "sprung")), protocol=2)
  path = tmp_path / "weights.pth"
  if stream:
    path.write_bytes(trap)
  else:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", trap)
  with pytest.raises(ValueError, match=r"holds posix.mkdir, not only weights"):
    read_weights(path)
  assert not (tmp_path / "sprung").exists()
  pickle.loads(trap)
  assert (tmp_path / "sprung").exists()  # so the trap was one


def stored(*identity):
  return {"a": Stored(("storage", Name("torch", "FloatStorage"), *identity))}


ARRAY = np.zeros(4, np.float32)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (
      Call(Name("torchvision.models.densenet", "DenseNet"), ()),
      r"it holds torchvision.models.densenet.DenseNet, .*state_dict\(\)",
    ),
    ({"a": Call(Name("torch._utils", "getattr"), ())}, "torch._utils.getattr"),
    ({"a": Name("torch", "serialization.os.system")}, "os.system"),
    ({"a": Stored(("module", None, "0", "cpu", 4))}, "holds a module"),
    (stored("0", "cpu", 4, ("1", 0, 4)), "holds a storage of another"),
    (tensor(ARRAY, "0"), "it holds no state_dict"),
    ({"a": tensor(ARRAY, "0", offset=1)}, "damaged"),
    ({"a": tensor(ARRAY, "0", stride=(9,))}, "damaged"),
    ({"a": tensor(ARRAY, "0", stride=(-1,))}, "damaged"),
    ({"a": tensor(ARRAY, "1")}, "damaged"),
  ],
)
def test_what_is_not_plain_weights_is_refused(tmp_path, content, message):
  write_zip(tmp_path / "weights.pth", content, [("0", ARRAY)])
  with pytest.raises(ValueError, match=message) as refused:
    read_weights(tmp_path / "weights.pth")
  assert "\n" not in str(refused.value)


def test_big_endian_numbers_are_refused(tmp_path):
  write_zip(tmp_path / "w.pth", {"a": 1}, byteorder="big")
  with pytest.raises(ValueError, match="big-endian"):
    read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
  ("write", "suffix"),
  [
    (write_npz, ".npz"),
    (write_safetensors, ".safetensors"),
    (write_pth, ".pth"),
    (write_stream, ".pth"),
  ],
)
@pytest.mark.parametrize("keep", [0.0, 0.4, 0.99])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, write, suffix, keep):
  path = tmp_path / f"weights{suffix}"
  write(path, {"a": np.arange(300, dtype=np.float32)})
  path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
  with pytest.raises(ValueError, match=f"damaged, or not a {suffix}") as error:
    read_weights(path)
  assert "\n" not in str(error.value)


def test_a_flipped_bit_is_noticed(tmp_path):
  path = tmp_path / "weights.pth"
  write_pth(path, {"a": np.full(300, 2, np.float32)})
  data = bytearray(path.read_bytes())
  data[data.index(np.full(300, 2, np.float32).tobytes()) + 500] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match="damaged.*CRC"):
    read_weights(path)


def test_arrays_of_objects_are_refused(tmp_path):
  np.savez(tmp_path / "w.npz", a=np.array([{}], object), allow_pickle=True)
  with pytest.raises(ValueError, match="damaged, or not a .npz"):
    read_weights(tmp_path / "w.npz")


def test_another_zip_is_not_weights(tmp_path):
  write_npz(tmp_path / "w.npz", {"a": ARRAY})
  (tmp_path / "w.npz").rename(tmp_path / "w.pth")
  with pytest.raises(ValueError, match="a zip, but not of weights"):
    read_weights(tmp_path / "w.pth")


def test_other_suffixes_are_refused():
  with pytest.raises(ValueError, match="cannot read .h5; .*safetensors"):
    read_weights(pathlib.Path("weights.h5"))


@pytest.mark.parametrize(
  ("preset", "parameters"),
  [
    ("densenet169", 12_484_480),
    ("densenet201", 18_092_928),
    ("densenet161", 26_472_000),
  ],
)
def test_another_of_the_family_is_named(preset, parameters):
  shapes = shapes_of(preset, 3)
  sizes = [leaf.size for leaf in jax.tree.leaves(shapes["params"])]
  assert sum(sizes) == parameters  # of torchvision, without its classifier
  zeros = jax.tree.map(
    lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes
  )
  weights = torch_names(zeros)
  with pytest.raises(
    ValueError, match=f"weights of {preset}, not of micro; set .* to {preset}"
  ):
    import_densenet(weights, shapes_of("micro"))
  assert import_densenet(weights, shapes).keys() == {"params", "batch_stats"}


def removed(weights, *names):
  return {n: a for n, a in weights.items() if not n.endswith(names)}


LAYER = "features.denseblock2.denselayer2"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda w: removed(w, "block1.denselayer2.conv1.weight", "norm5.bias"),
      "^2 of 44 names are missing, the first is denseblock1.denselayer2.conv1",
    ),
    (
      lambda w: w | {f"{LAYER}.conv1.weight": ARRAY},
      "^the encoder has no layer for 1 of its names, .* denseblock2.denselay",
    ),
    (
      lambda w: w | {"features.norm0.bias": ARRAY},
      r"^norm0.bias has shape \(4,\), not \(8,\)",
    ),
    (
      lambda w: w | {"features.conv0.weight": np.zeros((8, 1, 7, 7, 7))},
      r"^conv0.weight has shape \(8, 1, 7, 7, 7\), not \(8, 1, 7, 7\)",
    ),
    (
      lambda w: w | {"features.conv0.weight": np.zeros((8, 3, 3, 3))},
      r"^conv0.weight has shape \(8, 3, 3, 3\), not \(8, 3, 7, 7\)",
    ),
    (
      lambda w: w | {"features.norm5.bias": np.full(20, np.nan)},
      "^norm5.bias holds values that are not finite",
    ),
    (
      lambda w: {"layer1.0.conv1.weight": ARRAY, "fc.bias": ARRAY},
      r"^not a DenseNet: conv0.weight .* 2 names \['fc.bias', 'layer1.0",
    ),
    (
      lambda w: w | {"ema.features.conv0.weight": ARRAY},
      r"^holds 2 DenseNets, below \['ema.features.', 'features.'\]; save one",
    ),
  ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
  weights = change(torch_names(random_variables()))
  with pytest.raises(ValueError, match=message):
    import_densenet(weights, shapes_of("micro"))


@pytest.mark.slow
def test_densenet121_answers_as_in_pytorch(tmp_path):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  nets = pytest.importorskip("monai.networks.nets", reason="needs MONAI")
  safetensors_torch = pytest.importorskip("safetensors.torch")
  torch.manual_seed(0)
  model = nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=5)
  for name, value in model.state_dict().items():
    # Random, so that each statistic, scale and bias matters.
    if "norm" in name and value.ndim:
      spread = torch.rand(value.shape)
      mean = name.endswith(("bias", "running_mean"))
      value.copy_(spread - 0.5 if mean else spread + 0.5)
  weights = {
    name.replace(".layers.", "."): value
    for name, value in model.state_dict().items()
  }
  torch.save(weights, tmp_path / "zip.pth")
  torch.save(
    weights, tmp_path / "stream.pth", _use_new_zipfile_serialization=False
  )
  safetensors_torch.save_file(weights, tmp_path / "weights.safetensors")
  paths = sorted(tmp_path.iterdir())
  first, *others = [
    import_densenet(read_weights(path), shapes_of("densenet121", 3))
    for path in paths
  ]
  assert len(others) == 2
  for other in others:
    assert_equal(other, first)

  rng = np.random.default_rng(0)
  slices = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
  towards = rng.normal(size=(2, 5)).astype(np.float32)
  given = torch.from_numpy(slices.transpose(0, 3, 1, 2).astype(np.float64))
  given.requires_grad_()
  expected = model.double().eval()(given)
  (expected * torch.from_numpy(towards)).sum().backward()

  kernel, bias = (
    weights[f"class_layers.out.{name}"].numpy().astype(np.float32)
    for name in ("weight", "bias")
  )
  encoder = DenseNet(**PRESETS["densenet121"])

  @functools.partial(jax.value_and_grad, has_aux=True)
  def answer(slices):
    z = encoder.apply(first, slices, jnp.ones(2), groups=1, train=False)
    logits = z @ kernel.T + bias[None]
    return (logits * towards).sum(), logits

  (_, logits), gradient = jax.jit(answer)(slices)
  np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
  assert np.abs(logits).max() > 1
  expected_gradient = given.grad.numpy().transpose(0, 2, 3, 1)
  # Rounding that flips one ReLU changes a gradient by a thousandth; PyTorch's
  # own in single precision does so here, which is why it computes in double.
  largest = np.abs(expected_gradient).max()
  np.testing.assert_allclose(gradient, expected_gradient, atol=2e-3 * largest)
