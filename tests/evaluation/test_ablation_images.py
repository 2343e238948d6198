"""An ablation on images: encoders first, and before them all that can fail."""

import dataclasses
import io
import json

import pytest
import rich.console

import helpers
from brainjax import InputError
from brainjax.evaluation import ablation, ablation_heads, ablation_variants
from brainjax.training import encode, processes, train


@pytest.fixture
def trained(monkeypatch):
  """The configs of the encoders, whose features are there at once."""
  trained = []
  monkeypatch.setattr(
    train, "train", lambda config, run, console: trained.append(config)
  )
  monkeypatch.setattr(
    encode, "encode", lambda run, folder: helpers.write_features(folder)
  )
  return trained


def ablate(tmp_path, *overrides):
  helpers.write_cohort(tmp_path / "records")
  ablation.ablate(
    helpers.micro_config(
      tmp_path / "records", "ablation.primary=('lstm','mean')", *overrides
    ),
    tmp_path / "run",
    heads=("lstm", "mean"),
    folds="3",
    seeds=1,
    console=rich.console.Console(file=io.StringIO()),
  )


def test_heads_leave_to_the_encoder_what_is_of_images(
  tmp_path, trained, monkeypatch
):
  experiments = []

  def train_head(variant, found, facts, workdir, *rest):
    experiments[:] = found
    folder = workdir / "heads" / variant.name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(facts))

  monkeypatch.setattr(ablation_heads, "_train_head", train_head)
  monkeypatch.setattr(ablation, "_write", lambda *args: {})
  ablate(
    tmp_path,
    "data.intensity=nyul",
    "model.init_from=weights",
    "model.attention.in_plane=se",
    "optimizer.rates=('encoder: 0.1',)",
  )
  assert [one.config.split.fold for one in experiments] == [0, 1, 2]
  for config in trained:
    assert config.data.intensity == "nyul"
    assert config.model.init_from == "weights"
    assert config.optimizer.rates == ("encoder: 0.1",)
  assert len(trained) == 3

  # And none is added with more epochs than the others had.
  longer = experiments[0].config.copy_and_resolve_references()
  longer.train.epochs = 9
  experiments[0] = dataclasses.replace(experiments[0], config=longer)
  with pytest.raises(InputError, match="train_epochs was 4, and now 9"):
    ablation_heads.train_heads(
      experiments,
      tmp_path / "run",
      [ablation_variants.Variant("mean")],
      folds=["0", "1", "2"],
      seeds=1,
      stop=processes.StopRequest(),
      say=print,
    )


def test_features_of_a_fold_may_lie_below_its_name(tmp_path):
  (tmp_path / "run-A" / "features").mkdir(parents=True)
  template = str(tmp_path / "run-{fold}" / "features")
  assert ablation._any_folder(template) == template.replace("{fold}", "A")
  with pytest.raises(InputError, match="no such folder"):
    ablation._any_folder(str(tmp_path / "{fold}" / "other"))


@pytest.mark.parametrize(
  "override, words",
  [
    ("ablation.budget=10", "ablation.budget=10"),
    ("task.ignore=('glioma',)", "fold 0: .*'tumour' has no group"),
  ],
)
def test_what_cannot_be_is_refused_before_an_encoder_is_trained(
  tmp_path, trained, override, words
):
  with pytest.raises(InputError, match=words):
    ablate(tmp_path, override)
  assert not trained
