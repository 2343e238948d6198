"""One training step, and inference: DenseNet-121 + LSTM against PyTorch.

The peer is MONAI's DenseNet121 (torchvision's, where there is no MONAI) with
`nn.LSTM`; both sides get equal slices, equal sequences, cross-entropy and
Adam. Sides alternate; a ratio is of medians, and its spread is that of the
ratios of neighbouring runs (10th and 90th percentile).

    python benchmarks/step.py [--quick] [--size=128] [--slices=16] [--scans=2]

Memory is that of processes of their own: growth of the resident maximum from
before the first step. The last line is one JSON object.
"""

import argparse
import atexit
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()

import flax.linen as nn  # noqa: E402  (after the flags are set)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from brainjax.models.build import build_classifier  # noqa: E402

HIDDEN = 256
CLASSES = 2
LEARNING_RATE = 1e-4


def make_inputs(slices: int, scans: int, size: int):
  """Returns f32[N,H,W,1] slices and i32[scans] labels."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(slices, size, size, 1)).astype(np.float32)
  return images, np.arange(scans) % CLASSES


class Ours:
  """brainjax: the packed classifier, one pack of equal scans."""

  def __init__(self, images, labels, *, model=None):
    slices, scans = len(images), len(labels)
    length = slices // scans
    self.model = model or build_classifier(
      preset="densenet121",
      statistics="batch",
      head={"name": "lstm", "hidden_size": HIDDEN},
      dropout=0.0,
      dtype="float32",
      num_classes=CLASSES,
    )
    owner = np.repeat(np.arange(scans, dtype=np.int32), length)[None]
    position = np.tile(np.arange(length, dtype=np.int32), scans)[None]
    self.inputs = (
      jnp.asarray(images)[None],
      jnp.asarray(owner),
      jnp.asarray(position),
      jnp.zeros((1, slices), jnp.float32),
    )
    self.sizes = {"num_rows": scans, "max_length": length}
    self.labels = jnp.asarray(labels)[None]
    self.optimizer = optax.adam(LEARNING_RATE)

  def init(self):
    """Draws the state and compiles both steps; returns the seconds."""
    variables = jax.jit(
      lambda *inputs: self.model.init(
        jax.random.key(0), *inputs, **self.sizes, train=False
      )
    )(*self.inputs)
    params = variables["params"]
    optimizer_state = jax.jit(self.optimizer.init)(params)
    self.state = (params, variables["batch_stats"], optimizer_state)
    start = time.perf_counter()
    self._train = jax.jit(self._step, donate_argnums=0).lower(
      self.state, self.inputs
    )
    self._train = self._train.compile()
    seconds = time.perf_counter() - start
    self._infer = (
      jax.jit(
        lambda params, stats, inputs: self.model.apply(
          {"params": params, "batch_stats": stats},
          *inputs,
          **self.sizes,
          train=False,
        )
      )
      .lower(*self.state[:2], self.inputs)
      .compile()
    )
    return seconds

  def _step(self, state, inputs):
    params, batch_stats, optimizer_state = state

    def loss(params):
      logits, updated = self.model.apply(
        {"params": params, "batch_stats": batch_stats},
        *inputs,
        **self.sizes,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(1)},
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, self.labels
      )
      return losses.mean(), updated["batch_stats"]

    grads, batch_stats = jax.grad(loss, has_aux=True)(params)
    updates, optimizer_state = self.optimizer.update(grads, optimizer_state)
    return optax.apply_updates(params, updates), batch_stats, optimizer_state

  def train(self):
    """Runs one training step to its end."""
    self.state = jax.block_until_ready(self._train(self.state, self.inputs))

  def infer(self):
    """Runs one inference to its end."""
    jax.block_until_ready(self._infer(*self.state[:2], self.inputs))


class Torch:
  """The peer, in channels-last order or not."""

  def __init__(self, images, labels, *, channels_last: bool):
    import torch

    self.torch = torch
    slices, scans = len(images), len(labels)
    self.shape = (scans, slices // scans)
    self.encoder, features = _torch_densenet121()
    self.lstm = torch.nn.LSTM(features, HIDDEN, batch_first=True)
    self.classifier = torch.nn.Linear(HIDDEN, CLASSES)
    self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if channels_last:
      self.encoder = self.encoder.to(memory_format=torch.channels_last)
      self.images = self.images.to(memory_format=torch.channels_last)
    self.labels = torch.from_numpy(labels)
    self.modules = torch.nn.ModuleList(
      [self.encoder, self.lstm, self.classifier]
    )
    self.optimizer = torch.optim.Adam(
      self.modules.parameters(), lr=LEARNING_RATE
    )

  def _logits(self):
    features = torch_relu_pool(self.torch, self.encoder(self.images))
    _, (hidden, _) = self.lstm(features.reshape(*self.shape, -1))
    return self.classifier(hidden[-1])

  def train(self):
    """Runs one training step."""
    self.modules.train()
    self.optimizer.zero_grad(set_to_none=True)
    loss = self.torch.nn.functional.cross_entropy(self._logits(), self.labels)
    loss.backward()
    self.optimizer.step()

  def infer(self):
    """Runs one inference."""
    self.modules.eval()
    with self.torch.inference_mode():
      self._logits()


def _torch_densenet121():
  try:
    from monai.networks.nets import DenseNet121

    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=CLASSES)
    return network.features, network.class_layers.out.in_features
  except ImportError:
    import torch
    from torchvision.models import densenet121

    network = densenet121()
    network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return network.features, network.classifier.in_features


def torch_relu_pool(torch, features):
  """What the classifiers of both networks begin with."""
  return torch.nn.functional.relu(features).mean((2, 3))


class TextbookDenseNet(nn.Module):
  """DenseNet-121 as one writes it with flax's own layers."""

  @nn.compact
  def __call__(self, slices, weight, *, groups, train):
    """Embeds f[N,H,W,C] into f[N,1024]; every slice counts."""

    def norm(x):
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
      return nn.relu(x)

    x = nn.Conv(64, (7, 7), 2, 3, use_bias=False)(slices)
    x = nn.max_pool(norm(x), (3, 3), (2, 2), ((1, 1), (1, 1)))
    for b, layers in enumerate((6, 12, 24, 16)):
      for _ in range(layers):
        y = nn.Conv(128, (1, 1), use_bias=False)(norm(x))
        y = nn.Conv(32, (3, 3), use_bias=False)(norm(y))
        x = jnp.concatenate([x, y], -1)
      if b < 3:
        x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(norm(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
    return norm(x).mean((1, 2))


def alternate(sides, method: str, repeats: int) -> dict[str, list[float]]:
  """Runs every side once, again and again; returns seconds of each run."""
  for side in sides.values():
    getattr(side, method)()
  seconds = {name: [] for name in sides}
  for _ in range(repeats):
    for name, side in sides.items():
      start = time.perf_counter()
      getattr(side, method)()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def compare(ours, theirs) -> dict[str, float]:
  """Returns how many times faster ours is: of medians, and the spread."""
  each = np.array(theirs) / np.array(ours)
  return {
    "ratio": statistics.median(theirs) / statistics.median(ours),
    "low": float(np.percentile(each, 10)),
    "high": float(np.percentile(each, 90)),
  }


def peak_growth(args, side: str) -> float:
  """Returns MB that a training step adds, in a process of its own."""
  command = [sys.executable, __file__, f"--memory-of={side}"]
  command += [f"--{n}={getattr(args, n)}" for n in ("size", "slices", "scans")]
  output = subprocess.run(command, check=True, capture_output=True, text=True)
  return float(output.stdout.splitlines()[-1])


def report_memory(args) -> None:
  """Prints what `peak_growth` reads."""
  images, labels = make_inputs(args.slices, args.scans, args.size)

  if args.memory_of == "ours":
    side = Ours(images, labels)
    side.init()
  else:
    channels_last = args.memory_of == "torch channels-last"
    side = Torch(images, labels, channels_last=channels_last)
    side.infer()
  before = _resident_mb()  # after the compiler, whose peak is not the step's
  for _ in range(3):
    side.train()
  print(_status_mb("VmHWM") - before)


def _resident_mb() -> float:
  """Returns what is resident, and lets the peak begin from there."""
  with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
  return _status_mb("VmRSS")


def _status_mb(name: str) -> float:
  with open("/proc/self/status") as file:
    for line in file:
      if line.startswith(name):
        return int(line.split()[1]) / 1e3
  raise ValueError(name)


def compile_both(images, labels) -> tuple["Ours", dict[str, float]]:
  """Compiles the training step of the textbook, and ours, twice.

  Returns:
    Our side, and the seconds: of the textbook, of ours, and of ours again from
    the compilation cache, which stays on.
  """
  ours = Ours(images, labels)
  textbook = ours.model.clone(encoder=TextbookDenseNet())
  seconds = {"textbook": Ours(images, labels, model=textbook).init()}
  folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, folder)
  # In the environment, for the process that measures memory.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  jax.config.update("jax_compilation_cache_dir", folder)
  seconds["ours"] = ours.init()
  jax.clear_caches()
  seconds["cached"] = Ours(images, labels).init()
  return ours, seconds


def versions() -> dict[str, str]:
  """Returns the versions of all that was compared."""
  names = ("jax", "jaxlib", "flax", "torch", "monai", "torchvision")
  found = {"python": platform.python_version()}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def main() -> None:
  """Prints the tables and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="fewer repeats")
  parser.add_argument("--size", type=int, default=128, help="pixels a side")
  parser.add_argument("--slices", type=int, default=16)
  parser.add_argument("--scans", type=int, default=2)
  parser.add_argument("--memory-of", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.memory_of:
    report_memory(args)
    return
  repeats = 5 if args.quick else 15
  images, labels = make_inputs(args.slices, args.scans, args.size)
  ours, compiling = compile_both(images, labels)
  sides = {
    "ours": ours,
    "torch": Torch(images, labels, channels_last=False),
    "torch channels-last": Torch(images, labels, channels_last=True),
  }
  figures, ratios = {"compile_seconds": compiling}, {}
  print(f"{'':10}{'side':22}{'median ms':>10}{'slices/s':>10}")
  for method in ("train", "infer"):
    seconds = alternate(sides, method, repeats)
    best = min(list(sides)[1:], key=lambda n: statistics.median(seconds[n]))
    comparison = compare(seconds["ours"], seconds[best])
    ratios[f"{method}_vs_torch"] = comparison["ratio"]
    figures[method] = comparison | {"peer": best}
    for name, times in seconds.items():
      median = statistics.median(times)
      figures[method][name] = args.slices / median
      print(
        f"{method:10}{name:22}{1e3 * median:10.1f}{args.slices / median:10.1f}"
      )
  memory = {name: peak_growth(args, name) for name in sides}
  figures["memory_mb"] = memory
  ratios["memory_vs_torch"] = memory["ours"] / min(
    mb for name, mb in memory.items() if name != "ours"
  )
  ratios["compile_vs_textbook"] = compiling["ours"] / compiling["textbook"]
  ratios["compile_cached"] = compiling["cached"] / compiling["ours"]
  for name, mb in memory.items():
    print(f"{'memory':10}{name:22}{mb:10.0f} MB")
  for name, value in compiling.items():
    print(f"{'compile':10}{name:22}{value:10.1f} s")
  for name, ratio in ratios.items():
    print(f"{name}: {ratio:.2f}")
  result = {
    "benchmark": "step",
    "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
    "versions": versions(),
    "ratios": ratios,
    "figures": figures,
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
