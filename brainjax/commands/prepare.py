"""`brainjax prepare`."""

import os
import pathlib

from brainjax import InputError
from brainjax.commands import console, parsing

_SHEET_SCANS = 12  # on the contact sheet


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(verbs, "prepare", run, "turn scans into records")
  parser.add_argument("manifest", type=pathlib.Path, metavar="MANIFEST")
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder of records"
  )
  parser.add_argument(
    "--workers",
    type=int,
    help=f"processes (default: one a core, {_cores()})",
  )
  parser.add_argument(
    "--dask",
    default="",
    metavar="ADDRESS",
    help="of a Dask scheduler, e.g. tcp://host:8786, whose workers prepare"
    " instead; they see the scans and the folder under the same paths",
  )
  parser.add_argument(
    "--dry-run",
    action="store_true",
    help="say what would be prepared, and why; write nothing",
  )
  parser.add_argument(
    "--quality",
    action="store_true",
    help="also draw every scan, and a page of them: quality.html",
  )
  parsing.add_config(parser, required=False)


def run(args) -> None:
  """Runs the verb."""
  from brainjax.preparation import prepare

  config = parsing.config_of(args)
  refuse_pairs(args)
  args.workers = _cores() if args.workers is None else args.workers
  if args.workers < 1:
    raise InputError(f"--workers={args.workers}: at least 1")
  if args.dry_run:
    return _say_forecast(args, config)
  summary = prepare.prepare(
    args.manifest,
    args.out,
    config.preparation,
    num_workers=args.workers,
    cluster=args.dask,
    progress=console.progress("preparing"),
    say=console.say,
  )
  console.complain(
    f"rejected: {row['file']}: {row['reason']}" for row in summary.rejected
  )
  console.complain(
    f"warning: {row['participant_id']} {row['session_id']}".rstrip()
    + f": {row['warning']}"
    for row in summary.warnings
  )
  console.say(summary.text)
  console.say(f"look at some of them: {_write_contact_sheet(args.out)}")
  if args.quality:
    from brainjax.evaluation import quality

    page = quality.write_quality(args.out, progress=console.progress("drawing"))
    console.say(f"look at all of them: {page}")


def refuse_pairs(args) -> None:
  """Raises `InputError` for an option that another one would ignore."""
  pairs = (
    ("--dask", args.dask, "--workers", args.workers is not None),
    ("--dry-run", args.dry_run, "--dask", args.dask),
    ("--dry-run", args.dry_run, "--quality", args.quality),
  )
  for first, has_first, second, has_second in pairs:
    if has_first and has_second:
      raise InputError(f"{second}: of no use with {first}; leave one out")


def _cores() -> int:
  return len(os.sched_getaffinity(0))


def _say_forecast(args, config) -> None:
  """Says what would be prepared, by reason, and some of the scans."""
  from brainjax.preparation import prepare

  found = prepare.forecast(
    args.manifest,
    args.out,
    config.preparation,
    num_workers=args.workers,
    progress=console.progress("comparing"),
  )
  for change in found.changes:
    console.say(change)
  for person, session, why in found.redone[: console.MOST_LINES]:
    console.say(f"{person} {session}".rstrip() + f": {why}")
  if len(found.redone) > console.MOST_LINES:
    console.say(f"... and {len(found.redone) - console.MOST_LINES} more")
  console.say(
    f"would prepare {len(found.redone)} scans and keep {found.num_kept};"
    " nothing was written"
  )


def _write_contact_sheet(out: pathlib.Path) -> pathlib.Path:
  """Draws some scans of a folder of records, evenly spread over it."""
  from brainjax import records
  from brainjax.evaluation import figures, montage

  record_set = records.RecordSet(out)
  chosen = montage.spread(len(record_set), _SHEET_SCANS)
  scans = [record_set[int(i)] for i in chosen]
  sheet = montage.contact_sheet(
    scans,
    [
      " ".join(filter(None, (s.participant_id, s.session_id, s.label)))
      for s in scans
    ],
    modalities=record_set.index["modalities"],
    title=f"{len(scans)} of {len(record_set)} scans in {out.name}",
  )
  path = out / "contact_sheet.png"
  figures.save_png(sheet, path)
  return path
