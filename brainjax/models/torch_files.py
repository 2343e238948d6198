"""Reads arrays from a PyTorch file, without PyTorch and without running it.

Such a file is a pickle, which is a program, beside the raw numbers. Here that
program may name the few constructors that plain tensors need and nothing else.
Both containers are read: the zip of PyTorch 1.6 and later, and the stream
before it, in which torchvision publishes its DenseNets.
"""

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a stream
_HOW_TO_SAVE = (
  "write it with PyTorch as torch.save(model.state_dict(), FILE), or as"
  " .safetensors"
)


class RefusedError(ValueError):
  """The file is sound, but not one of plain weights."""


class _Storage(NamedTuple):
  """Numbers that tensors look into."""

  key: str
  dtype: str


class _Tensor(NamedTuple):
  """A view of a storage; offset and stride count numbers, not bytes."""

  storage: _Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads every tensor of a file that `torch.save` wrote.

  Args:
    path: Holds a `state_dict`, or nested dicts that hold some.

  Returns:
    Read-only arrays by name; names of nested dicts are joined by dots.

  Raises:
    RefusedError: It holds what only running its program could make.
    Exception: Of any kind, if the file is damaged.
  """
  with open(path, "rb") as file:
    read = _read_zip if zipfile.is_zipfile(file) else _read_stream
    file.seek(0)
    content, numbers_of = read(file)
  if not isinstance(content, dict):
    raise RefusedError(f"it holds no state_dict; {_HOW_TO_SAVE}")
  return {name: _view(tensor, numbers_of) for name, tensor in _tensors(content)}


def _read_zip(file: BinaryIO) -> tuple[Any, Mapping[str, bytes]]:
  with zipfile.ZipFile(file) as archive:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if not pickles:
      raise RefusedError(f"it is a zip, but not of weights; {_HOW_TO_SAVE}")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names:
      _check_order(archive.read(f"{folder}byteorder") == b"little")
    unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
    content = unpickler.load()
    return content, {
      key: archive.read(f"{folder}data/{key}") for key in unpickler.dtypes
    }


def _read_stream(file: BinaryIO) -> tuple[Any, Mapping[str, bytes]]:
  if _Unpickler(file).load() != _MAGIC:
    raise RefusedError(f"torch.save did not write it; {_HOW_TO_SAVE}")
  _Unpickler(file).load()  # version 1001, the only one there ever was
  _check_order(_Unpickler(file).load()["little_endian"])
  unpickler = _Unpickler(file)
  content = unpickler.load()
  numbers_of = {}
  for key in _Unpickler(file).load():
    count = int.from_bytes(file.read(8), "little")
    numbers_of[key] = file.read(
      count * jnp.dtype(unpickler.dtypes[key]).itemsize
    )
  return content, numbers_of


def _check_order(little: bool) -> None:
  if not little:
    raise RefusedError(
      f"its numbers are big-endian; on another machine, {_HOW_TO_SAVE}"
    )


def _tensors(
  content: Mapping[Any, Any], prefix: str = ""
) -> Iterator[tuple[str, _Tensor]]:
  for name, value in content.items():
    if isinstance(value, dict):
      yield from _tensors(value, f"{prefix}{name}.")
    elif isinstance(value, _Tensor):
      yield f"{prefix}{name}", value


def _view(tensor: _Tensor, numbers_of: Mapping[str, bytes]) -> np.ndarray:
  dtype = jnp.dtype(tensor.storage.dtype)
  # The constructor refuses a view that leaves its buffer.
  return np.ndarray(
    tensor.size,
    dtype,
    numbers_of[tensor.storage.key],
    tensor.offset * dtype.itemsize,
    [step * dtype.itemsize for step in tensor.stride],
  )


def _rebuild_tensor(storage, offset, size, stride, *_) -> _Tensor:
  return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor, *_) -> _Tensor:
  return tensor


# All that a pickle may name. None of it can do anything but hold values.
_NAMES: Mapping[tuple[str, str], Callable[..., Any] | str] = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  ("torch", "FloatStorage"): "float32",
  ("torch", "DoubleStorage"): "float64",
  ("torch", "HalfStorage"): "float16",
  ("torch", "BFloat16Storage"): "bfloat16",
  ("torch", "LongStorage"): "int64",
}


class _Unpickler(pickle.Unpickler):
  """Looks nothing up, so it neither imports nor calls what a file names."""

  def __init__(self, file: BinaryIO):
    super().__init__(file)
    self.dtypes: dict[str, str] = {}  # of the storages met so far, by key

  def find_class(self, module_name: str, global_name: str) -> Any:
    try:
      return _NAMES[module_name, global_name]
    except KeyError:
      raise RefusedError(
        f"it holds {module_name}.{global_name}, not only weights, and is not"
        f" run to find out; {_HOW_TO_SAVE}"
      ) from None

  def persistent_load(self, pid: Any) -> _Storage:
    kind, dtype, key, _location, _count, *view = pid
    if kind != "storage" or any(view):
      raise RefusedError(f"it holds a {kind} of another; {_HOW_TO_SAVE}")
    self.dtypes[key] = dtype
    return _Storage(key, dtype)
