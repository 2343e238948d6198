"""`brainjax cohort`."""

import pathlib

from brainjax import InputError
from brainjax.commands import console, parsing

# Without the option, the layout's own default holds.
LAYOUT_OF_OPTION = {
  "label_column": "bids",
  "unit": "figshare",
  "modality": "folders",
  "participants": "phantom",
  "seed": "phantom",
  "confounded": "phantom",
}


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "cohort", run, "read a cohort into a manifest"
  )
  parser.add_argument(
    "layout",
    metavar="LAYOUT",
    choices=("bids", "figshare", "folders", "manifest", "phantom"),
    help="how the files lie under ROOT: %(choices)s; ROOT of manifest is a CSV"
    " file, written again where --out says; phantom draws scans in ROOT",
  )
  parser.add_argument("root", type=pathlib.Path, metavar="ROOT")
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="manifest to write (CSV)"
  )
  parser.add_argument(
    "--label-column",
    metavar="NAME",
    help="bids: column of participants.tsv with the label (default: no labels)",
  )
  parser.add_argument(
    "--unit",
    choices=("patient", "run", "slice"),
    help="figshare: what a scan is (default: patient)",
  )
  parser.add_argument("--modality", help="folders: image column (default: t1)")
  parser.add_argument(
    "--participants", type=int, help="phantom: how many (default: 200)"
  )
  parser.add_argument("--seed", type=int, help="phantom: which (default: 0)")
  parser.add_argument(
    "--confounded",
    action="store_true",
    default=None,
    help="phantom: the scanner follows the label, for the audit to find",
  )


def run(args) -> None:
  """Runs the verb."""
  from brainjax.cohort import layouts, manifest, summary

  options = {}
  for name, layout in LAYOUT_OF_OPTION.items():
    value = getattr(args, name)
    if value is None:
      continue
    if layout != args.layout:
      raise InputError(
        f"--{name.replace('_', '-')}: of the layout {layout}, not of"
        f" {args.layout}; leave it out"
      )
    options[name] = value
  if args.layout == "phantom":
    options["progress"] = console.progress("drawing")
  rows, columns = layouts.LAYOUTS[args.layout](args.root, **options)
  manifest.write_manifest(args.out, rows, columns)
  # Read back, so that what was written is known to be valid.
  counts = summary.summarise(manifest.read_manifest(args.out))
  _, _, scans, people, groups = counts[0]
  console.say(
    f"{args.out}: {scans} scans, {people} participants, {groups} groups"
  )
  console.print_counts(counts[1:])
