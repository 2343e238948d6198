"""Is the label told by what is not the brain?

If the scanner, the number of slices or the age tell who has a tumour, a model
may learn those, and on a cohort of other scanners it will fail. A probe
(`probes.py`) is asked of each such fact. What only the acquisition or the
person's data can know fails the audit if it tells the label; what dims the
brain, but may hold the tumour's own signal, is a warning at most.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.audit import probes
from brainjax.audit.describe import Scan
from brainjax.audit.facts import FACTS, Fact, features_of
from brainjax.audit.findings import Finding

SIGNIFICANT = 0.05  # p value, after Holm
SEPARATE = "separate_sources"  # the check that refuses a headline
STRONG_AUC = 0.6  # a lower bound of the interval above it fails the audit


@dataclasses.dataclass(frozen=True)
class Answer:
  """A probe of one fact.

  Attributes:
    name: Of the fact.
    title: Of the fact.
    grave: Of the fact.
    probe: What was found; None if nothing could be asked.
    best_class: The label that is told best.
    p_holm: The p value, corrected for the number of facts asked.
    skipped: Why nothing could be asked.
  """

  name: str
  title: str
  grave: bool
  probe: probes.Probe | None = None
  best_class: str = ""
  p_holm: float = 1.0
  skipped: str = ""

  @property
  def severity(self) -> str:
    """Of the finding: "fail" or "warn"; "" if it does not tell the label."""
    if self.probe is None or self.p_holm > SIGNIFICANT:
      return ""
    low = self.probe.auc if self.probe.low is None else self.probe.low
    return "fail" if self.grave and low > STRONG_AUC else "warn"


def ask(
  scans: Sequence[Scan],
  facts: Sequence[Fact] = FACTS,
  *,
  of: str = "label",
  progress: Callable[[Sequence[Fact]], Any] | None = None,
) -> list[Answer]:
  """Asks a probe of every fact.

  The scans of a group with one label are one row: their mean.

  Args:
    scans: Described; those that could not be read are left out, and those
      without a label.
    facts: To ask about.
    of: Column that they should not tell.
    progress: Wraps the loop over the facts.
  """
  known = [s for s in scans if s.row.get(of) and not s.error]
  units = collections.defaultdict(list)
  for i, scan in enumerate(known):
    units[scan.row["group_id"], scan.row[of]].append(i)
  labels = sorted({label for _, label in units})
  targets = np.array([labels.index(label) for _, label in units], int)
  groups = [group for group, _ in units]
  answers = []
  for fact in progress(facts) if progress else facts:
    base = Answer(fact.name, fact.title, fact.grave)
    values = [fact.values(scan) for scan in known]
    features = features_of(values)
    if features is None:
      why = "nobody says" if not _says(values) else "the same for all"
      answers.append(dataclasses.replace(base, skipped=why))
      continue
    rows = np.stack([features[members].mean(0) for members in units.values()])
    probe = probes.run_probe(rows, targets, groups)
    if probe is None:
      few = f"fewer than two classes with {probes.LEAST_UNITS} groups"
      answers.append(dataclasses.replace(base, skipped=few))
      continue
    answers.append(
      dataclasses.replace(
        base, probe=probe, best_class=labels[probe.best_class]
      )
    )
  asked = [i for i, answer in enumerate(answers) if answer.probe]
  p_values = [p.p_value for a in answers if (p := a.probe)]
  for i, p_holm in zip(asked, probes.holm(p_values), strict=True):
    answers[i] = dataclasses.replace(answers[i], p_holm=float(p_holm))
  return answers


def check_facts(
  answers: Sequence[Answer], scans: Sequence[Scan]
) -> list[Finding]:
  """Reports the facts that tell the label."""
  findings = []
  facts = {fact.name: fact for fact in FACTS}
  for answer in answers:
    if not answer.severity or answer.probe is None:
      continue
    fact, probe = facts[answer.name], answer.probe
    findings.append(
      Finding(
        fact.name,
        answer.severity,
        f"{answer.best_class} is told from the other labels by the"
        f" {fact.title}",
        f"AUC {auc_text(probe)} of {answer.best_class}, out of the fold"
        f" it was fitted on, n = {probe.num_units} groups;"
        f" {_p_text(probe.p_value, answer.p_holm)}."
        f" {_by_label(scans, fact)}".rstrip(),
        fact.mend,
        figures=dataclasses.asdict(probe)
        | {"best_class": answer.best_class, "p_holm": answer.p_holm},
      )
    )
  return findings


def check_sources(rows: Sequence[Mapping[str, str]]) -> list[Finding]:
  """Finds labels that no chain of shared sources connects.

  As of normals from one set and tumours, of whatever types, from another.
  """
  labels_of = collections.defaultdict(set)
  for row in rows:
    if row["label"]:
      labels_of[row.get("source", "")].add(row["label"])
  parts: list[set[str]] = []
  for found in labels_of.values():
    joined = [part for part in parts if part & found]
    parts = [part for part in parts if not part & found]
    parts.append(found.union(*joined))
  if len(parts) < 2:
    return []
  texts = [
    f"{source or 'no source'}: {', '.join(sorted(found))}"
    for source, found in sorted(labels_of.items())
  ]
  names = " from ".join(sorted(", ".join(sorted(part)) for part in parts))
  return [
    Finding(
      SEPARATE,
      "fail",
      f"Sources tell {names}: no source holds both",
      f"{'; '.join(texts)}. Whatever tells the sources apart tells the labels,"
      " and no score on this cohort can show otherwise.",
      "Add a source that holds both. Until then the score is of telling"
      " sources apart, not of screening.",
      figures={s: sorted(found) for s, found in labels_of.items()},
    )
  ]


def check_images_of_sources(scans: Sequence[Scan]) -> list[Finding]:
  """Finds how well the images themselves tell the sources apart.

  A model can do so, too; where shares of a label differ between sources, part
  of its score then needs no tumour.
  """
  facts = [fact for fact in FACTS if not fact.grave]
  told = [a for a in ask(scans, facts, of="source") if a.severity]
  if not told:
    return []
  texts = [
    f"{answer.title}: AUC {auc_text(answer.probe)} of {answer.best_class}"
    for answer in told
    if answer.probe
  ]
  return [
    Finding(
      "source_in_images",
      "note",
      "The images tell where they come from",
      f"Sources are told apart, out of the fold, by {'; '.join(texts)}.",
      "Report scores within each source, and on a source that was left out of"
      " training.",
      figures={a.name: dataclasses.asdict(a) for a in told},
    )
  ]


def auc_text(probe: probes.Probe) -> str:
  """Writes an AUC with its interval."""
  if probe.low is None or probe.high is None:
    return f"{probe.auc:.2f}"
  return f"{probe.auc:.2f} [{probe.low:.2f}, {probe.high:.2f}]"


def _p_text(p_value: float, p_holm: float) -> str:
  least = 1 / (probes.PERMUTATIONS + 1)
  sign = "<" if p_value <= least * 1.001 else "="
  return (
    f"permutation p {sign} {max(p_value, least):.3f}, corrected for the number"
    f" of facts {p_holm:.3f}"
  )


def _by_label(scans: Sequence[Scan], fact: Fact) -> str:
  """Says what the fact is in each class, if that can be said in a line."""
  values = collections.defaultdict(list)
  for scan in scans:
    if scan.row["label"] and not scan.error:
      values[scan.row["label"]].append(fact.values(scan))
  texts = []
  for label, found in sorted(values.items()):
    if isinstance(found[0], str):
      common = collections.Counter(v or "unknown" for v in found).most_common(3)
      shown = ", ".join(f"{v} {n}" for v, n in common)
      texts.append(f"{label} ({len(found)}): {shown}")
    elif fact.grave:
      finite = np.array(found)[np.isfinite(found).all(axis=1)]
      if len(finite):
        middle = " x ".join(f"{m:.4g}" for m in np.median(finite, axis=0))
        texts.append(f"{label} {middle}")
  if not texts:
    return ""
  return (
    ("" if isinstance(values[label][0], str) else "Median: ")
    + "; ".join(texts)
    + "."
  )


def _says(values: Sequence[Any]) -> bool:
  """Whether anything is known of any scan."""
  return any(
    bool(v) if isinstance(v, str) else np.isfinite(v).any() for v in values
  )
