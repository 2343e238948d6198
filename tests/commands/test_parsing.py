import argparse
import pathlib

import pytest

from brainjax import InputError
from brainjax.commands import parsing
from brainjax.training import executor, slurm


def place(*arguments):
  parser = argparse.ArgumentParser()
  parsing.add_executor(parser)
  return parsing.place_of(parser.parse_args(arguments), pathlib.Path("files"))


def test_where_runs_take_place():
  assert place() == executor.Local(1)
  assert place("--jobs=3") == executor.Local(3)
  options = ("--slurm=partition=gpu", "--slurm=time=240")
  assert place("--executor=slurm", "--jobs=8", *options) == slurm.Slurm(
    pathlib.Path("files"), {"partition": "gpu", "time": 240}, at_once=8
  )
  assert place("--executor=slurm").at_once == 256


@pytest.mark.parametrize(
  "arguments, named",
  [
    (["--slurm=time=1"], "--executor=slurm"),
    (["--jobs=0"], "--jobs=0: at least 1"),
    (["--executor=slurm", "--jobs=0"], "--jobs=0: at least 1"),
    (["--executor=slurm", "--slurm=gpu"], "--slurm=gpu: write"),
  ],
)
def test_a_wrong_place_is_refused(arguments, named):
  with pytest.raises(InputError, match=named):
    place(*arguments)
