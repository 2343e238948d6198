import pytest

from brainjax import InputError
from brainjax.cohort import demographics


@pytest.mark.parametrize(
  "text, sex",
  [
    *[(text, "M") for text in ("M", "m", "male", "Man")],
    *[(text, "F") for text in ("F", "f", "FEMALE", "woman", "w")],
    *[(text, "O") for text in ("O", "other")],
    *[(text, "") for text in ("", "n/a", "unknown", "NaN")],
  ],
)
def test_sex_has_one_form(text, sex):
  assert demographics.sex_of(text) == sex


@pytest.mark.parametrize(
  "text, age",
  [
    *[("57", "57"), ("57.26", "57.26"), ("057Y", "57"), ("018M", "1.5")],
    *[("030D", "0.08214"), ("052W", "0.9966"), ("89+", "89"), (">89", "89")],
    *[("", ""), ("n/a", ""), ("0", "0"), ("120", "120"), ("35.80013", "35.8")],
  ],
)
def test_age_is_a_number_of_years(text, age):
  assert demographics.age_of(text) == age


@pytest.mark.parametrize(
  "column, text",
  [
    *[("age", text) for text in ("-1", "121", "fifty", "1e3", "nan years")],
    *[("sex", text) for text in ("1", "x", "femal")],
  ],
)
def test_what_is_neither_is_refused_by_name(column, text):
  rows = [{"participant_id": "p0"}, {"participant_id": "p1", column: text}]
  with pytest.raises(InputError, match=f"participant p1, column {column}: '"):
    demographics.normalise(rows)
