"""What a run does a second, against what its devices could do."""

import dataclasses

import jax
from flax import linen as nn

from brainjax.models import cost
from brainjax.models.cnn import CNN
from brainjax.models.densenet import DenseNet
from brainjax.training import rates
from brainjax.training.experiment import Experiment

# Floating-point operations a second in dense bfloat16, by jax's names.
# H100 and H200: NVIDIA data sheets, half of what is given "with sparsity";
# A100: NVIDIA data sheet; TPU: cloud.google.com/tpu/docs/v4, /v5e, /v5p.
_PEAK_FLOPS = {
  "NVIDIA H100 80GB HBM3": 989.5e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989.5e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA A100-PCIE-40GB": 312e12,
  "NVIDIA A100 80GB PCIe": 312e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
}


@dataclasses.dataclass(frozen=True)
class Throughput:
  """What training on a slice takes, by hand; see `models/cost.py`.

  Attributes:
    flops: Floating-point operations of a slice.
    floor_bytes: Bytes that a slice must move at least.
    peak_flops: Operations a second that all devices could do in dense
      bfloat16, whatever `model.dtype`; None where that is not known.
  """

  flops: int
  floor_bytes: int
  peak_flops: float | None

  def line(self, slices_per_second: float) -> dict[str, float]:
    """Returns a part of a log line.

    `perf/flops_per_second` is what the encoder's arithmetic comes to, without
    what is computed again to save memory; `perf/bytes_per_second` is the floor
    of the traffic, so the memory moves more; `perf/mfu` is the first as a
    fraction of the peak.
    """
    done = self.flops * slices_per_second
    line = {
      "perf/flops_per_second": done,
      "perf/bytes_per_second": self.floor_bytes * slices_per_second,
    }
    if self.peak_flops is not None:
      line["perf/mfu"] = done / self.peak_flops
    return line


def of_run(
  experiment: Experiment, encoder: nn.Module, devices: int, device_kind: str
) -> Throughput | None:
  """Returns what the run's encoder takes; None if not all of it is trained.

  Args:
    experiment: The run.
    encoder: Its model's.
    devices: That compute.
    device_kind: What jax calls one of them.
  """
  record_set = experiment.record_set
  if not isinstance(encoder, DenseNet | CNN):  # of features, or of volumes
    return None
  params = experiment.variable_shapes["params"]
  found = rates.factors(params, experiment.rates)
  if not all(jax.tree.leaves(found["encoder"])):
    return None
  peak = _PEAK_FLOPS.get(device_kind)
  return Throughput(
    cost.training_flops(encoder, record_set.slice_shape),
    cost.training_bytes(encoder, record_set.slice_shape),
    peak * devices if peak is not None else None,
  )
