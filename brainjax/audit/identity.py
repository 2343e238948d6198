"""Does one person hide behind several ids, or stand on two sides of a split?

A model that has seen a person answers better on that person's other scans,
slices or copies, and the score then says nothing of new people (Yagis et al.
2021, doi:10.1038/s41598-021-01681-w: random labels reached 96 % on a split by
slice, 50 % by person).
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from brainjax.audit.findings import Finding, count, some
from brainjax.audit.overlaps import OVERLAPS

Row = Mapping[str, str]
_MEND_GROUP = (
  "Give all scans of a person one group_id in the manifest, prepare and split"
  " again; a group never straddles a split."
)
# What is left of an id is the person; the public sets' own rules come first.
_PUBLIC = (
  ("BraTS timepoint", re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}", re.I)),
  ("UPENN-GBM timepoint", re.compile(r"(UPENN-GBM-\d{5})_\d{2}", re.I)),
  ("UCSF-PDGM follow-up", re.compile(r"(UCSF-PDGM-\d+)_FU\d+d?.*", re.I)),
  ("IXI scan", re.compile(r"(IXI\d{3})-.+", re.I)),
  ("BIDS session", re.compile(r"(sub-[^_]+)[_-]ses-.+", re.I)),
)
_GENERAL = (
  (
    "timepoint",
    re.compile(
      r"(.*\d)[_. -]+(?:t|tp|time|timepoint|v|visit|scan|ses|session|m|month"
      r"|pre|post|base|baseline|fu|followup|follow-up)[_-]?\d*",
      re.I,
    ),
  ),
  (
    "copy",
    re.compile(
      r"(.*\d)(?:[_. -]*(?:copy|aug|rot|flip|mirror|noise|resampled)[_-]?\d*"
      r"| ?\(\d+\))",
      re.I,
    ),
  ),
  ("trailing letter", re.compile(r"(.*\d)[_-]?[A-Z]", re.I)),
)
_SCHEME = 0.5  # of the people in large families: letters are a scheme of ids


@dataclasses.dataclass(frozen=True)
class Family:
  """Ids that look like one person.

  Attributes:
    base: What they have in common.
    rule: What they differ by.
    participants: The ids, sorted.
    groups: Of them.
    splits: Of them; empty if nothing is split yet.
  """

  base: str
  rule: str
  participants: tuple[str, ...]
  groups: frozenset[str]
  splits: frozenset[str]


def person_of(participant_id: str) -> tuple[str, str]:
  """Returns what an id says of the person, and the rule that said it.

  >>> person_of("BraTS-GLI-00005-101"), person_of("MR040240B")
  (('BraTS-GLI-00005', 'BraTS timepoint'), ('MR040240', 'trailing letter'))
  """
  for rule, pattern in _PUBLIC:
    if found := pattern.fullmatch(participant_id):
      return found[1], rule
  rules = []
  person = participant_id
  for rule, pattern in _GENERAL:
    if found := pattern.fullmatch(person):
      person = found[1]
      rules.append(rule)
  return person, " and ".join(rules)


def find_families(rows: Iterable[Row]) -> list[Family]:
  """Returns the ids that look like one person's.

  Spelling apart (case, separators, leading zeros). Of different sources, only
  ids of the public sets' own pattern are held against each other.

  Args:
    rows: Of a manifest or of `splits.csv`.
  """
  members = collections.defaultdict(list)
  for row in rows:
    person, rule = person_of(row["participant_id"])
    public = rule in [name for name, _ in _PUBLIC]
    source = "" if public else row.get("source", "")
    members[source, _spelt(person)].append((row, rule))
  families = []
  for (_, base), found in members.items():
    ids = sorted({row["participant_id"] for row, _ in found})
    if len(ids) < 2:
      continue
    rules = sorted({rule for _, rule in found if rule}) or ["spelling"]
    families.append(
      Family(
        base,
        ", ".join(rules),
        tuple(ids),
        frozenset(row["group_id"] for row, _ in found),
        frozenset(row["split"] for row, _ in found if row.get("split")),
      )
    )
  return families


def check_splits(rows: Sequence[Row]) -> list[Finding]:
  """Finds people, and ids that look like one, on two sides of a split.

  Args:
    rows: With `participant_id`, `group_id` and `split`: of a manifest or of a
      run's `splits.csv`.
  """
  findings = []
  told: set[str] = set()
  for column, what in (
    ("group_id", "group"),
    ("participant_id", "participant"),
  ):
    splits_of = collections.defaultdict(set)
    for row in rows:
      if row.get("split"):
        splits_of[row[column]].add(row["split"])
    torn = sorted(name for name, splits in splits_of.items() if len(splits) > 1)
    told |= set(torn)
    if torn:
      findings.append(
        Finding(
          "split",
          "fail",
          f"{count(len(torn), what)} in more than one split",
          f"Of {count(len(splits_of), what)}, {len(torn)} have scans in two or"
          f" three splits: {some(torn)}. The model is tested on people it was"
          " trained on.",
          _MEND_GROUP,
          tuple((name,) for name in torn),
          {"torn": len(torn), "of": len(splits_of)},
        )
      )
  torn = [
    family
    for family in find_families(rows)
    if len(family.splits) > 1
    and told.isdisjoint((*family.groups, *family.participants))
  ]
  if torn:
    findings.append(
      Finding(
        "split",
        "fail",
        "Ids that look like one person in more than one split",
        f"{count(len(torn), 'family')} of ids: {_text(torn)}.",
        _MEND_GROUP,
        tuple(f.participants for f in torn),
        {"families": len(torn)},
      )
    )
  return findings


def check_ids(rows: Sequence[Row]) -> list[Finding]:
  """Finds what the ids themselves say, whatever the splits."""
  people = {row["participant_id"] for row in rows}
  families = find_families(rows)
  apart = [f for f in families if len(f.groups) > 1 and len(f.splits) < 2]
  together = [f for f in families if len(f.groups) == 1]
  findings = []
  if apart:
    members = sum(len(f.participants) for f in apart)
    scheme = members > _SCHEME * len(people) and len(people) > 3 * len(apart)
    kept = all(len(f.splits) == 1 for f in apart)
    grave = not scheme and not kept
    doubt = " So many share one that it may be how ids are made." * scheme
    luck = " Each family lies in one split, by luck." * kept
    findings.append(
      Finding(
        "ids",
        "fail" if grave else "warn",
        "Ids that look like one person, in groups of their own",
        f"{count(len(apart), 'family')} of {members} ids among"
        f" {count(len(people), 'participant')}: {_text(apart)}.{doubt}{luck}",
        _MEND_GROUP,
        tuple(f.participants for f in apart),
        {"families": len(apart), "ids": members},
      )
    )
  if together:
    members = sum(len(f.participants) for f in together)
    findings.append(
      Finding(
        "ids",
        "note",
        "Ids that look like one person, each family in one group",
        f"{count(len(together), 'family')} of {members} ids among"
        f" {count(len(people), 'participant')}: {_text(together)}.",
        "Nothing: a split keeps each of them together.",
        tuple(f.participants for f in together),
        {"families": len(together), "ids": members},
      )
    )
  findings += _conflicts(rows)
  unknown = sum(
    row.get("patient_id_known", "").lower() in ("false", "0", "no")
    for row in rows
  )
  if unknown:
    findings.append(
      Finding(
        "ids",
        "fail",
        "Nobody knows whose images these are",
        f"{unknown} of {count(len(rows), 'scan')} have no patient id, so that"
        " images of one person may lie on both sides of any split.",
        "Use a set with patient ids, or call the score what it is: of images.",
        figures={"scans": unknown},
      )
    )
  return findings


def check_overlaps(rows: Sequence[Row]) -> list[Finding]:
  """Finds public sets that are known to hold the same people."""
  findings = []
  for overlap in OVERLAPS:
    sides = [
      {row["participant_id"] for row in rows if _is_of(row, pattern)}
      for pattern in overlap.patterns
    ]
    first, second = sides[0] - sides[1], sides[1] - sides[0]
    if not (first and second):
      continue
    findings.append(
      Finding(
        "overlap",
        "warn",
        f"{overlap.names[0]} and {overlap.names[1]} share people",
        f"{overlap.text} ({overlap.reference}). Here {len(first)} participants"
        f" are of the first and {len(second)} of the second.",
        "Look the pairs up and give each one group_id, or leave one set out.",
        figures={"first": len(first), "second": len(second)},
      )
    )
  return findings


def _conflicts(rows: Sequence[Row]) -> list[Finding]:
  """Finds participants with two labels, groups or sources."""
  findings = []
  for column, severity, says, mend in (
    ("label", "fail", "labels", "A participant has one label; correct it."),
    ("group_id", "fail", "groups", _MEND_GROUP),
    (
      "source",
      "warn",
      "sources",
      "If these are different people, make their ids differ, as by a prefix.",
    ),
  ):
    values = collections.defaultdict(set)
    for row in rows:
      if row.get(column):
        values[row["participant_id"]].add(row[column])
    bad = sorted(name for name, found in values.items() if len(found) > 1)
    if bad:
      findings.append(
        Finding(
          "ids",
          severity,
          f"{count(len(bad), 'participant')} with two {says}",
          f"{some(bad)}.",
          mend,
          tuple((name,) for name in bad),
          {"participants": len(bad)},
        )
      )
  return findings


def _spelt(person: str) -> str:
  """Drops what two spellings of an id differ by."""
  return re.sub(r"0*(\d+)", r"\1", re.sub(r"[\s_.-]+", "", person.casefold()))


def _is_of(row: Row, pattern: re.Pattern[str]) -> bool:
  return any(
    pattern.search(row.get(name, "")) for name in ("participant_id", "source")
  )


def _text(families: Sequence[Family]) -> str:
  return some([f"{' = '.join(f.participants)} ({f.rule})" for f in families])
