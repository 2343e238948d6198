"""jit over a mesh against pmap, over the same pure training step.

Eight devices (virtual ones on a CPU, which share its cores) take the same three
steps, a pack a device, under `mesh.parallelism="jit"` and `"pmap"`; and one
device takes all eight packs, to see what dealing them costs. Sides alternate; a
ratio is of medians, and its spread is that of the ratios of neighbouring runs
(10th and 90th percentile). The parameters after the steps are compared.

    python benchmarks/parallel.py [--quick] [--devices=8]

The last line is one JSON object.
"""

import argparse
import json
import os
import statistics

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # accelerators stay as many

import jax  # noqa: E402  (after the flags are set)
import numpy as np  # noqa: E402
from scaling import Work, device_run  # noqa: E402
from step import alternate, compare, versions  # noqa: E402


def main() -> None:
  """Prints the table and, as its last line, one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="a small model")
  parser.add_argument("--devices", type=int, default=8)
  args = parser.parse_args()
  work = Work("micro", 32) if args.quick else Work("tiny", 64)
  sides = {
    "jit": device_run(work, args.devices, args.devices),
    "pmap": device_run(work, args.devices, args.devices, "pmap"),
    "one device": device_run(work, args.devices, 1),
  }
  for side in sides.values():
    side.run()
  params = {name: jax.device_get(s.state.params) for name, s in sides.items()}
  difference = max(
    float(np.abs(a - b).max())
    for a, b in zip(
      jax.tree.leaves(params["jit"]),
      jax.tree.leaves(params["pmap"]),
      strict=True,
    )
  )
  seconds = alternate(sides, "run", 11 if args.quick else 21)
  figures = {"largest_difference": difference}
  print(f"{'side':12}{'ms a step':>10}{'compile s':>11}")
  for name, side in sides.items():
    figures[name] = {
      "step_ms": 1e3 * statistics.median(seconds[name]) / len(side.steps),
      "compile_seconds": side.steps[0][0].compile_seconds,
    }
    print(
      "{0:12}{step_ms:10.1f}{compile_seconds:11.1f}".format(
        name, **figures[name]
      )
    )
  ratios = {}
  for key, peer in (("jit_vs_pmap", "pmap"), ("jit_vs_one", "one device")):
    figures[key] = compare(seconds["jit"], seconds[peer])
    ratios[key] = figures[key]["ratio"]
    print(
      "{0}: {ratio:.2f} [{low:.2f}, {high:.2f}]".format(key, **figures[key])
    )
  print(f"largest difference of a parameter: {difference:.1e}")
  result = {
    "benchmark": "parallel",
    "device": f"{args.devices} x {jax.devices()[0].device_kind},"
    f" {os.cpu_count()} cores",
    "versions": versions(),
    "ratios": ratios,
    "figures": figures,
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
