"""brainjax: patient-level brain-tumour classification from 3-D MRI in JAX."""

import ctypes
import importlib.metadata
import os
import pathlib
import sys

__version__ = "0.1.0"


class InputError(ValueError):
  """What the user gave is wrong; the message is the one line they will see.

  It names the file or field, what is wrong with it, and how to mend it. The
  command line prints it and exits with 2.
  """


# Flags of XLA on a CPU, by the jaxlib releases known to have them: an unknown
# flag would end the process.
_XLA_FLAGS = {
  # Otherwise a convolution runs on one core.
  "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution": ("0.10.",),
  # Otherwise work is ordered for many cores, which takes a third more memory.
  "--xla_cpu_enable_concurrency_optimized_scheduler=false": ("0.10.", "0.11."),
}


def set_xla_flags() -> None:
  """Sets the XLA flags brainjax needs; call it before jax is imported.

  Flags already in the environment win.
  """
  version = importlib.metadata.version("jaxlib")
  flags = os.environ.get("XLA_FLAGS", "").split()
  given = {flag.partition("=")[0] for flag in flags}
  for flag, releases in _XLA_FLAGS.items():
    if version.startswith(releases) and flag.partition("=")[0] not in given:
      flags.append(flag)
  os.environ["XLA_FLAGS"] = " ".join(flags)


# Parameters of glibc's allocator, by their numbers in its malloc.h.
_ALLOCATOR = {
  -8: 1,  # M_ARENA_MAX: what one thread freed, another may take
  -4: 0,  # M_MMAP_MAX: nothing is mapped by itself, and unmapped when freed
  -1: 2**31 - 1,  # M_TRIM_THRESHOLD: nothing is given back
}
_ACCELERATORS = ("/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


def keep_freed_memory() -> None:
  """Lets the process keep what XLA frees; call it before jax is imported.

  XLA on a CPU allocates its temporaries anew each step, and Linux hands them
  out page by page: a tenth of the time of a step of DenseNet-121. Variables
  of the environment (MALLOC_..., GLIBC_TUNABLES) win. On a machine with an
  accelerator and under a C library other than glibc nothing is changed.
  """
  names = [name for name in os.environ if name.startswith("MALLOC_")]
  if names or "GLIBC_TUNABLES" in os.environ:
    return
  if any(map(os.path.exists, _ACCELERATORS)):
    return
  glibc = _glibc()
  if glibc:
    for parameter, value in _ALLOCATOR.items():
      glibc.mallopt(parameter, value)


def release_freed_memory() -> None:
  """Gives back what the process keeps but does not use.

  To be called after compilation, which takes a gigabyte for DenseNet-121.
  """
  glibc = _glibc()
  if glibc:
    glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
  """Returns the C library, if it is glibc."""
  if sys.platform != "linux":
    return None
  library = ctypes.CDLL(None)
  return library if hasattr(library, "malloc_trim") else None


def set_compilation_cache() -> None:
  """Lets jax keep what it compiles; call it before jax is imported.

  The folder is `compiled` in $BRAINJAX_CACHE, else in ~/.cache/brainjax. What
  the environment says of jax's own variables wins, and where the folder
  cannot be written, nothing is kept.
  """
  cache = os.environ.get("BRAINJAX_CACHE") or "~/.cache/brainjax"
  folder = pathlib.Path(cache).expanduser() / "compiled"
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # such as a container without a home
      return
    if not os.access(folder, os.W_OK):
      return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  # Small models compile many small programs.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
