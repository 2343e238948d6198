"""The sentences say what the numbers do, and no more."""

import pytest

from brainjax.evaluation import verdict

SCREENING = ["normal", "tumour"]
TYPING = ["glioma", "meningioma", "pituitary"]
MIXED = [
  {"source": source, "class": name}
  for source in ("ixi", "ucsf")
  for name in SCREENING
]


def score(value, low=None, high=None):
  return {"value": value, "low": low, "high": high}


def screening(auc, **probes):
  return {
    "roc_auc": score(*auc),
    "n": 40,
    "confusion_matrix": [[15, 5], [4, 16]],
    "probes": {
      name: {"roc_auc": score(*values)} for name, values in probes.items()
    },
  }


def sentences(scores, classes=SCREENING, scans=MIXED):
  return [tuple(c) for c in verdict.checks(scores, classes, scans)]


@pytest.mark.parametrize(
  ("values", "text"),
  [
    ((0.871, 0.784, 0.936), "0.87 [0.78, 0.94]"),
    ((0.871, None, None), "0.87"),
    ((0.0, 0.0, 0.1), "0.00 [0.00, 0.10]"),
    ((None, None, None), "undefined"),
  ],
)
def test_score_text(values, text):
  assert verdict.score_text(score(*values)) == text


def test_headline_of_screening_is_the_auc():
  scores = screening((0.87, 0.78, 0.94))
  assert verdict.headline(scores, SCREENING, "the test split") == (
    "On the test split the model tells normal and tumour apart with"
    " AUC 0.87 [0.78, 0.94], n = 40 participants."
  )


def test_images_of_nobody_knows_whom_are_no_participants():
  scores = screening((0.87, 0.78, 0.94), histogram=(0.6, 0.5, 0.7))
  assert all(stands for stands, _ in sentences(scores))
  scores["patients_known"] = False
  assert verdict.headline(scores, SCREENING, "the test split").endswith(
    "n = 40 images."
  )
  stands, text = sentences(scores)[0]
  assert not stands and text.startswith("Nobody knows which images show one")


@pytest.mark.parametrize("low", [0.5, 0.31])
def test_headline_claims_nothing_that_chance_could_do(low):
  scores = screening((0.62, low, 0.83))
  assert verdict.headline(scores, SCREENING, "the test split") == (
    "On the test split the model is not shown to tell normal and tumour apart:"
    f" AUC 0.62 [{low:.2f}, 0.83], n = 40 participants."
  )


def test_no_headline_that_a_shortcut_reaches():
  scores = screening((0.87, 0.78, 0.94), header=(0.78, 0.7, 0.85))
  assert verdict.headline(scores, SCREENING, "the cohort B") == (
    "No headline: on the cohort B AUC 0.78 [0.70, 0.85] from the image header"
    " alone reaches the model's AUC 0.87 [0.78, 0.94], n = 40 participants."
    " What the model adds to a shortcut is not shown."
  )
  # What chance could do needs no shortcut to be refused.
  scores = screening((0.6, 0.4, 0.8), header=(0.5, 0.4, 0.6))
  said = verdict.headline(scores, SCREENING, "the cohort B")
  assert "the model is not shown to tell" in said
  scores = screening((0.87, 0.78, 0.94), header=(0.77, 0.7, 0.99))
  assert "tells normal" in verdict.headline(scores, SCREENING, "the test split")


def test_typing_stands_beside_the_largest_class():
  scores = {
    "roc_auc": score(0.99, 0.98, 1.0),
    "balanced_accuracy": score(0.50, 0.34, 0.66),
    "accuracy": score(0.60, 0.50, 0.70),
    "n": 40,
    "confusion_matrix": [[10, 0, 0], [4, 16, 0], [5, 5, 0]],
    "probes": {"header": {"balanced_accuracy": score(0.3, 0.2, 0.4)}},
  }
  assert verdict.headline(scores, TYPING, "the validation split") == (
    "On the validation split the model tells glioma, meningioma and pituitary"
    " apart with balanced accuracy 0.50 [0.34, 0.66] and accuracy 0.60 [0.50,"
    " 0.70], n = 40 participants."
  )
  assert sentences(scores, TYPING) == [
    (
      True,
      "The lower bound of the balanced accuracy, 0.34, is above chance (0.33).",
    ),
    (
      False,
      "The lower bound of the accuracy, 0.50, does not beat always answering"
      " meningioma (0.50).",
    ),
    (
      False,
      "A shortcut is not ruled out: the interval of balanced accuracy 0.30"
      " [0.20, 0.40] from the image header alone overlaps the model's"
      " interval.",
    ),
  ]


