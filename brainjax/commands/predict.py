"""`brainjax predict`."""

import pathlib

from brainjax import InputError
from brainjax.cohort.manifest import MODALITIES
from brainjax.commands import console, parsing


def add(verbs) -> None:
  """Adds the verb to the command line."""
  parser = parsing.add_verb(verbs, "predict", run, "ask a run about new scans")
  parser.add_argument(
    "scans",
    type=pathlib.Path,
    nargs="*",
    metavar="SCAN",
    help="files or DICOM folders, each a scan, for a model of one modality",
  )
  parser.add_argument(
    "--workdir",
    type=pathlib.Path,
    required=True,
    action="append",
    help="of a run; given again, the runs answer together",
  )
  for modality in MODALITIES:
    parser.add_argument(
      f"--{modality}",
      type=pathlib.Path,
      metavar="FILE",
      help=f"{modality} image of one scan, a file or a DICOM folder",
    )
  parser.add_argument(
    "--manifest", type=pathlib.Path, metavar="CSV", help="many scans"
  )
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder of the answers"
  )


def run(args) -> None:
  """Runs the verb."""
  images = {
    modality: file
    for modality in MODALITIES
    if (file := getattr(args, modality))
  }
  if [bool(args.scans), bool(images), bool(args.manifest)].count(True) != 1:
    raise InputError(
      "give one of SCAN..., an option for each modality (--t1c=FILE"
      " --flair=FILE), or --manifest=CSV"
    )
  import rich.table
  import rich.text

  from brainjax import predict
  from brainjax.cohort import manifest

  if args.manifest:
    scans = manifest.read_manifest(args.manifest)
  else:
    scans = predict.manifest_of_scans(args.workdir, args.scans, images)
  summary = predict.predict(
    args.workdir, scans, args.out, progress=console.progress("predicting")
  )
  console.complain(
    f"rejected: {row['file']}: {row['reason']}" for row in summary.rejected
  )
  console.complain(
    f"warning: {scan}: {text}" for scan, text in summary.warnings
  )
  table = rich.table.Table("scan", "answer", "probability", "warnings")
  for row in summary.predictions[: console.MOST_LINES]:
    probability = float(row[f"proba_{row['predicted_label']}"])
    count = len([scan for scan, _ in summary.warnings if scan == row["scan"]])
    name = rich.text.Text(row["scan"], overflow="fold")  # no markup
    answer = rich.text.Text(row["predicted_label"])
    table.add_row(name, answer, f"{probability:.3f}", str(count or ""))
  console.make_console().print(table)
  console.say(
    f"{len(summary.predictions)} scans predicted; tables and pictures:"
    f" {args.out}\n{predict.NOTICE}"
  )
