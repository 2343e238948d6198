"""The same scan under two names: voxel for voxel, or resampled and renamed."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from brainjax.audit import fingerprint
from brainjax.audit.describe import Scan
from brainjax.audit.findings import Finding, count, some

_COLUMNS = {"split": "in", "label": "labelled", "source": "from"}


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How two scans are alike, and how grave that is.

  Attributes:
    title: What they do.
    apart: Severity if they are in different groups.
    together: Severity if one group has both.
    visits: Whether two visits of one person may be so alike.
  """

  title: str
  apart: str
  together: str
  visits: bool


_EQUAL = _Kind("are equal voxel for voxel", "fail", "warn", False)
_SAME_SCAN = _Kind(
  "show one head, resampled, turned or rescaled", "fail", "warn", True
)
_SAME_PERSON = _Kind("look like one person's", "warn", "note", True)


def check_copies(scans: Sequence[Scan]) -> list[Finding]:
  """Finds scans that are the same image, or nearly, whatever their names."""
  equal = dict.fromkeys(sorted(_equal(scans)), 1.0)
  close, closer = {}, {}
  for i, j, correlation in _alike(scans):
    if (i, j) not in equal:
      found = closer if correlation >= fingerprint.SAME_SCAN else close
      found[i, j] = correlation
  return [
    finding
    for kind, pairs in (
      (_EQUAL, equal),
      (_SAME_SCAN, closer),
      (_SAME_PERSON, close),
    )
    for finding in _findings(scans, kind, pairs)
  ]


def _findings(
  scans: Sequence[Scan], kind: _Kind, pairs: Mapping[tuple[int, int], float]
) -> Iterator[Finding]:
  """Reports the pairs that a split may part, then those that it cannot."""
  apart, together = {}, {}
  for (i, j), correlation in pairs.items():
    first, second = scans[i].row, scans[j].row
    if first["group_id"] != second["group_id"]:
      apart[i, j] = correlation
    elif not kind.visits or first["participant_id"] != second["participant_id"]:
      together[i, j] = correlation
  for found, severity, where, mend in (
    (
      apart,
      kind.apart,
      "of different groups",
      "Look at them. If they are one person's, give them one group_id; of"
      " copies, keep one.",
    ),
    (
      together,
      kind.together,
      "of one group",
      "Look at them, and keep one: a scan that stands twice counts twice.",
    ),
  ):
    if found:
      texts = [_pair(scans[i], scans[j], r) for (i, j), r in found.items()]
      yield Finding(
        "copies",
        severity,
        f"{count(len(found), 'pair')} of scans {where} {kind.title}"
        if len(found) > 1
        else f"2 scans {where} {kind.title}",
        f"Among {count(len(scans), 'scan')}: {some(texts)}.",
        mend,
        tuple((scans[i].name, scans[j].name) for i, j in found),
        {"correlations": [round(r, 3) for r in found.values()]},
      )


def _pair(first: Scan, second: Scan, correlation: float) -> str:
  """Names two scans, and in what they differ."""
  facts = [f"correlation {correlation:.2f}"] if correlation < 1 else []
  for column, word in _COLUMNS.items():
    values = [scan.row.get(column, "") for scan in (first, second)]
    if all(values) and values[0] != values[1]:
      facts.append(f"{word} {values[0]} and {values[1]}")
  text = f"{first.name} = {second.name}"
  return f"{text} ({', '.join(facts)})" if facts else text


def _equal(scans: Sequence[Scan]) -> set[tuple[int, int]]:
  """Returns (i, j), i < j, that share a volume or a 2-D image."""
  holders = collections.defaultdict(list)
  for i, scan in enumerate(scans):
    for digest in {scan.digest, *scan.image_digests} - {""}:
      holders[digest].append(i)
  return {
    (i, j)
    for held in holders.values()
    for place, i in enumerate(held)
    for j in held[place + 1 :]
  }


def _alike(scans: Sequence[Scan]) -> Iterator[tuple[int, int, float]]:
  """Yields (i, j, correlation), i < j; volumes and images apart."""
  for is_volume in (True, False):
    members, prints = [], []
    for i, scan in enumerate(scans):
      if scan.fingerprint is not None and scan.is_volume == is_volume:
        members.append(i)
        prints.append(scan.fingerprint)
    for i, j, correlation in fingerprint.similar_pairs(
      prints, fingerprint.SAME_PERSON
    ):
      yield members[i], members[j], correlation
