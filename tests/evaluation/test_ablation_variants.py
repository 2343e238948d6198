"""Which heads and controls an ablation trains."""

import pytest

from brainjax import InputError
from brainjax.evaluation import ablation_variants


@pytest.mark.parametrize(
  ("heads", "words"),
  [
    (("lstm", "none"), "no head 'none'"),
    (("lstm", "lstm"), "twice"),
    (("lstm", "gru"), "without densenet1d"),
  ],
)
def test_heads_that_cannot_be_compared_are_refused(heads, words):
  with pytest.raises(InputError, match=words):
    ablation_variants.variants_of(heads, ("lstm", "densenet1d"))


def test_networks_are_compared_end_to_end():
  heads, primary = ("lstm", "cnn2d", "densenet3d"), ("lstm", "cnn2d")
  with pytest.raises(InputError, match="cnn2d is no head .*--end-to-end"):
    ablation_variants.variants_of(heads, primary)
  found = ablation_variants.variants_of(heads, primary, end_to_end=True)
  names = [variant.name for variant in found if not variant.control]
  assert names == [*heads, "mean"]


def test_controls_are_of_heads_that_they_can_change():
  names = [
    variant.name
    for variant in ablation_variants.variants_of(
      ("lstm", "attention", "image2d"), ("lstm", "attention")
    )
  ]
  assert names == [
    *("lstm", "attention", "image2d", "mean"),
    *("lstm-shuffled", "lstm-shuffled_at_test", "lstm-random_labels"),
    *("attention-random_labels", "image2d-permuted_channels"),
  ]
