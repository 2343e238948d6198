"""Eight virtual CPU devices and strict numerics for every test."""

import os
import pathlib
import signal

import brainjax

brainjax.set_xla_flags()
brainjax.keep_freed_memory()
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the suite's time is compilation, and many tests compile the same.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
  pathlib.Path(__file__).parent.parent / ".cache" / "compiled"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# A shell starts what runs in the background deaf to Ctrl-C; so would be all
# that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402  (after the environment is set)
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_root():
  """Folder of real MRI; a test that needs it skips without it."""
  root = os.environ.get("BRAINJAX_DATA")
  if not root:
    pytest.skip("needs real MRI: set BRAINJAX_DATA to the folder")
  return pathlib.Path(root)
