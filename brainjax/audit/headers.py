"""Headers and ages that cannot be true, and tumours that preparation cuts."""

import collections
from collections.abc import Sequence

from brainjax.audit.describe import Scan
from brainjax.audit.facts import number
from brainjax.audit.findings import Finding, count, some

AGES = (0.0, 120.0)  # years
LESION_OUTSIDE = 0.1  # share of a tumour mask outside the brain mask
_MOST_SCANS = 4  # in a sentence


def check_headers(scans: Sequence[Scan]) -> list[Finding]:
  """Finds headers and ages that cannot be true."""
  findings = []
  false = [scan for scan in scans if scan.impossible]
  if false:
    texts = [f"{scan.name}: {'; '.join(scan.impossible)}" for scan in false]
    findings.append(
      Finding(
        "header",
        "fail",
        f"{count(len(false), 'header')} that cannot be true",
        f"{' | '.join(texts[:_MOST_SCANS])}"
        + (
          f" | and {len(texts) - _MOST_SCANS} more."
          if len(texts) > _MOST_SCANS
          else "."
        ),
        "Give the true voxels in the manifest's column spacing_mm; of a scan of"
        " part of the head, the header's own.",
        tuple((scan.name,) for scan in false),
        {"scans": len(false), "of": len(scans)},
      )
    )
  doubtful = [scan for scan in scans if scan.doubts]
  if doubtful:
    texts = [f"{scan.name}: {'; '.join(scan.doubts)}" for scan in doubtful]
    findings.append(
      Finding(
        "header",
        "warn",
        f"{count(len(doubtful), 'scan')} of which something is odd",
        f"{' | '.join(texts[:_MOST_SCANS])}"
        + (
          f" | and {len(texts) - _MOST_SCANS} more."
          * (len(texts) > _MOST_SCANS)
        ),
        "Look at them; export the series again, or leave it out.",
        tuple((scan.name,) for scan in doubtful),
      )
    )
  ages = [
    scan
    for scan in scans
    if scan.row.get("age")
    and not AGES[0] <= number(scan.row["age"])[0] <= AGES[1]
  ]
  if ages:
    texts = [f"{scan.name}: {scan.row['age']}" for scan in ages]
    findings.append(
      Finding(
        "header",
        "warn",
        f"{count(len(ages), 'age')} that cannot be true",
        f"{some(texts)}; expected years from {AGES[0]:g} to {AGES[1]:g}.",
        "Correct the column age, or leave the cell empty.",
        tuple((scan.name,) for scan in ages),
      )
    )
  return findings


def check_lesions(scans: Sequence[Scan]) -> list[Finding]:
  """Finds tumours that the brain mask leaves out."""
  shown = [s for s in scans if s.lesion_outside is not None]
  cut = [s for s in shown if (s.lesion_outside or 0) > LESION_OUTSIDE]
  if not cut:
    return []
  cut.sort(key=lambda scan: -(scan.lesion_outside or 0))
  texts = [f"{s.name} ({s.lesion_outside or 0:.0%})" for s in cut]
  total = collections.Counter(s.row["label"] for s in shown)
  missed = collections.Counter(s.row["label"] for s in cut)
  shares = [
    f"{label or 'no label'} {missed[label]} of {total[label]}"
    for label in sorted(total)
  ]
  return [
    Finding(
      "lesion",
      "warn",
      f"The brain mask leaves out part of {count(len(cut), 'tumour')}",
      f"More than {LESION_OUTSIDE:.0%} of the tumour mask is outside it:"
      f" {some(texts)}. By class: {', '.join(shares)}.",
      "Look at them. A larger config.preparation.margin_mm keeps what surrounds"
      " the brain, but only what is inside the mask keeps its intensities.",
      tuple((s.name,) for s in cut),
      {"scans": len(cut), "of": len(shown)},
    )
  ]
