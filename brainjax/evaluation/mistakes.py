"""The scans that a run has most wrong, each with a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from brainjax.evaluation import attention_figure, exhibits, montage
from brainjax.evaluation.run_files import Run
from brainjax.records import Record, RecordSet

MAX_MISTAKES = 6
_MONTAGE_COLUMNS = 8


def mistakes(
  run: Run, split: str, record_set: RecordSet | None
) -> tuple[list[dict[str, Any]], int, int]:
  """Finds the wrong scans that give their true class the least probability.

  Args:
    run: The run.
    split: Of the scans.
    record_set: Its records, or None to go without pictures.

  Returns:
    The worst `{"name", "true", "predicted", "probability", "exhibit",
    "attention"}`, how many scans are wrong, and how many there are.
  """
  rows = [row for row in run.predictions if row["split"] == split]
  wrong = [row for row in rows if row["predicted_label"] != row["true_label"]]
  wrong.sort(key=lambda row: float(row[f"proba_{row['true_label']}"]))
  scan_of = {
    (scan["participant_id"], scan["session_id"]): scan for scan in run.scans
  }
  worst = []
  for i, row in enumerate(wrong[:MAX_MISTAKES], start=1):
    person, session = row["participant_id"], row["session_id"]
    mistake = {
      "name": f"{person} {session}".strip(),
      "true": row["true_label"],
      "predicted": row["predicted_label"],
      "probability": float(row[f"proba_{row['true_label']}"]),
      "exhibit": None,
      "attention": None,
    }
    if record_set is not None:
      scan = scan_of[person, session]
      record = record_set[int(scan["record_index"])]
      mistake["exhibit"] = _mistake(i, mistake, record, run.model["modalities"])
      mistake["attention"] = attention_figure.scan_exhibit(
        run, scan, record, f"mistake_{i}_attention.png"
      )
    worst.append(mistake)
  return worst, len(wrong), len(rows)


def _mistake(
  number: int,
  mistake: Mapping[str, Any],
  record: Record,
  modalities: Sequence[str],
) -> exhibits.Exhibit:
  modality = modalities[montage.first_present(record)]
  title = "{name}: {true}, taken for {predicted}".format(**mistake)
  figure = montage.slice_montage(
    record, title=f"{title} ({modality})", columns=_MONTAGE_COLUMNS
  )
  tumour = "outlined" if exhibits.has_tumour(record) else "not marked"
  return exhibits.Exhibit(
    f"mistake_{number}.png",
    f"{modality} slices of scan {title} ({len(record.slices)} slices); the"
    f" model gave {mistake['true']} the probability"
    f" {mistake['probability']:.3f}. Tumour {tumour}.",
    figure,
  )
