import numpy as np
import pytest

from brainjax.training import balance

CLASSES = ("normal", "glioma", "metastasis")
# Participant, source and class. Gliomas come from two sources, the others from
# one; b has two scans, and nothing is known of u.
SCANS = [
  {"participant_id": person, "source": source, "class": name}
  for person, source, name in (
    *((f"n{i}", "ixi", "normal") for i in range(6)),
    *(("a", "ixi", "glioma"), ("b", "ixi", "glioma"), ("b", "ixi", "glioma")),
    *(("c", "ucsf", "glioma"), ("m", "ucsf", "metastasis"), ("u", "ucsf", "")),
  )
]
LENGTHS = np.full(len(SCANS), 4, np.int32)


def share(found, **fields):
  """Expected draws of the scans that have these values."""
  chosen = [
    all(scan[name] == value for name, value in fields.items()) for scan in SCANS
  ]
  return found.expected[np.array(chosen)].sum()


def test_participants_are_counted():
  assert balance.count_participants(SCANS, CLASSES).tolist() == [6, 3, 1]


def test_natural_sampling_is_none():
  assert balance.make_sampling("natural", SCANS, LENGTHS) is None


def test_classes_count_alike():
  found = balance.make_sampling("class", SCANS, LENGTHS)
  for name in CLASSES:
    assert share(found, **{"class": name}) == pytest.approx(11 / 3)
  for person in "abc":
    assert share(found, participant_id=person) == pytest.approx(11 / 9)
  assert share(found, participant_id="u") == 1


def test_pairs_of_source_and_class_count_alike():
  found = balance.make_sampling("source", SCANS, LENGTHS)
  for source, name in (
    *(("ixi", "normal"), ("ixi", "glioma")),
    *(("ucsf", "glioma"), ("ucsf", "metastasis")),
  ):
    pair = {"source": source, "class": name}
    assert share(found, **pair) == pytest.approx(11 / 4)
  assert share(found, participant_id="a") == pytest.approx(11 / 8)
  assert share(found, participant_id="u") == 1


@pytest.mark.parametrize(
  ("kind", "strength", "taught"),
  [
    ("class", 0, [1 / 3, 1 / 3, 1 / 3]),
    ("source", 0, [1 / 4, 1 / 2, 1 / 4]),
    ("natural", 1, [1 / 3, 1 / 3, 1 / 3]),
    ("natural", 2, np.array([1 / 6, 1 / 3, 1]) / 1.5),
  ],
)
def test_validation_has_the_shares_that_training_taught(kind, strength, taught):
  weights = balance.validation_weights(kind, SCANS, CLASSES, strength)
  natural = np.array([6, 3, 1]) / 10
  np.testing.assert_allclose(natural * weights, taught)
