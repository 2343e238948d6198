"""The page: every section, honest words, and whatever the files may hold."""

import base64
import csv
import dataclasses
import html
import json
import re

import numpy as np
import pytest

import helpers
from brainjax import InputError, records
from brainjax.evaluation import evaluate, figures, report

SCREENING = ("normal", "tumour")
TYPING = ("glioma", "meningioma", "pituitary")
SECTIONS = "verdict comparison cohort learning roc mistakes reproduce".split()


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
  monkeypatch.setattr(figures, "_DPI", 30)  # a fifth of the time


def score(value, low=None, high=None):
  return {"value": value, "low": low, "high": high}


def write_workdir(
  workdir,
  *,
  classes=SCREENING,
  split="test",
  wrong=2,
  auc=(0.87, 0.78, 0.94),
  balanced=(0.80, 0.70, 0.90),
  probes=None,
  person="p{}",
  head="lstm",
  splits_sha256="5" * 64,
  sources=("ixi", "ucsf"),
):
  """A finished run of 4 scans a class and split, and its records."""
  workdir.mkdir(parents=True)
  rng = np.random.default_rng(0)
  scans = []
  for place in ("train", split):
    for name in classes:
      for i in range(4):
        identity = person.format(len(scans))
        scans.append(
          {
            "participant_id": identity,
            "session_id": "s1",
            "group_id": identity,
            "source": sources[
              (i if len(classes) == 2 else classes.index(name)) % len(sources)
            ],
            "label": name,
            "class": name,
            "split": place,
            "fold": "",
            "record_index": len(scans),
          }
        )
  record_set = helpers.write_records(
    workdir / "records",
    [
      dataclasses.replace(
        helpers.random_record(rng, participant_id=scan["participant_id"]),
        session_id="s1",
      )
      for scan in scans
    ],
  )
  records.write_csv(workdir / "splits.csv", list(scans[0]), scans)
  predictions = []
  matrix = np.zeros((len(classes), len(classes)), int)
  for i, scan in enumerate(s for s in scans if s["split"] == split):
    true = classes.index(scan["class"])
    predicted = (true + 1) % len(classes) if i < wrong else true
    matrix[true, predicted] += 1
    probabilities = np.full(len(classes), 0.1)
    probabilities[predicted] = 1 - 0.1 * (len(classes) - 1)
    probabilities[true] -= 0.01 * i  # so that later ones are worse
    kept = "participant_id session_id group_id source split fold".split()
    predictions.append(
      {
        **{key: scan[key] for key in kept},
        "true_label": classes[true],
        "predicted_label": classes[predicted],
        **{
          f"proba_{name}": value
          for name, value in zip(classes, probabilities, strict=True)
        },
      }
    )
  columns = list(predictions[0])
  for name in ("predictions.csv", "predictions_participant.csv"):
    records.write_csv(workdir / name, columns, predictions)
  if probes is None:
    probes = {"histogram": (0.55, 0.40, 0.70), "header": (0.50, 0.35, 0.65)}
  metrics = {
    "roc_auc": score(*auc),
    "balanced_accuracy": score(*balanced),
    "accuracy": score(0.75, 0.60, 0.88),
    "brier": score(0.2, 0.1, 0.3),
    "ece": score(0.1),
    "n": len(predictions),
    "confusion_matrix": matrix.tolist(),
    "classes": list(classes),
    "probes": {
      name: {
        "roc_auc": score(*values),
        "balanced_accuracy": score(*values),
        "n": len(predictions),
      }
      for name, values in probes.items()
    },
  }
  content = {
    "metrics.json": {"schema_version": 1, split: metrics},
    "config.json": {
      "data": {"records": str(workdir / "records"), "packs": None},
      "model": {"encoder": {"preset": "small"}, "head": {"name": head}},
      "optimizer": {"learning_rate": 3e-4},
    },
    "environment.json": {
      "command": "brainjax train --config=configs/default.py",
      "jax": "0.10.2",
      "devices": ["cpu"],
      "git_revision": None,
    },
    "model.json": {
      "schema_version": 1,
      "classes": list(classes),
      "positive": "tumour" if "tumour" in classes else "",
      "records_sha256": record_set.sha256,
      "splits_sha256": splits_sha256,
      "num_parameters": 1234567,
    },
  }
  for name, value in content.items():
    (workdir / name).write_text(json.dumps(value))
  lines = [
    {"step": 1, "epoch": 1, "train/loss": 0.7},
    {"step": 2, "epoch": 1, "validation/loss": 0.6, "validation/roc_auc": None},
    {
      "step": 3,
      "epoch": 2,
      "train/loss": 0.5,
      "perf/volumes_per_second": 12.5,
      "perf/slices_per_second": 300.0,
      "perf/data_wait_fraction": 0.01,
    },
  ]
  (workdir / "metrics.jsonl").write_text(
    "".join(json.dumps(line) + "\n" for line in lines)
  )
  return workdir


