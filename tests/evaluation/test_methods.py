import dataclasses

import pytest
import tiny_run

from brainjax.evaluation import claim, methods, run_files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "run"
  return run_files.read_run(tiny_run.write_workdir(workdir))


def changed(run, **fields):
  """The run with `section__field` of its config changed."""
  config = {k: v for k, v in run.config.items()}
  for name, value in fields.items():
    section, field = name.split("__")
    config[section] = config[section] | {field: value}
  return dataclasses.replace(run, config=config)


def test_numbers_are_those_of_the_run(run):
  told = methods.paragraphs(run, "test")
  assert "16 scans of 16 participants" in told["Participants"]
  assert "8 for training, 0 for validation, 8 for test" in told["Participants"]
  assert "24 equally spaced axial slices" in told["Images"]
  assert "16 × 16 pixels" in told["Images"]
  assert "1,234,567 parameters" in told["Model"]
  assert "learning rate 0.0003" in told["Training"]
  assert "after epoch 2, were kept" in told["Training"]
  assert "2,000 bootstrap resamples" in told["Statistics"]


@pytest.mark.parametrize(
  ("least", "rule"),
  [(0.0, "highest sum of sens"), (0.9, "specificity at a sensitivity of at")],
)
def test_the_operating_point_is_told(run, least, rule):
  fitted = {"temperature": 1.5, "n": 9, "threshold": 0.25}
  metrics = {"test": run.metrics["test"] | {"calibration": fitted}}
  run = changed(run, eval__least_sensitivity=least)
  told = methods.paragraphs(dataclasses.replace(run, metrics=metrics), "test")
  assert "a probability of 0.250, has the" in told["Statistics"]
  assert rule in told["Statistics"]
  assert "Comparators" not in told["Statistics"]


@pytest.mark.parametrize(
  ("change", "heading", "text"),
  [
    ({"optimizer__name": "adamw"}, "Training", "weight decay 0.01"),
    ({"train__seed": 7}, "Training", "with seed 7"),
    ({"split__folds": 5}, "Participants", "fold 0 of 5"),
    ({"model__init_from": "a.npz"}, "Model", "started from a.npz"),
    ({"model__dropout": 0.25}, "Model", "dropout of 0.25"),
    ({"split__source": "ixi"}, "Participants", "those of source ixi test"),
    ({"data__intensity": "nyul"}, "Images", "deciles and the ends of its"),
    ({"optimizer__ema_decay": 0.99}, "Training", "average of those of the"),
    ({"train__mixup": 0.2}, "Training", "a = 0.2"),
    ({"train__label_smoothing": 0.1}, "Training", "smoothed by 0.1"),
    ({"train__logit_adjustment": 1.0}, "Training", "1 times the logarithm"),
    ({"train__hard_negatives": 3}, "Training", "only the hardest 3 for each"),
    ({"train__objective": "joint"}, "Training", "0.01 from epoch 20 on"),
  ],
)
def test_what_was_set_is_said(run, change, heading, text):
  assert text not in methods.paragraphs(run, "test")[heading]
  assert text in methods.paragraphs(changed(run, **change), "test")[heading]


@pytest.mark.parametrize(
  ("preset", "text"),
  [
    (
      "small",
      "Each slice was described by a DenseNet (small) and the sequence",
    ),
    ("cnn2d", "Each slice was described by a plain two-dimensional"),
    ("small_3d", "Each scan was read as a volume by a three-dimensional"),
  ],
)
def test_what_reads_the_scan_is_said(run, preset, text):
  encoder = run.config["model"]["encoder"] | {"preset": preset}
  other = changed(run, model__encoder=encoder)
  told = methods.paragraphs(other, "test")["Model"]
  assert text in told and "followed by dropout" in told
  assert ("sequence of slices" in told) == (preset != "small_3d")
  assert other.name.startswith("small_3d (") == (preset == "small_3d")
  assert items(other)[22].answer == told


def test_crop_and_registration_are_said(run):
  preparation = run.model["preparation"] | {
    "crop": "region",
    "registration": "rigid",
  }
  facts = {"preparation": preparation, "modalities": ["t1", "t2"]}
  region = dataclasses.replace(run, model=run.model | facts)
  told = methods.paragraphs(region, "test")["Images"]
  assert "a margin of 25% of its side" in told
  assert "onto the first by rigid registration" in told


def test_temperature_is_said(run):
  fitted = {"temperature": 1.5, "n": 41, "threshold": None}
  scores = run.metrics["test"] | {"calibration": fitted}
  scaled = dataclasses.replace(run, metrics={"test": scores})
  told = methods.paragraphs(scaled, "test")["Statistics"]
  assert "temperature of 1.50" in told and "41 participants" in told
  assert "operating point" not in told


def test_another_split_than_the_test_is_said(run):
  assert "test split was not used" not in str(methods.paragraphs(run, "test"))
  told = methods.paragraphs(run, "validation")["Statistics"]
  assert "test split was not used" in told


def items(run, **facts):
  facts = {"rejected": 2, "subgroup_fields": ["sex"], "attends": True} | facts
  return {item.number: item for item in claim.items(run, **facts)}


def test_checklist_has_every_item_once_in_its_section(run):
  found = items(run)
  assert list(found) == list(range(1, 43))
  assert found[21].section == "Partitions" and "group" in found[21].answer
  assert found[37].section == "Results" and found[38].section == "Discussion"


def test_what_no_file_knows_is_left_to_the_authors(run):
  found = items(run)
  for number in (1, 3, 8, 12, 16, 19, 38, 42):
    assert found[number].answer == ""
  assert items(run, attends=False)[31].answer == ""
  assert items(run, subgroup_fields=[])[30].answer == ""
  assert found[32].answer == ""


def test_an_encoder_of_another_run_is_no_random_start(run):
  assert items(run)[24].answer == "Initialised at random."
  encoder = {"step": 3, "workdir": "runs/a", "slice_shape": [8, 8, 1]}
  features = dataclasses.replace(run, model=run.model | {"encoder": encoder})
  assert "those of the run" in items(features)[24].answer


def test_rejected_scans_are_in_the_flow(run):
  assert "2 left out in preparation" in items(run)[33].answer
  assert "left out" not in items(run, rejected=None)[33].answer
