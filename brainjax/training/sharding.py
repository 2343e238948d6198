"""The mesh and its axes: the only place that names them.

Packs are dealt over the `data` axis; parameters are small and replicated.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
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


def row_store(
  mesh: Mesh, *, dealt: bool
) -> tuple[
  Callable[[np.ndarray], jax.Array],
  Callable[[jax.Array, jax.Array], jax.Array],
]:
  """Returns how rows are kept on the devices, and how packs take them.

  Args:
    mesh: The devices.
    dealt: Each device holds its share of the rows, instead of all of them.
      Their number must then be a multiple of the devices. As the rows of a
      pack may be anywhere, devices exchange those of a batch at every step;
      otherwise they do not speak to each other.

  Returns:
    put: u8|i16|f32[R,...] rows of the host to the store.
    take: (store, i32[G,N] rows) to [G,N,...], dealt over the mesh by packs.
  """
  packs = over_packs(mesh)
  if not dealt:
    everywhere = replicated(mesh)
    return (
      lambda rows: jax.device_put(rows, everywhere),
      jax.jit(
        lambda store, rows: jnp.take(store, rows, axis=0, mode="clip"),
        out_shardings=packs,
      ),
    )
  # Spelled out, for the compiler might gather the whole store instead.
  take = jax.shard_map(
    _take_from_all,
    mesh=mesh,
    in_specs=(packs.spec, packs.spec),
    out_specs=packs.spec,
  )
  return lambda rows: jax.device_put(rows, packs), jax.jit(take)


def _take_from_all(share: jax.Array, rows: jax.Array) -> jax.Array:
  """Takes i32[G,N] rows of a dealt store; `share` is what this device holds."""
  rows = jax.lax.all_gather(rows, DATA_AXIS, tiled=True)
  rows -= jax.lax.axis_index(DATA_AXIS) * len(share)
  found = jnp.take(share, rows, axis=0, mode="clip")
  # A row has one owner and the others add zeros, so the sum is exact. As i32,
  # which every backend can sum; the bits of a float, for the sign of a zero.
  floats = jnp.issubdtype(share.dtype, jnp.floating)
  if floats:
    found = jax.lax.bitcast_convert_type(found, jnp.int32)
  here = (rows >= 0) & (rows < len(share))
  here = here.reshape(*here.shape, *[1] * (found.ndim - 2))
  found = jnp.where(here, found.astype(jnp.int32), 0)
  found = jax.lax.psum_scatter(found, DATA_AXIS, tiled=True)
  if floats:
    return jax.lax.bitcast_convert_type(found, share.dtype)
  return found.astype(share.dtype)
