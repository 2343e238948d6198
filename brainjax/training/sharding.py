"""The mesh and its axes: the only place that names them.

Packs are dealt over the `data` axis, the slices of a pack over the `slice`
axis; parameters are small and replicated. With several processes, each reads
the packs of its own devices.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from brainjax import InputError

DATA_AXIS = "data"
SLICE_AXIS = "slice"
PARALLELISM = ("jit", "pmap")


def make_mesh(num_devices: int | None = None, slice_devices: int = 1) -> Mesh:
  """Returns a mesh over the first devices.

  Args:
    num_devices: How many; None = all that jax sees, in all processes.
    slice_devices: Devices that share the slices of a pack; those of one
      process.

  Raises:
    InputError: There are fewer devices, or they do not divide.
  """
  devices = jax.devices()
  if num_devices is None:
    num_devices = len(devices)
  if not 1 <= num_devices <= len(devices):
    raise InputError(
      f"config.mesh.devices={num_devices}: jax sees {len(devices)} devices;"
      " set a number from 1 to that"
    )
  if jax.process_count() > 1 and num_devices < len(devices):
    raise InputError(
      f"config.mesh.devices={num_devices}: {jax.process_count()} processes have"
      f" {len(devices)} devices, and all take part; leave it unset"
    )
  at_hand = min(num_devices, jax.local_device_count())
  if at_hand % slice_devices:
    raise InputError(
      f"config.mesh.slice_devices={slice_devices}: does not divide the"
      f" {at_hand} devices of a process"
    )
  # Auto: the compiler places the collectives, the model names no axis.
  return jax.make_mesh(
    (num_devices // slice_devices, slice_devices),
    (DATA_AXIS, SLICE_AXIS),
    axis_types=(AxisType.Auto,) * 2,
    devices=devices[:num_devices],
  )


def data_devices(mesh: Mesh) -> int:
  """Among how many the packs are dealt."""
  return mesh.shape[DATA_AXIS]


def over_packs(mesh: Mesh) -> NamedSharding:
  """Sharding of an array that leads with the pack axis G."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def over_slices(mesh: Mesh) -> NamedSharding:
  """Sharding of an array that leads with G and N, packs and their slices."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS, SLICE_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of an array every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def local_packs(mesh: Mesh, packs: int) -> np.ndarray:
  """Returns i64[g], which of G packs the devices of this process work on."""
  places = over_packs(mesh).addressable_devices_indices_map((packs,))
  return np.unique(
    np.concatenate([np.arange(packs)[place] for place in places.values()])
  )


def batch_putter(
  mesh: Mesh,
) -> Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]:
  """Returns the one host-to-device crossing: a batch, dealt over the mesh.

  It takes the packs of this process, `local_packs`.
  """
  packs, slices = over_packs(mesh), over_slices(mesh)
  # As arguments of a program, small arrays cross in an eighth of the time that
  # `device_put` takes, all of it time in which no other thread runs Python.
  small = jax.jit(lambda arrays: arrays, out_shardings=packs)

  def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    if mesh.size == 1:
      batch = dict(batch)
      large = {"slices": jax.device_put(batch.pop("slices"), slices)}
      return large | small(batch)
    shardings = {name: slices if name == "slices" else packs for name in batch}
    if jax.process_count() == 1:
      return jax.device_put(dict(batch), shardings)
    return {
      name: jax.make_array_from_process_local_data(shardings[name], values)
      for name, values in batch.items()
    }

  return put


def parallelise(
  step: Callable[[Any, Any], tuple[Any, Any]], mesh: Mesh, parallelism: str
) -> Callable[..., Any]:
  """Returns a step, `(state, batch) -> (state, metrics)`, for all devices.

  Args:
    step: A pure function. Under "pmap" it gets the packs of one device, and
      sums over `DATA_AXIS` by itself.
    mesh: The devices.
    parallelism: One of `PARALLELISM`.
  """
  if parallelism == "pmap":
    step = _map_over_devices(step, mesh)
  everywhere = replicated(mesh)
  return jax.jit(step, donate_argnums=0, out_shardings=(everywhere, everywhere))


def _map_over_devices(step: Callable[..., Any], mesh: Mesh) -> Any:
  devices = data_devices(mesh)
  mapped = jax.pmap(
    step,
    axis_name=DATA_AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    devices=mesh.devices.ravel().tolist(),
  )
  return lambda state, batch: mapped(
    state, jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
  )


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
    take: (store, i32[G,N] rows) to [G,N,...], dealt over the mesh.
  """
  packs, slices = over_packs(mesh), over_slices(mesh)
  if not dealt:
    everywhere = replicated(mesh)
    return (
      lambda rows: jax.device_put(rows, everywhere),
      jax.jit(
        lambda store, rows: jnp.take(store, rows, axis=0, mode="clip"),
        out_shardings=slices,
      ),
    )
  # Spelled out, for the compiler might gather the whole store instead.
  take = jax.shard_map(
    _take_from_all,
    mesh=mesh,
    in_specs=(packs.spec, packs.spec),
    out_specs=packs.spec,
  )
  return (
    lambda rows: jax.device_put(rows, packs),
    jax.jit(take, out_shardings=slices),
  )


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
