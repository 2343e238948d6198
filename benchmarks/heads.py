"""Sequence heads: time and parameters of each, and the LSTM against its peers.

The peers of the LSTM are flax's `nn.RNN(OptimizedLSTMCell)` and, where PyTorch
is installed, its `nn.LSTM`. A gradient is that of a sum of squares by all
parameters and by the embeddings; all slices are valid. Sides alternate; a
ratio is of medians, and its spread is that of the ratios of neighbouring runs
(10th and 90th percentile).

Then the ablation: see `ablation.py`.

    python benchmarks/heads.py [--quick] [--scans=16]

The last line is one JSON object.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import statistics

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()

import flax.linen as nn  # noqa: E402  (after the flags are set)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from ablation import measure as measure_ablation  # noqa: E402
from step import alternate, compare, versions  # noqa: E402

from brainjax.models.heads import HEADS, build_head, count_parameters  # noqa: E402

HAS_TORCH = importlib.util.find_spec("torch") is not None
HIDDEN = 256
PEER_LENGTH, PEER_SIZE = 64, 1024  # of the comparison with peers
LENGTHS, SIZE = (16, 32, 64, 160, 1024), 512  # of the table
METHODS = ("gradient", "forward")
# The defaults of `brainjax.config`, which needs more than a GPU image may hold.
FIELDS = {
  "lstm": {"hidden_size": HIDDEN},
  "gru": {"hidden_size": HIDDEN},
  "densenet1d": {
    "growth_rate": 32,
    "block_config": (4, 4),
    "num_init_features": 64,
  },
  "image2d": {
    "growth_rate": 12,
    "block_config": (3, 6, 6, 3),
    "num_init_features": 24,
  },
  "seqconv": {"filters": (256, 384, 512), "kernel_size": 5},
  "tcn": {
    "channels": 128,
    "dilations": (1, 2, 4, 8),
    "kernel_size": 3,
    "dropout": 0.2,
  },
  "attention": {"attention_size": 128},
  "transformer": {"head_size": 64, "num_heads": 4, "num_layers": 1},
  "mingru": {"hidden_size": HIDDEN, "scan": "associative"},
  "minlstm": {"hidden_size": HIDDEN, "scan": "associative"},
  "lru": {"hidden_size": HIDDEN, "scan": "associative"},
  "mean": {},
  "max": {},
  "logsumexp": {"temperature": 0.2},
}


def make_embeddings(scans: int, length: int, size: int) -> np.ndarray:
  """Returns f32[B,S,D]."""
  rng = np.random.default_rng(0)
  return rng.normal(size=(scans, length, size)).astype(np.float32)


class Jax:
  """A compiled function of (variables, embeddings), and its gradient."""

  def __init__(self, init, apply, z):
    self.z = jnp.asarray(z)
    rng = np.random.default_rng(0)
    # Noise, not `init`, which takes as long to compile and changes no time.
    self.variables = jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(0, 0.02, leaf.shape), leaf.dtype),
      jax.eval_shape(init, jax.random.key(0), self.z),
    )
    given = self.variables, self.z

    def loss(variables, z):
      return jnp.square(apply(variables, z)).sum()

    self._forward = jax.jit(apply).lower(*given).compile()
    self._gradient = jax.jit(jax.grad(loss, (0, 1))).lower(*given).compile()

  def forward(self):
    """Finds the features."""
    jax.block_until_ready(self._forward(self.variables, self.z))

  def gradient(self):
    """Finds the gradient."""
    jax.block_until_ready(self._gradient(self.variables, self.z))


class Ours(Jax):
  """A head of brainjax."""

  def __init__(self, name, z):
    head = build_head({"name": name, **FIELDS[name]})
    rest = jnp.ones(z.shape[:2], bool), jnp.zeros(z.shape[:2], jnp.float32)
    super().__init__(
      lambda key, z: head.init(key, z, *rest, train=False),
      lambda variables, z: head.apply(variables, z, *rest, train=False),
      z,
    )
    self.parameters = count_parameters(head, z.shape[-1])


class Flax(Jax):
  """The LSTM as one writes it with flax's own layers."""

  def __init__(self, z):
    rnn = nn.RNN(nn.OptimizedLSTMCell(HIDDEN), return_carry=True)
    super().__init__(
      rnn.init, lambda variables, z: rnn.apply(variables, z)[0][1], z
    )


