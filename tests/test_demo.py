"""What `make demo` must have shown; the gate runs it before these."""

import json
import pathlib

import pytest

from brainjax import demo

FOLDER = pathlib.Path(__file__).parent.parent / "demo"


@pytest.fixture(scope="module", params=demo.HEADS)
def scores(request):
  path = FOLDER / request.param / "metrics.json"
  if not path.is_file():
    pytest.skip("needs the demo's output: run `make demo`")
  return request.param, json.loads(path.read_text())["test"]


@pytest.mark.slow
def test_test_split_is_large_enough(scores):
  assert scores[1]["n"] >= 32


@pytest.mark.slow
def test_recurrent_model_screens(scores):
  head, test = scores
  if head == "lstm":
    assert test["roc_auc"]["low"] > 0.6


@pytest.mark.slow
def test_shortcuts_explain_little(scores):
  probes = scores[1]["probes"]
  assert probes["histogram"]["roc_auc"]["value"] <= 0.75
  header = probes["header"]["roc_auc"]
  assert header["low"] <= 0.5 <= header["high"]


def test_config_resolves_for_each_head():
  for head in demo.HEADS:
    config = demo.get_config(head)
    assert config.model.head.name == head
    assert config.preparation == demo.get_config(demo.HEADS[0]).preparation