def read(page):
  """The page's text as a reader sees it, pictures left out."""
  text = re.sub(r"data:image/png;base64,[^\"]*", "", page.read_text())
  text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
  return " ".join(html.unescape(text).split())


@pytest.mark.parametrize("classes", [SCREENING, TYPING])
def test_page_has_every_section_and_its_pictures(tmp_path, classes):
  workdir = write_workdir(tmp_path / "run", classes=classes)
  page = report.write_report([workdir])
  assert page == workdir / "report.html"
  raw = page.read_text()
  assert re.findall(r'<h2 id="(\w+)"', raw) == SECTIONS
  pictures = re.findall(
    r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', raw
  )
  files = sorted(path.name for path in (workdir / "figures").iterdir())
  assert files == [
    "confusion_matrix.png",
    "learning_curves.png",
    "mistake_1.png",
    "mistake_2.png",
    "roc_curves.png",
  ]
  saved = {(workdir / "figures" / name).read_bytes() for name in files}
  assert {base64.b64decode(data) for data, _ in pictures} == saved
  assert all(data.startswith(b"\x89PNG") for data in saved)
  assert "<script" not in raw
  assert not re.findall(r'(?:src|href)="https?:', raw)
  assert report.write_report([workdir]).read_text() == raw


def test_verdict_of_a_binary_task(tmp_path):
  text = read(report.write_report([write_workdir(tmp_path / "run")]))
  assert "apart with AUC 0.87 [0.78, 0.94], n = 8 participants." in text
  assert "The lower bound of the AUC, 0.78, is above chance (0.50)." in text
  assert "the strongest, AUC 0.55 [0.40, 0.70] from the" in text
  assert "For research only." in text
  assert "Validation, not test" not in text
  assert "Median throughput: 12.5 volumes/s" in text


def test_verdict_of_typing(tmp_path):
  workdir = write_workdir(
    tmp_path / "run",
    classes=TYPING,
    auc=(None, None, None),
    sources=("gliomas", "meningiomas", "pituitaries"),
    probes={},
  )
  # A picture of several classes has room for one run only.
  text = read(report.write_report([workdir, workdir]))
  assert "lstm on small (run), run 2" in text
  assert "apart with balanced accuracy 0.80 [0.70, 0.90] and" in text
  assert "is above always answering glioma (0.33)." in text
  assert "No shortcut could be probed" in text
  assert "No source holds more than one class" in text
  assert "AUC undefined" in text


