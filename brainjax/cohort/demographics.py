"""Age and sex in one form, whatever the table they come from calls them."""

import math
import re
from collections.abc import Iterable

from brainjax import InputError

OLDEST_YEARS = 120.0
_SEX = {
  "M": ("m", "male", "man", "boy", "männlich"),
  "F": ("f", "female", "woman", "girl", "w", "weiblich"),
  "O": ("o", "other", "non-binary", "intersex", "diverse"),
  "": ("", "n/a", "na", "nan", "none", "unknown", "u", "not reported"),
}
_SEX_OF = {word: sex for sex, words in _SEX.items() for word in words}
_YEARS_OF_UNIT = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25}
_YEARS_OF_UNIT["D"] = 1 / 365.25
# 57, 57.3, 057Y and 018M as in DICOM, and 89+ or >89 where a set hides who is
# older.
_AGE = re.compile(r"[<>]?\s*(\d+(?:\.\d*)?)\s*([YMWD]?)\+?")


def normalise(rows: Iterable[dict[str, str]]) -> None:
  """Writes `sex` and `age` of manifest rows in one form, in place.

  `sex` becomes M, F, O (other) or empty, `age` years as a number or empty.

  Raises:
    InputError: A cell says neither; names the participant and the column.
  """
  for row in rows:
    for column, form in (("sex", sex_of), ("age", age_of)):
      if column in row:
        try:
          row[column] = form(row[column])
        except ValueError as error:
          raise InputError(
            f"participant {row['participant_id']}, column {column}: {error}"
          ) from None


def sex_of(text: str) -> str:
  """Returns M, F, O or, where nothing is known, an empty string.

  Raises:
    ValueError: It is another word.

  >>> sex_of("Male"), sex_of("w"), sex_of("n/a")
  ('M', 'F', '')
  """
  sex = _SEX_OF.get(text.strip().casefold())
  if sex is None:
    raise ValueError(f"{text!r} is none of M, F, O; leave unknown ones empty")
  return sex


def age_of(text: str) -> str:
  """Returns an age in years, as short as it can be written.

  Raises:
    ValueError: It is no age of a person.

  >>> age_of("057Y"), age_of("018M"), age_of("89+"), age_of("45.50")
  ('57', '1.5', '89', '45.5')
  """
  if _SEX_OF.get(text.strip().casefold()) == "":
    return ""
  match = _AGE.fullmatch(text.strip())
  years = math.nan
  if match:
    years = float(match[1]) * _YEARS_OF_UNIT[match[2]]
  if not 0 <= years <= OLDEST_YEARS:
    raise ValueError(
      f"{text!r} is no age in years from 0 to {OLDEST_YEARS:g}; mend it, or"
      " leave it empty"
    )
  return f"{years:.4g}"
