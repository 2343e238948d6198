"""A finding: what the audit found wrong, its evidence, and how to mend it."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

SEVERITIES = ("fail", "warn", "note")
_MOST_IDS = 8  # in a sentence; all of them are in `audit.json`


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that was found.

  Attributes:
    check: What was checked, a word or two; several findings may share it.
    severity: "fail": a score on this cohort would mean something else than it
      says; "warn": it might; "note": it does not, but who reads it should know.
    title: What is wrong, a sentence.
    evidence: How it is known, sentences with figures.
    mend: What to do.
    ids: Who it is about: a list of participants or scans a case.
    figures: Numbers behind the evidence, by name.
  """

  check: str
  severity: str
  title: str
  evidence: str
  mend: str
  ids: tuple[tuple[str, ...], ...] = ()
  figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
  """Returns the findings, the gravest first."""
  return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))


def some(names: Sequence[str]) -> str:
  """Joins names for a sentence, the first few of many.

  >>> some(["a", "b"])
  'a, b'
  """
  shown = ", ".join(names[:_MOST_IDS])
  more = len(names) - _MOST_IDS
  return f"{shown} and {more} more" if more > 0 else shown


def count(number: int, noun: str) -> str:
  """Writes a number with its noun.

  >>> count(1, "scan"), count(3, "family")
  ('1 scan', '3 families')
  """
  if number != 1:
    noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
  return f"{number} {noun}"
