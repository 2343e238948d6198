"""The mesh and its axes: the only place that names them.

Packs are dealt over the `data` axis; parameters are small and replicated.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from brainjax import InputError

DATA_AXIS = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
  """Returns a mesh with one `data` axis over the first devices.

  Args:
    num_devices: How many; None = all that jax sees.

  Raises:
    InputError: There are fewer devices.
  """
  devices = jax.devices()
  if num_devices is None:
    num_devices = len(devices)
  if not 1 <= num_devices <= len(devices):
    raise InputError(
      f"config.mesh.devices={num_devices}: jax sees {len(devices)} devices;"
      " set a number from 1 to that"
    )
  # Auto: the compiler places the collectives, the model names no axis.
  return jax.make_mesh(
    (num_devices,),
    (DATA_AXIS,),
    axis_types=(AxisType.Auto,),
    devices=devices[:num_devices],
  )


def over_packs(mesh: Mesh) -> NamedSharding:
  """Sharding of an array that leads with the pack axis G."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of an array every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_putter(
  mesh: Mesh,
) -> Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]:
  """Returns the one host-to-device crossing: a batch, dealt over the mesh."""
  sharding = over_packs(mesh)
  return lambda batch: jax.device_put(dict(batch), sharding)