def test_cohort_counts_groups_participants_and_scans(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  with open(workdir / "splits.csv", newline="") as file:
    scans = list(csv.DictReader(file))
  scans[2] |= {"participant_id": "p0", "group_id": "p0"}
  scans[1] |= {"group_id": "p0", "source": "ixi"}
  records.write_csv(workdir / "splits.csv", list(scans[0]), scans)
  text = read(report.write_report([workdir]))
  assert "normal ixi 1 / 2 / 3 0 / 0 / 0 2 / 2 / 2" in text
  assert "all 6 / 7 / 8 0 / 0 / 0 8 / 8 / 8" in text


def test_validation_only_says_so(tmp_path):
  workdir = write_workdir(tmp_path / "run", split="validation")
  text = read(report.write_report([workdir]))
  assert "On the validation split the model" in text
  assert "Validation, not test." in text


def test_hostile_ids_are_escaped(tmp_path):
  person = "<script>alert({})</script>$\\frac{{"
  workdir = write_workdir(tmp_path / "r$1$ \"&'", person=person, head="a<b")
  raw = report.write_report([workdir]).read_text()
  assert "<script" not in raw and "<b " not in raw
  assert "<script>alert(8)</script>$\\frac{" in html.unescape(raw)


def test_worst_mistakes_come_first_and_stale_pictures_go(tmp_path):
  workdir = write_workdir(tmp_path / "run", wrong=7)
  text = read(report.write_report([workdir]))
  assert "7 of 8 scans are wrong" in text
  shown = re.findall(r"(p\d+) s1 : true", text)
  assert shown == ["p14", "p13", "p12", "p11", "p10", "p9"]
  assert "p14 s1 : true tumour, probability 0.040; predicted normal" in text
  rows = (workdir / "predictions.csv").read_text()
  right = re.sub(r"normal,tumour|tumour,normal", "tumour,tumour", rows)
  (workdir / "predictions.csv").write_text(right)
  assert "No mistakes: all 8" in read(report.write_report([workdir]))
  assert not list((workdir / "figures").glob("mistake_*"))


def test_mistakes_without_their_records(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  model = json.loads((workdir / "model.json").read_text())
  changed = json.dumps(model | {"records_sha256": "0"})
  (workdir / "model.json").write_text(changed)
  assert "not the records of this run" in read(report.write_report([workdir]))
  (workdir / "records").rename(workdir / "gone")
  text = read(report.write_report([workdir]))
  assert "Without pictures:" in text and "no index.json" in text
  assert "p9 s1 : true normal" in text


def test_comparison_has_runs_probes_and_warnings(tmp_path):
  workdirs = [
    write_workdir(tmp_path / "a"),
    write_workdir(tmp_path / "b", head="gru", auc=(0.9, 0.8, 0.96)),
    write_workdir(tmp_path / "c", head="tcn", splits_sha256="6" * 64),
    write_workdir(tmp_path / "d", split="validation"),
    write_workdir(tmp_path / "e", classes=TYPING),
  ]
  text = read(report.write_report(workdirs))
  assert (
    "lstm on small (a) 0.87 [0.78, 0.94] 0.80 [0.70, 0.90]"
    " 0.75 [0.60, 0.88] 8 1,234,567" in text
  )
  assert "gru on small (b) 0.90 [0.80, 0.96]" in text
  assert "tcn on small (c) other splits: not comparable 0.87" in text
  assert "lstm on small (d) no test metrics – – –" in text
  assert "lstm on small (e) other classes: not comparable" in text
  assert "image header alone 0.50 [0.35, 0.65] 0.50 [0.35, 0.65] – 8" in text
  assert "always normal 0.50 0.50 0.50 8" in text


def test_out_elsewhere_links_back(tmp_path):
  workdir = write_workdir(tmp_path / "a run")
  page = report.write_report([workdir], out=tmp_path / "pages" / "x.html")
  assert page == tmp_path / "pages" / "x.html"
  assert 'href="../a%20run/metrics.json"' in page.read_text()
  assert not (workdir / "report.html").exists()


@pytest.mark.parametrize("name", report.TRAIN_FILES + report.EVALUATE_FILES)
def test_missing_file_names_the_command(tmp_path, name):
  workdir = write_workdir(tmp_path / "run")
  (workdir / name).unlink()
  verb = "train" if name in report.TRAIN_FILES else "evaluate"
  with pytest.raises(
    InputError, match=f"{name}: missing; run `brainjax {verb}"
  ):
    report.write_report([workdir])
  assert not (workdir / "figures").exists()


def test_metrics_of_no_use(tmp_path):
  workdir = write_workdir(tmp_path / "run", split="train")
  with pytest.raises(InputError, match="run `brainjax evaluate --workdir="):
    report.write_report([workdir])
  (workdir / "metrics.json").write_text('{"schema_version": 0, "test": {}}')
  with pytest.raises(InputError, match="schema version 0"):
    report.write_report([workdir])


def test_reads_the_version_that_evaluate_writes():
  assert report.METRICS_VERSION == evaluate.SCHEMA_VERSION
