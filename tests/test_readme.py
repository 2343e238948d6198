"""The README gives the figures of the measured run, and commands that exist."""

import json
import pathlib
import re
import shlex

import pytest

from brainjax import cli
from brainjax.evaluation import reconstruction_page, verdict

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUN = ROOT / "benchmarks" / "figshare_typing.json"


@pytest.fixture(scope="module")
def runs():
  return {
    head: metrics["test"]
    for head, metrics in json.loads(RUN.read_text())["runs"].items()
  }


def row(name):
  """The cells of the last row that begins with a name."""
  rows = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", README, re.MULTILINE)
  return [cell.strip() for cell in rows[-1].split("|")]


def texts(scores):
  metrics = ("accuracy", "balanced_accuracy", "roc_auc")
  return [verdict.score_text(scores[metric]) for metric in metrics]


@pytest.mark.parametrize(
  ("head", "name"),
  [
    ("lstm", "DenseNet (`tiny`) + LSTM"),
    ("densenet1d", "DenseNet (`tiny`) + 1-D DenseNet"),
    ("mean", "DenseNet (`tiny`) + mean over slices"),
  ],
)
def test_figures_of_the_heads(runs, head, name):
  assert row(name) == texts(runs[head])
  assert f"{runs[head]['n']} test participants" in README


def test_figures_they_are_held_against(runs):
  probes = runs["lstm"]["probes"]
  assert row("shortcut probe: intensity histogram") == texts(
    probes["histogram"]
  )
  header = "shortcut probe: header and number of slices"
  assert row(header) == texts(probes["header"])
  largest, levels = verdict.baseline(runs["lstm"], runs["lstm"]["classes"])
  names = ("accuracy", "balanced_accuracy", "roc_auc")
  wanted = [f"{levels[name]:.2f}" for name in names]
  assert row(f"always answering {largest}") == wanted
  assert all(run["probes"] == probes for run in runs.values())


def test_figures_of_the_auto_encoder():
  path = ROOT / "benchmarks" / "figshare_autoencoder.json"
  found = json.loads(path.read_text())
  probes = found["pretrained"]["feature_probes"]
  assert row("linear probe of the embeddings") == texts(probes["embedding"])
  assert row("linear probe of a PCA of the pixels") == texts(probes["pca"])
  for head, name in (("lstm", "LSTM"), ("mean", "mean")):
    scores = found[f"ae_frozen_{head}"]
    assert row(f"{name} on the frozen embeddings") == texts(scores)
  text = " ".join(README.split())
  drawn = found["pretrained"]["reconstruction"]
  for key in ("psnr", "psnr_pca", "psnr_gain"):
    assert reconstruction_page.decibels(drawn[key]) in text
  gain = found["pretrained"]["feature_probe_gain"]
  assert verdict.score_text(gain) in text


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
