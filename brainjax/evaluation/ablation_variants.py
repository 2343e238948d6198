"""What an ablation trains: the heads, and the controls of some."""

from collections.abc import Sequence
from typing import NamedTuple

from brainjax import InputError
from brainjax.config import NETWORKS
from brainjax.models.heads import HEADS


class Variant(NamedTuple):
  """A head as it is, or as a control.

  Attributes:
    head: Its name.
    control: What is changed, one of `CONTROLS`; "" = nothing.
  """

  head: str
  control: str = ""

  @property
  def name(self) -> str:
    """Of its folder."""
    return f"{self.head}-{self.control}" if self.control else self.head


# What each control does, and what a head must show under it to be believed.
CONTROLS = {
  "shuffled": "slices in random order, in training and test",
  "shuffled_at_test": "trained in order, tested with slices in random order",
  "random_labels": "classes dealt anew among groups; must be at chance",
  "permuted_channels": "features of a slice in another order",
}


HEADS_WITHOUT_ORDER = ("mean", "max", "logsumexp", "attention")


def variants_of(
  heads: Sequence[str], primary: Sequence[str], *, end_to_end: bool = False
) -> list[Variant]:
  """Returns all that is trained: the heads, and the controls of some.

  The order of slices and the labels are taken from the primary heads; the
  order of channels from `image2d`, which alone reads one. End to end, there
  are the networks of `config.NETWORKS` besides the heads.

  Raises:
    InputError: A head is unknown or stands twice, or a primary one is missing.
  """
  known = [*HEADS, *(NETWORKS if end_to_end else ())]
  for name in heads:
    if name in NETWORKS and not end_to_end:
      raise InputError(
        f"--heads: {name} is no head on features but a network; add"
        " --end-to-end"
      )
    if name not in known:
      raise InputError(
        f"--heads: no head {name!r}; choose from {', '.join(known)}"
      )
    if heads.count(name) > 1:
      raise InputError(f"--heads: {name} stands twice")
  for name in primary:
    if name not in heads:
      raise InputError(
        f"--heads: without {name}, of config.ablation.primary={tuple(primary)};"
        " add it, or declare another comparison"
      )
  found = [Variant(name) for name in heads]
  if "mean" not in heads:  # the control without an order, of every table
    found.append(Variant("mean"))
  for name in primary:
    if name in HEADS_WITHOUT_ORDER:
      kinds = ("random_labels",)
    else:
      kinds = ("shuffled", "shuffled_at_test", "random_labels")
    found += [Variant(name, kind) for kind in kinds]
  if "image2d" in heads:
    found.append(Variant("image2d", "permuted_channels"))
  return found
