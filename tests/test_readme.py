"""The README gives the figures of the measured run, and commands that exist."""

import json
import pathlib
import re
import shlex

import pytest

from brainjax import cli
from brainjax.evaluation import verdict

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUN = ROOT / "benchmarks" / "figshare_typing.json"


@pytest.fixture(scope="module")
def scores():
  return json.loads(RUN.read_text())["test"]


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "roc_auc"])
def test_figures_of_the_model(scores, metric):
  assert verdict.score_text(scores[metric]) in README
  for probe in scores["probes"].values():
    assert verdict.score_text(probe[metric]) in README
  assert f"{scores['n']} test participants" in README


def test_accuracy_is_above_the_largest_class(scores):
  largest, levels = verdict.baseline(scores, scores["classes"])
  assert scores["accuracy"]["low"] > levels["accuracy"]
  assert f"always answering {largest}" in README
  assert f"{levels['accuracy']:.2f}" in README


def commands():
  blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
  text = "".join(blocks).replace("\\\n", " ")
  return re.findall(r"^(brainjax \w+.*?)(?:\s+#.*)?$", text, re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command):
  _, *arguments = shlex.split(command)
  args, unknown = cli.make_parser().parse_known_args(arguments)
  assert all(argument.startswith("--config.") for argument in unknown)
  config = getattr(args, "config", None)
  if config:
    assert (ROOT / config.split(":")[0]).is_file()


def test_there_are_commands():
  assert len(commands()) >= 8
