"""The page: every section, honest words, and whatever the files may hold."""

import base64
import csv
import html
import json
import re
from urllib.parse import unquote

import pytest
from tiny_run import SCREENING, TYPING, write_workdir

from brainjax import InputError, records
from brainjax.evaluation import (
  baselines_figure,
  figures,
  reliability_figure,
  report,
  run_files,
  test_lock,
)

SECTIONS = "verdict input scores mistakes methods learning reproduce".split()
ALL_FILES = (
  *run_files.TRAIN_FILES,
  "metrics.json",
  *run_files.PREDICTION_FILES,
)


SAVE_PNG = figures.save_png


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
  """Drawing is what takes the time of a page, and most tests read words."""
  monkeypatch.setattr(
    figures, "save_png", lambda figure, path: path.write_bytes(b"picture")
  )


@pytest.fixture
def coarse_pictures(no_pictures, monkeypatch):
  """Draws after all, at a fifth of the time."""
  monkeypatch.setattr(figures, "save_png", SAVE_PNG)
  monkeypatch.setattr(figures, "_DPI", 30)


def read(page):
  """The page's text as a reader sees it, pictures left out."""
  text = re.sub(r"data:image/png;base64,[^\"]*", "", page.read_text())
  text = re.sub(r"</?span[^>]*>", "", text)  # inside a sentence
  text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
  return " ".join(html.unescape(text).split())


@pytest.mark.usefixtures("coarse_pictures")
@pytest.mark.parametrize("classes", [SCREENING, TYPING])
def test_page_has_every_section_and_its_pictures(tmp_path, classes):
  workdir = write_workdir(tmp_path / "run", classes=classes)
  raw = report.write_report([workdir]).read_text()
  assert raw == (workdir / "report.html").read_text()
  assert re.findall(r'<h2 id="(\w+)"', raw) == SECTIONS
  assert re.findall(r'href="#(\w+)"', raw) == SECTIONS
  pictures = re.findall(
    r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', raw
  )
  files = sorted(path.name for path in (workdir / "figures").iterdir())
  assert files == [
    "confusion_matrix.png",
    *(f"contact_sheet_{i + 1}.png" for i in range(len(classes))),
    "learning_curves.png",
    "mistake_1.png",
    "mistake_2.png",
    "reliability.png",
    "roc_curves.png",
    "verdict.png",
  ]
  saved = {(workdir / "figures" / name).read_bytes() for name in files}
  assert {base64.b64decode(data) for data, _ in pictures} == saved
  assert all(data.startswith(b"\x89PNG") for data in saved)
  assert "<script" not in raw
  assert not re.findall(r'(?:src|href)="https?:', raw)
  assert report.write_report([workdir]).read_text() == raw


def test_verdict_of_a_binary_task(tmp_path):
  text = read(report.write_report([write_workdir(tmp_path / "run")]))
  assert text.index("apart with AUC 0.87 [0.78, 0.94], n = 8") < 400
  assert "Holds The lower bound of the AUC, 0.78, is above chance" in text
  assert "the strongest, AUC 0.55 [0.40, 0.70] from the" in text
  assert "Caution Nobody audited these records" in text
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
  page = report.write_report([workdir, workdir])
  text = read(page)
  assert "a curve a class, AUC glioma 0." in alts(page)["roc_curves.png"]
  models = alts(page)["roc_models.png"]
  assert models.count("macro AUC undefined, n = 12") == 2
  assert "lstm on small (run), run 2" in text
  assert "No score is claimed. Sources tell glioma from meningioma" in text
  assert "the balanced accuracy 0.80 [0.70, 0.90] on the test split" in text
  assert "apart with" not in text
  assert "is above always answering glioma (0.33)." in text
  assert "Caution No shortcut could be probed" in text
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


