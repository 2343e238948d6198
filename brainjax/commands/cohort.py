"""`brainjax cohort`."""

import pathlib

from brainjax import InputError
from brainjax.commands import console, parsing

# Without the option, the layout's own default holds.
LAYOUT_OF_OPTION = {
  "label_column": "bids",
  "choose": "bids",
  "keep_ids": "dicom",
  "unit": "figshare",
  "modality": "folders",
  "prefix_ids": "manifest",
  "participants": "phantom",
  "seed": "phantom",
  "confounded": "phantom",
  "unstripped": "upenn",
}
LAYOUTS = (
  *("bids", "brats", "dicom", "figshare", "folders", "ixi", "manifest"),
  *("msd", "phantom", "ucsf", "upenn"),
)


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(
    verbs, "cohort", run, "read a cohort into a manifest"
  )
  parser.add_argument(
    "layout",
    metavar="LAYOUT",
    choices=LAYOUTS,
    help="how the files lie under ROOT: %(choices)s; ROOT of manifest is a CSV"
    " file, or several to be joined, written again where --out says; phantom"
    " draws scans in ROOT",
  )
  parser.add_argument("roots", type=pathlib.Path, nargs="+", metavar="ROOT")
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="manifest to write (CSV)"
  )
  parser.add_argument(
    "--label-column",
    metavar="NAME",
    help="bids: column of participants.tsv with the label (default: no labels)",
  )
  parser.add_argument(
    "--choose",
    metavar="ENTITIES",
    help="bids: of several images of one kind, those with acq-highres,rec-norm",
  )
  parser.add_argument(
    "--unit",
    choices=("patient", "run", "slice"),
    help="figshare: what a scan is (default: patient)",
  )
  parser.add_argument("--modality", help="folders: image column (default: t1)")
  parser.add_argument(
    "--keep-ids",
    action="store_true",
    default=None,
    help="dicom: take the PatientID as it is (default: hashed with a secret)",
  )
  parser.add_argument(
    "--prefix-ids",
    action="store_true",
    default=None,
    help="manifest: put the source before each participant, as in IXI-002",
  )
  parser.add_argument(
    "--unstripped",
    action="store_true",
    default=None,
    help="upenn: the images with their skulls",
  )
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
  from brainjax.cohort import demographics, layouts, manifest, summary
  from brainjax.cohort.layouts import dicom

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
  if args.layout == "dicom":
    options["out"] = args.out
  several = args.layout == "manifest"
  if len(args.roots) > 1 and not several:
    raise InputError(
      f"{args.roots[1]}: the layout {args.layout} takes one ROOT; make a"
      " manifest of each, and join them with `brainjax cohort manifest`"
    )
  root = args.roots if several else args.roots[0]
  try:
    rows, columns = layouts.LAYOUTS[args.layout](root, **options)
    demographics.normalise(rows)
    manifest.write_manifest(args.out, rows, columns)
  except OSError as error:
    file = error.filename2 or error.filename or args.out
    raise InputError(
      f"{file}: {error.strerror or error}; see to it, or choose another --out"
    ) from error
  # Read back, so that what was written is known to be valid.
  counts = summary.summarise(manifest.read_manifest(args.out))
  _, _, scans, people, groups = counts[0]
  console.say(
    f"{args.out}: {scans} scans, {people} participants, {groups} groups"
  )
  console.print_counts(counts[1:])
  if args.layout == "dicom":
    listed = dicom.beside(args.out, "_series.csv")
    console.say(f"every series, taken or not: {listed}")
