"""A head that is trained on features, from the first step to the report."""

import io
import json
import shutil

import numpy as np
import pytest
import rich.console

import helpers
from brainjax import InputError, records
from brainjax.evaluation import baselines, evaluate, report
from brainjax.evaluation.answer import answer_scan
from brainjax.training import encode, experiment, model_file, train, trained
from brainjax.training.runner import Runner, restore_best

pytestmark = pytest.mark.slow  # three runs


def start(config, workdir):
  output = io.StringIO()
  console = rich.console.Console(file=output, width=1000)
  train.train(config, workdir, console=console)
  return output.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Images, a run on them, its features, and a head trained on these."""
  root = tmp_path_factory.mktemp("root")
  helpers.write_cohort(root / "records")
  config = helpers.micro_config(root / "records", "train.epochs=1")
  start(config, root / "encoder")
  encode.encode(root / "encoder", root / "features")
  printed = start(head_config(root), root / "head")
  assert "features of micro + lstm" in printed
  return root


def head_config(root, *overrides):
  # The preset is that of the features, whatever is asked for.
  defaults = ("model.encoder.preset=tiny", "train.epochs=2")
  return helpers.micro_config(root / "features", *defaults, *overrides)


def read_json(path):
  return json.loads(path.read_text())


def test_the_head_answers_the_same_behind_its_encoder(root):
  run = experiment.open_run(root / "head")
  runner = Runner(run)
  restore_best(runner)
  subset = run.subset("test")
  on_features = runner.score(subset)
  whole = trained.load_trained(root / "head")
  images = records.RecordSet(root / "records")
  answers = [answer_scan([whole], images[int(i)]) for i in subset]
  on_images = np.log(
    [list(answer.probabilities.values()) for answer in answers]
  )
  np.testing.assert_allclose(on_images, on_features, atol=1e-5)
  assert np.ptp(on_features[:, 0]) > 1e-3
  encoder = trained.load_trained(root / "encoder").variables
  assert runner.state.params.keys() == {"head", "classifier"}
  kernels = (
    encoder["params"]["classifier"]["kernel"],
    whole.variables["params"]["classifier"]["kernel"],
  )
  assert (kernels[0] != kernels[1]).all()


def test_model_file_says_whose_features_they_are(root):
  model, encoder = (
    read_json(root / name / "model.json") for name in ("head", "encoder")
  )
  index = read_json(root / "features" / "index.json")
  assert model["encoder"] == index["encoder"]
  assert model["encoder"]["workdir"] == str(root / "encoder")
  assert model["encoder_group_ids"] == encoder["encoder_group_ids"]
  assert model["model"]["encoder"]["preset"] == "micro"
  assert model["num_parameters"] < encoder["num_parameters"]
  assert "encoder" not in encoder
  # The same splits, hence the same training scans.
  assert model["reference"] == encoder["reference"]
  assert model["preparation"] == encoder["preparation"]


def test_a_finished_head_is_left_alone(root):
  assert "already trained" in start(head_config(root), root / "head")


def test_probes_and_pictures_come_from_the_images(root, monkeypatch):
  seen = []
  probe_features = baselines.probe_features

  def watching(record_set, indices):
    seen.append(record_set.path)
    return probe_features(record_set, indices)

  monkeypatch.setattr(baselines, "probe_features", watching)
  ours = evaluate.evaluate(root / "head")
  theirs = evaluate.evaluate(root / "encoder")
  assert seen == [root / "records", root / "records"]
  assert ours["probes"] == theirs["probes"]
  page = report.write_report([root / "head", root / "encoder"]).read_text()
  assert "contact_sheet_1.png" in page
  assert "Slices of 16 × 16" in page
  assert f"the encoder of <code>{root / 'encoder'}</code>" in page


@pytest.fixture
def alone(root, tmp_path):
  """A copy of the head's run whose features say that the images moved."""
  index_file = root / "features" / "index.json"
  before = index_file.read_text()
  index_file.write_text(before.replace(str(root / "records"), "moved"))
  shutil.copytree(root / "head", tmp_path / "head")
  yield tmp_path / "head"
  index_file.write_text(before)


def test_without_the_images_the_reason_is_said(alone):
  (alone / "metrics.json").unlink(missing_ok=True)  # nothing to show again
  scores = evaluate.evaluate(alone)
  assert set(scores["probes"]) == {"slices"}  # which need no image
  assert scores["probes_left_out"].startswith("moved: no index.json")
  page = report.write_report([alone]).read_text()
  assert "Without shortcut probes of images." in page
  assert "Without pictures." in page
  assert "contact_sheet" not in page


def test_without_the_images_nothing_is_known_of_the_training_scans(alone):
  run = experiment.open_run(alone)
  model_file.write_model_file(run, num_parameters=7)
  assert read_json(alone / "model.json")["reference"] is None


def test_groups_that_the_encoder_has_seen_are_not_evaluated_on(root, tmp_path):
  with pytest.raises(InputError) as refused:
    experiment.resolve(head_config(root, "split.seed=1"), tmp_path / "run", 1)
  said = str(refused.value)
  assert said.startswith(f"config.data.records={root / 'features'}: ")
  assert "config.split" in said and "\n" not in said
  assert not (tmp_path / "run").exists()


def test_an_encoder_from_outside_may_be_split_in_any_way(root, tmp_path):
  shutil.copytree(root / "features", tmp_path / "features")
  index = read_json(tmp_path / "features" / "index.json")
  index["encoder"] |= {"encoder_group_ids": [], "selection_group_ids": []}
  (tmp_path / "features" / "index.json").write_text(json.dumps(index))
  config = head_config(tmp_path, "split.seed=1")
  run = experiment.resolve(config, tmp_path / "run", 1)
  model_file.write_model_file(run, num_parameters=7)
  assert read_json(tmp_path / "run" / "model.json")["encoder_group_ids"] == []


def test_features_are_not_augmented(root):
  _, _, settings = experiment.open_run(root / "head").build()
  assert settings.augment is None
  _, _, settings = experiment.open_run(root / "encoder").build()
  assert settings.augment is not None


def test_a_run_on_features_has_none_of_its_own(root, tmp_path):
  with pytest.raises(InputError, match=f"--workdir={root / 'encoder'}"):
    encode.encode(root / "head", tmp_path / "out")


def test_an_encoder_that_went_on_learning_is_not_taken(root, tmp_path):
  shutil.copytree(root / "head", tmp_path / "head")
  model = read_json(tmp_path / "head" / "model.json")
  for key, value, said in (
    ("checkpoint_sha256", "0", "best step is"),
    ("workdir", str(tmp_path / "gone"), "gone/model.json: missing"),
  ):
    changed = model | {"encoder": model["encoder"] | {key: value}}
    (tmp_path / "head" / "model.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=f"trained on features of .*{said}"):
      trained.load_trained(tmp_path / "head")


@pytest.mark.parametrize(
  "override",
  [
    "model.init_from=weights.npz",
    "model.attention.in_plane=distance",
    "train.objective=joint",
  ],
)
def test_what_needs_the_encoder_is_refused(root, tmp_path, override):
  field, _, _ = override.partition("=")
  with pytest.raises(InputError, match=f"config.{field}=.*are features"):
    experiment.resolve(head_config(root, override), tmp_path / "run", 1)
  assert not (tmp_path / "run").exists()