@pytest.mark.usefixtures("coarse_pictures")
def test_hostile_names_are_escaped(tmp_path):
  person = "<script>alert({})</script>$\\frac{{"
  workdir = write_workdir(
    tmp_path / "r$1$ \"&'",
    person=person,
    classes=("<i>normal", "tumour"),
  )
  raw = report.write_report([workdir]).read_text()
  assert "<script" not in raw and "<i>" not in raw
  assert "<script>alert(8)</script>$\\frac{" in html.unescape(raw)


def test_parts_of_the_cohort_have_their_counts(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  text = read(report.write_report([workdir]))
  part = text.split("In parts of the cohort")[1].split("A part without")[0]
  # Sources alternate: two participants of a class each.
  assert "source: ixi 4 2 2" in part and "source: ucsf 4 2 2" in part
  assert "missing: for the authors" in text


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


def alts(page):
  """Alternative texts by the name of the picture's file."""
  found = re.findall(
    r'<a href="([^"]+)"><img src="[^"]+" alt="([^"]+)"', page.read_text()
  )
  return {href.split("/")[-1]: html.unescape(alt) for href, alt in found}


def test_pictures_say_what_they_show(tmp_path):
  workdirs = [
    write_workdir(tmp_path / "a"),
    write_workdir(tmp_path / "b", head="gru", auc=(0.9, 0.8, 0.96)),
    write_workdir(tmp_path / "c", head="tcn", person="q{}"),
  ]
  page = report.write_report(workdirs)
  said = alts(page)
  # The run on other splits is left out.
  assert said["verdict.png"] == (
    "AUC on the test split with 95 % intervals, and chance at 0.50: lstm on"
    " small (a) 0.87 [0.78, 0.94], n = 8; gru on small (b) 0.90 [0.80, 0.96],"
    " n = 8; intensity histogram alone 0.55 [0.40, 0.70], n = 8; image header"
    " alone 0.50 [0.35, 0.65], n = 8."
  )
  assert said["roc_curves.png"] == (
    "Receiver operating characteristic on the test split, a curve a model:"
    " lstm on small (a) AUC 0.87 [0.78, 0.94], n = 8; gru on small (b) AUC 0.90"
    " [0.80, 0.96], n = 8."
  )
  assert said["confusion_matrix.png"] == (
    "Confusion matrix on the test split, n = 8: of 4 normal, 2 taken for"
    " normal, 2 taken for tumour; of 4 tumour, 0 taken for normal, 4 taken for"
    " tumour."
  )
  assert said["learning_curves.png"] == (
    "Learning curves over 3 epochs: training loss from 0.70 to 0.50;"
    " validation loss from 0.60 to 0.65, lowest 0.55 at epoch 2."
  )
  assert said["mistake_1.png"] == (
    "t1 slices of scan p9 s1: normal, taken for tumour (3 slices); the model"
    " gave normal the probability 0.090. Tumour not marked."
  )
  assert said["contact_sheet_2.png"] == (
    "Contact sheet of tumour: 4 of 4 training scans, up to 8 slices each of"
    " t1. p4 s1, ixi, 3 slices; p6 s1, ixi, 3 slices; p5 s1, ucsf, 3 slices;"
    " p7 s1, ucsf, 3 slices. A tumour is outlined in 0 of 4."
  )


def test_alternatives_of_typing_name_every_class(tmp_path):
  said = alts(
    report.write_report([write_workdir(tmp_path / "run", classes=TYPING)])
  )
  assert said["verdict.png"].startswith(
    "balanced accuracy on the test split with 95 % intervals, and chance at"
    " 0.33: lstm on small (run) 0.80 [0.70, 0.90], n = 12;"
  )
  assert (
    "meningioma 0.75, pituitary 1.00: lstm on small (run) macro AUC"
    in said["roc_curves.png"]
  )
  for number, name in enumerate(TYPING, start=1):
    assert f"of {name}: 4 of 4" in said[f"contact_sheet_{number}.png"]


def test_sheets_hold_fewer_scans_of_more_modalities(tmp_path):
  modalities = ("t1", "t1c", "flair")
  workdir = write_workdir(tmp_path / "run", modalities=modalities)
  with open(workdir / "splits.csv", newline="") as file:
    scans = list(csv.DictReader(file))
  scans[3]["label"] = "healthy"
  records.write_csv(workdir / "splits.csv", list(scans[0]), scans)
  page = report.write_report([workdir])
  assert alts(page)["contact_sheet_1.png"].startswith(
    "Contact sheet of normal: 2 of 4 training scans, up to 8 slices each of t1,"
    " t1c, flair. p0 s1, ixi, 3 slices; p3 s1, ucsf, healthy, 3 slices."
  )
  assert "pixels of t1, t1c, flair, in standard deviations" in read(page)


def test_links_lead_to_every_file_the_page_was_made_from(tmp_path):
  workdirs = [write_workdir(tmp_path / name) for name in ("a b", "c")]
  folder = workdirs[0] / "records"
  rows = [{"participant_id": f"p{i}"} for i in range(3)]
  records.write_csv(folder / "warnings.csv", ["participant_id"], rows)
  page = report.write_report(workdirs, out=tmp_path / "pages" / "x.html")
  assert page == tmp_path / "pages" / "x.html"
  assert not (workdirs[0] / "report.html").exists()
  raw = page.read_text()
  hrefs = [h for h in re.findall(r'href="([^"]+)"', raw) if h[0] != "#"]
  linked = {(page.parent / unquote(href)).resolve() for href in hrefs}
  expected = {workdir / name for workdir in workdirs for name in ALL_FILES}
  expected |= {
    folder / name for name in ("index.json", "manifest.csv", "warnings.csv")
  }
  expected |= set((workdirs[0] / "figures").iterdir())
  assert linked == {file.resolve() for file in expected}
  assert "In preparation: 3 warnings." in read(page)
  records.write_csv(folder / "rejected.csv", ["file"], [])
  raw = report.write_report(workdirs).read_text()
  assert 'href="records/rejected.csv"' in raw
  assert "In preparation: 0 rejected, 3 warnings." in read(
    workdirs[0] / "report.html"
  )


def test_a_page_without_its_records_says_so(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  (workdir / "records").rename(tmp_path / "moved")
  stale = workdir / "figures" / "contact_sheet_1.png"
  stale.parent.mkdir()
  stale.touch()
  page = report.write_report([workdir])
  text = read(page)
  assert text.count("Without pictures.") == 2
  assert (
    text.rindex("2 What the model sees")
    < text.index("cannot be read: " + str(workdir / "records"))
    < text.rindex("3 How well it does")
  )
  assert "p9 s1 : true normal" in text
  assert not stale.exists()
  assert sorted(alts(page)) == [
    *("confusion_matrix.png", "learning_curves.png"),
    *("reliability.png", "roc_curves.png", "verdict.png"),
  ]
  assert "records/" not in page.read_text().split("Made from")[1]


def test_comparison_has_runs_probes_and_warnings(tmp_path):
  workdirs = [
    write_workdir(tmp_path / "a"),
    write_workdir(tmp_path / "b", head="gru", auc=(0.9, 0.8, 0.96)),
    write_workdir(tmp_path / "c", head="tcn", person="q{}"),
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
  # The runs that can be compared answer alike.
  held = text.split("Held against the other runs")[1].split("Paired, on")[0]
  assert held.endswith("McNemar’s p gru on small (b) +0.000 1.00 0 0 1.00 ")
  assert "always normal 0.50 0.50 0.50 8" in text


def test_a_run_that_was_scored_on_no_split_of_use(tmp_path):
  workdir = write_workdir(tmp_path / "run", split="train")
  with pytest.raises(InputError, match="run `brainjax evaluate --workdir="):
    report.write_report([workdir])
  assert not (workdir / "figures").exists()


def test_calibration_is_told_with_its_operating_point(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  text = read(report.write_report([workdir]))
  assert "no temperature was fitted on validation" in text
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text())
  measures = {"ece": 0.04, "ece_equal_width": 0.05, "brier": 0.1}
  measures["negative_log_likelihood"] = 0.3
  metrics["test"]["calibration"] = {
    **{"step": 3, "n": 41, "temperature": 1.7, "threshold": 0.31, **measures},
    "uncalibrated": {name: 2 * value for name, value in measures.items()},
    "operating_point": {
      "sensitivity": {"value": 0.95, "low": 0.88, "high": 0.99},
      "specificity": {"value": 0.71, "low": 0.6, "high": 0.8},
      "precision": {"value": 0.8, "low": None, "high": None},
      "negative_predictive_value": {"value": 0.9, "low": 0.7, "high": 0.98},
    },
  }
  path.write_text(json.dumps(metrics))
  text = read(report.write_report([workdir]))
  assert "at temperature 1.70, fitted on 41 participants" in text
  assert "0.080 before, 0.040 after" in text
  assert "tumour from a probability of 0.310 on" in text
  assert "sensitivity 0.95 [0.88, 0.99], specificity 0.71 [0.60, 0.80]" in text


def test_reliability_says_what_came_true(tmp_path):
  run = run_files.read_run(write_workdir(tmp_path / "run", classes=TYPING))
  exhibit = reliability_figure.reliability_exhibit(run, "test")
  people = [row for row in run.participants if row["split"] == "test"]
  right = sum(row["predicted_label"] == row["true_label"] for row in people)
  said = re.findall(r"(\d+) of (\d+) where", exhibit.alt)
  assert sum(int(true) for true, _ in said) == right
  assert sum(int(rows) for _, rows in said) == len(people)


def test_another_cohort_has_its_own_section(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text())
  metrics["external"] = {
    "site-B": metrics["test"]
    | {
      "roc_auc": {"value": 0.7, "low": 0.56, "high": 0.8},
      "records": "/data/site B",
    }
  }
  path.write_text(json.dumps(metrics))
  rows = run_files.read_csv(workdir / "predictions.csv")
  file = workdir / "predictions_external_site-B.csv"
  records.write_csv(file, list(rows[0]), rows)
  test_lock.note_look(workdir, {"external": "site-B"})
  text = read(report.write_report([workdir]))
  assert (
    "On another cohort: site-B On the cohort site-B the model tells" in text
  )
  assert "AUC 0.70 [0.56, 0.80], n = 8" in text
  assert "Records of /data/site B" in text and "Looked at 1 time." in text
  assert "The test split of this run has not been looked at." in text


@pytest.mark.parametrize("classes", [SCREENING, TYPING])
def test_comparators_have_a_picture_and_a_table(tmp_path, classes):
  workdir = write_workdir(tmp_path / "run", classes=classes)
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text())
  metrics["test"]["step"] = 3
  names = [f"{c}, {k} features" for c in ("SVM", "LDA") for k in "ab"]
  metrics["baselines"] = {
    "test": {"step": 3, "scores": {n: metrics["test"] for n in names}}
  }
  path.write_text(json.dumps(metrics))
  people = run_files.read_csv(workdir / "predictions_participant.csv")
  rows = [{"model": name, **row} for name in names for row in people]
  records.write_csv(workdir / "baselines_test.csv", list(rows[0]), rows)
  page = report.write_report([workdir])
  assert "LDA, b features 0.87 [0.78, 0.94] 0.80 [0.70, 0.90]" in read(page)
  exhibits = baselines_figure.baselines_exhibits(
    run_files.read_run(workdir), "test"
  )
  for number, (kind, exhibit) in enumerate(zip("ab", exhibits, strict=True), 1):
    said = alts(page)[f"roc_baselines_{number}.png"]
    assert said.count("0.87 [0.78, 0.94]") == 3
    (axes,) = exhibit.figure.axes
    assert axes.get_title() == f"{kind} features (n = {len(people)})"
    # The same predictions give the same curve as the run's.
    chance, *lines = (line.get_ydata() for line in axes.lines)
    assert all((line == lines[-1]).all() for line in lines)
  metrics["test"]["step"] = 4  # trained on since
  path.write_text(json.dumps(metrics))
  assert "roc_baselines_1.png" not in alts(report.write_report([workdir]))