class Torch:
  """`nn.LSTM` or `nn.GRU` of PyTorch."""

  def __init__(self, name, z):
    import torch

    self.torch = torch
    self.rnn = getattr(torch.nn, name)(z.shape[-1], HIDDEN, batch_first=True)
    self.z = torch.from_numpy(z).requires_grad_()
    self.parameters = sum(p.numel() for p in self.rnn.parameters())

  def _features(self):
    _, last = self.rnn(self.z)
    return last[0] if isinstance(last, tuple) else last

  def forward(self):
    """Finds the features."""
    with self.torch.inference_mode():
      self._features()

  def gradient(self):
    """Finds the gradient."""
    self.rnn.zero_grad(set_to_none=True)
    self.z.grad = None
    self._features().square().sum().backward()


def compare_peers(scans: int, repeats: int) -> dict[str, dict[str, float]]:
  """Returns the ratios of the gradient of the LSTM, and their milliseconds."""
  z = make_embeddings(scans, PEER_LENGTH, PEER_SIZE)
  ours, found = Ours("lstm", z), {}
  peers: dict[str, Jax | Torch] = {"lstm_grad_vs_flax_rnn": Flax(z)}
  if HAS_TORCH:
    peers["lstm_grad_vs_torch"] = Torch("LSTM", z)
  for key, peer in peers.items():
    seconds = alternate({"ours": ours, "peer": peer}, "gradient", repeats)
    found[key] = compare(seconds["ours"], seconds["peer"]) | {
      f"{side}_ms": 1e3 * statistics.median(times)
      for side, times in seconds.items()
    }
  return found


def why_skipped(name: str, length: int, *, quick: bool) -> str | None:
  """Returns why a cell of the table is left out, or None."""
  if name != "image2d":
    return None
  if length > 160:
    return "gigabytes: its maps are length x size pixels"
  return "--quick: a minute to compile" if quick else None


def measure_heads(scans: int, repeats: int, *, quick: bool) -> dict:
  """Returns parameters and milliseconds, by head, method and length."""
  table = {}
  for length in LENGTHS:
    z = make_embeddings(scans, length, SIZE)
    names = []
    for name in HEADS:
      reason = why_skipped(name, length, quick=quick)
      if reason is None:
        names.append(name)
      else:
        print(f"{name} at {length} slices skipped: {reason}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      compiled = pool.map(Ours, names, [z] * len(names))
      sides = dict(zip(names, compiled, strict=True))
    if HAS_TORCH:
      sides |= {f"torch {name}": Torch(name, z) for name in ("LSTM", "GRU")}
    for method in METHODS:
      for name, seconds in alternate(sides, method, repeats).items():
        row = table.setdefault(
          name,
          {"parameters": sides[name].parameters} | {m: {} for m in METHODS},
        )
        row[method][length] = 1e3 * statistics.median(seconds)
  return table


def print_table(table) -> None:
  """Prints milliseconds, "gradient / forward"."""
  print(
    f"\n{'gradient / forward, ms':24}{'parameters':>10}",
    *(f"{length:>14}" for length in LENGTHS),
  )
  for name, row in table.items():
    cells = [
      " / ".join(f"{row[method][length]:.1f}" for method in METHODS)
      if length in row["forward"]
      else "-"
      for length in LENGTHS
    ]
    print(f"{name:24}{row['parameters']:>10}", *(f"{c:>14}" for c in cells))


def main() -> None:
  """Prints the tables and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="fewer repeats")
  parser.add_argument("--scans", type=int, default=16, help="of a batch")
  args = parser.parse_args()
  peers = compare_peers(args.scans, 15 if args.quick else 25)
  for key, found in peers.items():
    print(
      f"{key}: {found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}],"
      f" {found['ours_ms']:.1f} ms against {found['peer_ms']:.1f} ms"
    )
  table = measure_heads(args.scans, 3 if args.quick else 7, quick=args.quick)
  print_table(table)
  ratios, ablation = measure_ablation(quick=args.quick, epochs=10)
  result = {
    "benchmark": "heads",
    "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
    "versions": versions(),
    "ratios": ratios | {key: found["ratio"] for key, found in peers.items()},
    "figures": {
      "scans": args.scans,
      "peers": peers,
      "heads": table,
      "ablation": ablation,
    },
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
