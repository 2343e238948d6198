"""What a path gives away of a patient: the id, the name, the day of a study."""

import functools
import re

from pydicom.dataset import Dataset

# Where an archive replaced the PatientID by one and the same word.
NOBODY = ("", "anonymous", "anonymized", "anonymised", "anon", "unknown", "0")
_SHORTEST_ID = 4  # a shorter one is found in many a path by chance
_LETTER, _GAP = r"[^\W\d_]", r"[\W_]*"
Traces = tuple[tuple[str, re.Pattern[str]], ...]


def traces_of(header: Dataset) -> Traces:
  """Returns what must not be found in a path, and what each is called."""
  return _traces(
    *(
      str(header.get(name) or "").strip()
      for name in ("PatientID", "PatientName", "StudyDate")
    )
  )


def masked(path: str, traces: Traces) -> tuple[str, str]:
  """Masks what a path gives away.

  Returns:
    What it is, in words, "" if it is nothing; and the path without it.
  """
  found = []
  for name, pattern in traces:
    path, count = pattern.subn("?", path)
    found += [name] * bool(count)
  return " and the ".join(dict.fromkeys(found)), path


@functools.cache  # a series has one header a file
def _traces(patient: str, name: str, date: str) -> Traces:
  traces = []
  if len(patient) >= _SHORTEST_ID and patient.casefold() not in NOBODY:
    traces.append(("PatientID", re.escape(patient)))
  words = [
    word
    for word in re.findall(rf"{_LETTER}{{3,}}", name)
    if word.casefold() not in NOBODY
  ]
  if words:
    each = [rf"(?<!{_LETTER}){word}(?!{_LETTER})" for word in words]
    joined = [_GAP.join(words), _GAP.join(words[::-1])] * (len(words) > 1)
    traces.append(("PatientName", "|".join(joined + each)))
  digits = re.sub(r"\D", "", date)
  if len(digits) == 8:
    year, month, day = digits[:4], digits[4:6], digits[6:]
    orders = ((year, month, day), (day, month, year), (month, day, year))
    dates = "|".join(r"[\W_]?".join(order) for order in orders)
    traces.append(("StudyDate", rf"(?<!\d)(?:{dates})(?!\d)"))
  return tuple(
    (what, re.compile(pattern, re.IGNORECASE)) for what, pattern in traces
  )
