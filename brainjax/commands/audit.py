"""`brainjax audit`."""

import os
import pathlib

from brainjax import InputError
from brainjax.commands import console, parsing

EXIT_FAILED = 3


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "audit", run, "find leaking identities and confounded labels"
  )
  parser.add_argument(
    "path",
    type=pathlib.Path,
    metavar="MANIFEST|RECORDS",
    help="a cohort before preparation, or after it",
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    help="folder of audit.json and audit.html (default: audit, in the records"
    " or beside the manifest)",
  )
  parser.add_argument(
    "--splits",
    type=pathlib.Path,
    metavar="CSV",
    help="splits.csv of a run, to see whether its splits leak",
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=len(os.sched_getaffinity(0)),
    help="processes that read a manifest's scans (default: one a core,"
    " %(default)s)",
  )
  parser.epilog = f"Exit status {EXIT_FAILED} if the audit fails."


def run(args) -> int:
  """Runs the verb."""
  from brainjax.audit import audit

  if args.workers < 1:
    raise InputError(f"--workers={args.workers}: at least 1")
  result = audit.audit(
    args.path,
    out=args.out,
    splits=args.splits,
    num_workers=args.workers,
    progress=console.progress,
  )
  for finding in result.findings:
    console.say(f"{finding.severity}: {finding.title}. {finding.evidence}")
    if finding.severity != "note":
      console.say(f"  mend: {finding.mend}")
  console.say(audit.verdict(result.findings)["verdict"])
  console.say(f"page: {result.page}")
  return 0 if result.passed else EXIT_FAILED
