import pathlib
import runpy

import numpy as np
import pytest

import helpers
from brainjax.training import experiment as experiment_lib
from brainjax.training import sharding
from brainjax.training.runner import Runner

ROOT = pathlib.Path(__file__).parent.parent.parent
AOT_CHECK = runpy.run_path(str(ROOT / "launch" / "aot_check.py"))
CONFIG = f"--config={ROOT / 'configs' / 'default.py'}"
SHAPE = "--slice-shape=16,16,1"
MICRO = (
  *(CONFIG, SHAPE, "--scans=4", "--length=3"),
  "--config.model.encoder.preset=micro",
  "--config.model.head.hidden_size=4",
  "--config.mesh.devices=1",
)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([SHAPE], "--config: missing"),
    ([CONFIG], "--slice-shape=missing: give H,W,C, such as"),
    ([CONFIG, "--slice-shape=16,0,1"], "--slice-shape=16,0,1: give"),
    ([*MICRO, "--length=x"], "--length=x: give a number"),
    ([*MICRO, "--scans=1"], "--scans=1: give 2 or more"),
    ([*MICRO, "--workdir=w"], "--workdir=w: no such argument"),
    ([*MICRO, "--config.data.packs=9"], "only 4 training scans"),
    ([*MICRO, "--config.data.pack_slices=2"], "longest scan has 3"),
    ([*MICRO, "--config.model.dtype=f8"], "config.model.dtype='f8'"),
    ([*MICRO, "--slice-shape=4,4,1"], "slices of 4x4 pixels are too small"),
  ],
)
def test_says_in_a_line_what_is_wrong(arguments, said, capsys):
  assert AOT_CHECK["main"](arguments) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.count("\n") == 1 and said in err


@pytest.mark.slow
def test_the_step_is_that_of_training(tmp_path):
  rng = np.random.default_rng(0)
  helpers.write_records(
    tmp_path / "records",
    [
      helpers.random_record(
        rng, label=["normal", "glioma"][i % 2], participant_id=f"p{i}"
      )
      for i in range(20)
    ],
  )
  config = helpers.micro_config(tmp_path / "records")
  experiment = experiment_lib.resolve(config, tmp_path / "run", 1)
  runner = Runner(experiment)
  mesh = sharding.make_mesh(1)
  made = AOT_CHECK["make_experiment"](
    helpers.micro_config(pathlib.Path()),
    mesh,
    (16, 16, 1),
    3,
    len(experiment.subset("train")),
  )
  assert made.shape == experiment.shape
  lowered, _ = AOT_CHECK["lower_step"](made, mesh)
  found, wanted = lowered.compile(), runner.train_step
  for what in ("flops", "bytes accessed"):
    assert found.cost_analysis()[what] == wanted.cost_analysis()[what]
  for what in ("argument_size_in_bytes", "temp_size_in_bytes"):
    assert getattr(found.memory_analysis(), what) == getattr(
      wanted.memory_analysis(), what
    )


def test_a_standard_scale_takes_part():
  config = helpers.micro_config(pathlib.Path(), "data.intensity=percentile")
  mesh = sharding.make_mesh(1)
  made = AOT_CHECK["make_experiment"](config, mesh, (16, 16, 2), 3, 4)
  standard = made.build()[2].standard
  assert len(standard.values) == len(standard.columns) == 2


@pytest.mark.slow
def test_prints_a_table(capsys):
  assert AOT_CHECK["main"](MICRO) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "parameters            9,522"
  assert "16 in 1 packs, of which 12 of scans" in lines[1]
  assert "G by hand" in lines[-2] and "MB by XLA" in lines[-1]