@pytest.mark.parametrize(
  ("auc", "stands", "says"),
  [
    ((0.6, 0.51, 0.7), True, "0.51, is above chance (0.50)."),
    ((0.6, 0.50, 0.7), False, "0.50, does not beat chance (0.50)."),
    ((0.3, 0.2, 0.4), False, "0.20, does not beat chance (0.50)."),
    ((1.0, None, None), False, "it cannot be held against chance (0.50)."),
    ((None, None, None), False, "it cannot be held against chance (0.50)."),
  ],
)
def test_against_chance(auc, stands, says):
  check = verdict.checks(screening(auc), SCREENING, MIXED)[0]
  assert check.stands == stands
  assert check.text.endswith(says)


@pytest.mark.parametrize(
  ("probes", "stands", "says"),
  [
    # The stronger of two probes is named, on the edge and beyond it.
    (
      {"header": (0.78, 0.70, 0.85), "histogram": (0.6, 0.5, 0.99)},
      False,
      "A shortcut could explain the result: AUC 0.78 [0.70, 0.85] from the"
      " image header alone reaches the model's interval.",
    ),
    (
      {"header": (0.99, 0.97, 1.0)},
      False,
      "A shortcut could explain the result: AUC 0.99 [0.97, 1.00] from the"
      " image header alone reaches the model's interval.",
    ),
    # A weaker probe may have the wider interval.
    (
      {"header": (0.65, 0.6, 0.7), "histogram": (0.6, 0.4, 0.78)},
      False,
      "A shortcut is not ruled out: the interval of AUC 0.60 [0.40, 0.78]"
      " from the intensity histogram alone overlaps the model's interval.",
    ),
    (
      {"header": (0.65, 0.6, 0.7), "histogram": (0.6, 0.4, 0.77)},
      True,
      "No probed shortcut explains the result: the strongest, AUC 0.65 [0.60,"
      " 0.70] from the image header alone, stays below the model's interval.",
    ),
    (
      {"header": (None,), "histogram": (0.6,)},
      True,
      "No probed shortcut explains the result: the strongest, AUC 0.60 from"
      " the intensity histogram alone, stays below the model's interval.",
    ),
    (
      {"header": (None,)},
      False,
      "No shortcut could be probed, so one may explain the result.",
    ),
    ({}, False, "No shortcut could be probed, so one may explain the result."),
  ],
)
def test_against_probes(probes, stands, says):
  scores = screening((0.87, 0.78, 0.94), **probes)
  assert sentences(scores)[1] == (stands, says)


def test_a_perfect_score_is_its_own_bound():
  scores = screening((1.0, None, None), header=(0.9, 0.8, 0.95))
  stands, text = sentences(scores)[1]
  assert stands and "stays below the model's value." in text
  scores = screening((1.0, None, None), header=(1.0, None, None))
  stands, text = sentences(scores)[1]
  assert not stands and "AUC 1.00 from the image header" in text


def test_without_a_value_or_probes_nothing_is_claimed():
  scores = screening((None, None, None), header=(0.5, 0.4, 0.6))
  assert not any(stands for stands, _ in sentences(scores))
  del scores["probes"]
  assert "No shortcut could be probed" in sentences(scores)[1][1]


@pytest.mark.parametrize(
  ("scans", "flagged"),
  [
    ([("ixi", "normal"), ("ucsf", "tumour")], True),
    ([("ixi", "normal"), ("a", "tumour"), ("b", "tumour")], True),
    ([("ixi", "normal"), ("ixi", "tumour"), ("ucsf", "tumour")], False),
    ([("ixi", "normal"), ("ixi", "tumour")], False),
  ],
)
def test_classes_from_sources_of_their_own(scans, flagged):
  rows = [{"source": source, "class": name} for source, name in scans]
  found = sentences(screening((0.9, 0.8, 1.0)), scans=rows)
  assert any("No source holds" in text for _, text in found) == flagged
