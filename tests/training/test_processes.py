import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import yaml

import helpers
from brainjax import InputError, checkpoint
from brainjax import config as config_lib
from brainjax.training import experiment, processes, runner

LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch"
NUM_STEPS = 30


def write_config(folder, write=helpers.write_cohort):
  """A run of 30 steps of 8 packs, as a config file; returns its fields."""
  write(folder / "records", participants=60)
  config = helpers.micro_config(
    folder / "records",
    "data.packs=8",
    "data.scans_per_step=16",
    "optimizer.epsilon=1e-3",  # see test_sharding.py
    "train.patience_epochs=0",
    "train.epochs=15",
    "mesh.devices=None",
  )
  (folder / "config.py").write_text(
    "from brainjax import config as config_lib\n"
    "def get_config(arg=''):\n"
    "  config = config_lib.get_config()\n"
    f"  fields = {config_lib.leaf_fields(config)!r}\n"
    "  for name, value in fields.items():\n"
    "    config_lib.set_field(config, f'{name}={value}')\n"
    "  return config\n"
  )
  return config


def start(folder, *command, devices, epochs=15):
  return subprocess.Popen(
    [
      *command,
      "train",
      f"--config={folder / 'config.py'}",
      f"--workdir={folder / 'run'}",
      f"--config.train.epochs={epochs}",
    ],
    env=os.environ
    | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHON": sys.executable},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for_step(folder, process, step):
  heartbeat = folder / "run" / "heartbeat.json"
  deadline = time.monotonic() + 500
  while time.monotonic() < deadline and process.poll() is None:
    if heartbeat.is_file():
      beat = json.loads(heartbeat.read_text())
      if beat["phase"] in ("training", "validating") and beat["step"] >= step:
        return beat
    time.sleep(0.05)
  process.kill()
  pytest.fail(f"no step {step}: {process.communicate()[0]}")


def assert_ends_like_one_device(config, folder):
  """Holds the parameters of the last step against those of one device."""
  config.mesh.devices = 1
  reference = runner.Runner(experiment.resolve(config, folder / "reference", 1))
  for batch in reference.training_batches(first_step=0, num_steps=NUM_STEPS):
    reference.state, _ = reference.train_step(reference.state, batch)
  expected = jax.device_get(reference.state.params)
  abstract = {
    "params": jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), expected
    )
  }
  checkpoints = folder / "run" / "checkpoints"
  found = checkpoint.restore_arrays(checkpoints, NUM_STEPS, abstract)["params"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
  )


@pytest.mark.slow
def test_two_processes_train_like_one_device(tmp_path):
  config = write_config(tmp_path)
  both = start(tmp_path, str(LAUNCH / "local.sh"), "2", devices=2)
  output, _ = both.communicate(timeout=900)
  assert both.returncode == 0, output
  assert "continuing" not in output
  assert_ends_like_one_device(config, tmp_path)
  assert (tmp_path / "run" / "augmentation.npz").is_file()


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(tmp_path):
  # On features, which compile faster.
  config = write_config(tmp_path, helpers.write_features)
  both = start(tmp_path, str(LAUNCH / "local.sh"), "2", devices=2)
  beat = wait_for_step(tmp_path, both, 2)
  os.kill(beat["pid"], signal.SIGTERM)  # to one; the other one has to hear
  output, _ = both.communicate(timeout=300)
  assert both.returncode == 75, output
  folder = tmp_path / "run" / "checkpoints"
  saved = max(int(p.name.split(".")[0]) for p in folder.glob("*.sha256.json"))
  assert checkpoint.is_sound(folder, saved)
  assert 0 < saved < NUM_STEPS

  alone = start(tmp_path, sys.executable, "-m", "brainjax.cli", devices=4)
  output, _ = alone.communicate(timeout=500)
  assert alone.returncode == 0, output
  assert f"continuing after step {saved}" in output
  log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  steps = [
    line["step"] for line in map(json.loads, log) if "train/loss" in line
  ]
  assert steps == sorted(set(steps)) and steps[-1] == NUM_STEPS

  assert_ends_like_one_device(config, tmp_path)

  both = start(tmp_path, str(LAUNCH / "local.sh"), "2", devices=2, epochs=16)
  output, _ = both.communicate(timeout=500)
  assert both.returncode == 0, output
  assert output.count("continuing after step 30") == 1  # only one speaks
  written = {path.name for path in (tmp_path / "run").iterdir()}
  assert {"report.html", "predictions.csv"} <= written
  assert not [name for name in written if "partial" in name]
  with open(tmp_path / "run" / "predictions.csv", newline="") as file:
    scored = [row["participant_id"] for row in csv.DictReader(file)]
  assert len(scored) == len(set(scored)) == 12


@pytest.mark.parametrize(
  "codes, status", [("0 0", 0), ("0 3", 3), ("75 75", 75), ("75 2", 2)]
)
def test_local_sh_ends_as_its_processes_do(tmp_path, codes, status):
  stand_in = tmp_path / "python"  # for the interpreter
  stand_in.write_text(
    "#!/usr/bin/env bash\n"
    "if [[ $1 == -c ]]; then echo 1; exit; fi\n"
    f"codes=({codes})\n"
    "last=${!#}\n"
    'exit "${codes[${last##*,}]}"\n'
  )
  stand_in.chmod(0o755)
  done = subprocess.run(
    [LAUNCH / "local.sh", "2", "train"],
    env=os.environ | {"PYTHON": str(stand_in), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
  )
  assert done.returncode == status


def test_local_sh_says_how_it_is_used():
  for arguments in ((), ("two", "train"), ("0", "train"), ("2",)):
    done = subprocess.run(
      [LAUNCH / "local.sh", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: local.sh N train")


@pytest.mark.parametrize("script", ["local.sh", "slurm.sbatch", "tpu_vm.sh"])
def test_scripts_are_sound_bash(script):
  subprocess.run(["bash", "-n", LAUNCH / script], check=True)


def test_jobset_names_what_it_must():
  job = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
  (replicated,) = job["spec"]["replicatedJobs"]
  spec = replicated["template"]["spec"]
  assert spec["parallelism"] == spec["completions"]
  pod = spec["template"]["spec"]
  (container,) = pod["containers"]
  assert container["env"] == [{"name": "N", "value": str(spec["completions"])}]
  first = f"{job['metadata']['name']}-{replicated['name']}-0-0"
  assert (
    f"--distributed={first}.{job['metadata']['name']}:"
    in (container["command"][-1])
  )
  mounted = {mount["name"] for mount in container["volumeMounts"]}
  assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("spec", ["here", "localhost:1,two,0", "a:1,2,0,0"])
def test_an_address_that_cannot_be_read_is_refused(spec):
  with pytest.raises(InputError, match="give HOST:PORT,N,I"):
    processes.join(spec)


def test_a_signal_is_a_request():
  with processes.StopRequest() as stop:
    assert not stop.requested(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested(2)
