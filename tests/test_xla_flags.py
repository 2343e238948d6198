import importlib.metadata
import os

import pytest

import brainjax

YNN = "--xla_cpu_experimental_ynn_fusion_type"
SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


@pytest.mark.parametrize(
  ("version", "names"),
  [("0.10.2", {YNN, SCHEDULER}), ("0.11.2", {SCHEDULER}), ("0.12.0", set())],
)
def test_only_known_flags_are_set(monkeypatch, version, names):
  monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
  monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
  brainjax.set_xla_flags()
  flags = os.environ["XLA_FLAGS"].split()
  assert flags[0] == "--xla_other=1"
  assert {flag.partition("=")[0] for flag in flags[1:]} == names


def test_flags_of_the_environment_win(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", f"{SCHEDULER}=true")
  brainjax.set_xla_flags()
  brainjax.set_xla_flags()
  flags = os.environ["XLA_FLAGS"].split()
  assert flags.count(f"{SCHEDULER}=true") == 1
  assert f"{SCHEDULER}=false" not in flags
  assert len(flags) == len(set(flags))
