"""brainjax: patient-level brain-tumour classification from 3-D MRI in JAX."""

import importlib.metadata
import os

__version__ = "0.1.0"


class InputError(ValueError):
  """What the user gave is wrong; the message is the one line they will see.

  It names the file or field, what is wrong with it, and how to mend it. The
  command line prints it and exits with 2.
  """


def set_xla_flags() -> None:
  """Sets the XLA flags brainjax needs; call it before jax is imported.

  jaxlib 0.10 runs a convolution on one CPU core unless told otherwise. Flags
  already in the environment win. An unknown flag would end the process, so
  each is set only for the jaxlib versions known to have it.
  """
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    flag = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_experimental_ynn_fusion_type" not in given:
      os.environ["XLA_FLAGS"] = f"{flag} {given}".strip()
