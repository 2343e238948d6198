import pathlib
import re

import pytest

from brainjax import InputError, config
from brainjax.training import config_checks

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def test_override_keeps_the_type():
  fields = config.get_config()
  config.set_field(fields, "optimizer.learning_rate=1")
  assert fields.optimizer.learning_rate == 1.0
  assert isinstance(fields.optimizer.learning_rate, float)
  config.set_field(fields, "split.fractions=[0.5, 0.25, 0.25]")
  assert fields.split.fractions == (0.5, 0.25, 0.25)
  config.set_field(fields, "data.records=12")
  assert fields.data.records == "12"
  config.set_field(fields, "data.packs=4")
  assert fields.data.packs == 4


def test_misspelt_key_names_the_nearest_right_one():
  with pytest.raises(
    InputError, match="did you mean --config.optimizer.learning_rate"
  ):
    config.set_field(config.get_config(), "optimizer.learning_rte=1")


@pytest.mark.parametrize(
  "override, message",
  [
    ("train.epochs=many", "config.train.epochs=many: .* int"),
    ("train.epochs", "--config.train.epochs=VALUE"),
    ("model.head=lstm", "no such field"),
  ],
)
def test_bad_override_names_the_field(override, message):
  with pytest.raises(InputError, match=message):
    config.set_field(config.get_config(), override)


def test_variant_chooses_the_head():
  assert config.get_config("head=mean").model.head.to_dict() == {
    "name": "mean",
    "projection": 0,
    "budget": None,
  }
  with pytest.raises(InputError, match="head=nothing"):
    config.get_config("head=nothing")
  with pytest.raises(InputError, match="'hed=lstm'"):
    config.get_config("hed=lstm")


def test_variant_chooses_the_augmentation():
  augment = config.get_config("augment=paper,head=mean").augment
  assert augment.flip and augment.translation == 25 / 128
  assert augment.rotation_degrees == augment.scale == augment.noise == 0
  none = config.get_config("augment=none").augment.to_dict()
  assert not any(none[key] for key in ("flip", "scale", "translation"))
  assert config.get_config("augment=sane").augment.gamma == (0.7, 1.5)
  with pytest.raises(InputError, match="augment=mild: no such preset"):
    config.get_config("augment=mild")


@pytest.mark.parametrize(
  ("network", "preset"), [("cnn2d", "cnn2d"), ("densenet3d", "small_3d")]
)
def test_variant_chooses_the_network(network, preset):
  model = config.get_config(f"network={network}").model
  assert (model.encoder.preset, model.head.name) == (preset, "mean")
  assert model.head.budget is None
  assert config.network_of(model) == network
  again = config.get_config(f"network={network}")
  config.set_field(again, "model.head.budget=7")
  config.set_network(again, network)
  assert again.model.to_dict() == model.to_dict()


def test_a_network_takes_no_head():
  with pytest.raises(InputError, match="head=gru: network=cnn2d stands in the"):
    config.get_config("network=cnn2d,head=gru")
  with pytest.raises(InputError, match="network=vgg: no such network; .*cnn2d"):
    config.get_config("network=vgg")
  assert config.network_of(config.get_config().model) == ""


def test_a_comparator_goes_without_what_is_of_encoder_and_head():
  fields = config.get_config("head=gru")
  for override in (
    "model.init_from=weights.npz",
    "model.attention.slice_axis=distance",
    "model.encoder.chunk_slices=4",
    "optimizer.rates=('encoder: 0.1',)",
  ):
    config.set_field(fields, override)
  config.set_network(fields, "densenet3d")
  config_checks.check_config(fields)
  config_checks.check_regime(fields)


@pytest.mark.parametrize(
  ("preset", "override"),
  [
    ("cnn2d", "model.attention.in_plane=distance"),
    ("cnn2d", "train.objective=joint"),
    ("micro_3d", "train.objective=reconstruct"),
    ("micro_3d", "model.head.name=lstm"),
    ("micro_3d", "model.attention.slice_axis=distance"),
    ("micro_3d", "model.encoder.chunk_slices=4"),
    ("micro_3d", "mesh.slice_devices=2"),
  ],
)
def test_what_does_not_go_with_a_comparator_is_refused(preset, override):
  fields = config.get_config("head=mean")
  config.set_field(fields, f"model.encoder.preset={preset}")
  config_checks.check_regime(fields)
  config.set_field(fields, override)
  name = override.partition("=")[0]
  with pytest.raises(InputError, match=f"config.{name}=.*{preset}'; set it to"):
    config_checks.check_regime(fields)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=str)
def test_a_variant_of_augmentation_leaves_the_head(path):
  loaded = config.load_config(f"{path}:augment=none")
  assert loaded.augment.rotation_degrees == 0
  assert loaded.model.head == config.load_config(str(path)).model.head


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=str)
def test_every_config_file_loads_and_is_locked(path):
  loaded = config.load_config(f"{path}:head=mean", ["train.seed=3"])
  assert loaded.train.seed == 3
  assert loaded.model.head.name == "mean"
  assert loaded.is_locked
  config.parse_classes(loaded.task.classes)
  config_checks.check_config(loaded)


def test_every_default_is_documented():
  lines = pathlib.Path(config.__file__).read_text().splitlines()
  assignments = [
    line
    for line in lines
    if re.match(r"  (\w+\.)+\w+ = ", line) and "ConfigDict(" not in line
  ]
  assert len(assignments) > 40
  assert [line for line in assignments if "#" not in line] == []


@pytest.mark.parametrize(
  "classes, message",
  [
    (("a: x", "a: y"), "class 'a' stands twice"),
    (("a: x", "b: x"), "label 'x' stands in class 'a' and in class 'b'"),
    (("a x", "b: y"), "'a x' is not of the form"),
    (("a: x",), "at least two"),
  ],
)
def test_bad_classes_are_refused(classes, message):
  with pytest.raises(InputError, match=message):
    config.parse_classes(classes)


def test_missing_and_unusable_files(tmp_path):
  with pytest.raises(InputError, match="nowhere.py: no such config file"):
    config.load_config("nowhere.py")
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(InputError, match="empty.py: it does not define"):
    config.load_config(str(tmp_path / "empty.py"))
