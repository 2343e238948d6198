import pytest

import helpers
from brainjax.models import cost
from brainjax.training import experiment, throughput


def run(tmp_path, *overrides, features=False):
  write = helpers.write_features if features else helpers.write_cohort
  write(tmp_path / "records")
  config = helpers.micro_config(tmp_path / "records", *overrides)
  resolved = experiment.resolve(config, tmp_path / "run", 1)
  return resolved, resolved.build()[0].encoder


def test_a_slice_takes_what_the_model_says(tmp_path):
  resolved, encoder = run(tmp_path)
  found = throughput.of_run(resolved, encoder, 4, "NVIDIA H100 80GB HBM3")
  assert found is not None
  assert found.flops == cost.training_flops(encoder, (16, 16, 1))
  assert found.floor_bytes == cost.training_bytes(encoder, (16, 16, 1))
  assert found.peak_flops == 4 * 989.5e12
  # At the speed at which the devices would do nothing else:
  line = found.line(found.peak_flops / found.flops)
  assert line["perf/mfu"] == pytest.approx(1)
  assert line["perf/flops_per_second"] == pytest.approx(found.peak_flops)
  assert line["perf/bytes_per_second"] == pytest.approx(
    found.peak_flops * found.floor_bytes / found.flops
  )


def test_no_mfu_where_the_peak_is_not_known(tmp_path):
  for kind in ("cpu", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
    found = throughput.of_run(*run(tmp_path), 1, kind)
    assert found is not None
    assert found.line(1.0) == {
      "perf/flops_per_second": found.flops,
      "perf/bytes_per_second": found.floor_bytes,
    }


def test_nothing_is_said_of_what_is_not_counted(tmp_path):
  resolved, encoder = run(tmp_path / "images")
  resolved.config.optimizer.rates = ("encoder/denseblock1: 0",)
  assert throughput.of_run(resolved, encoder, 1, "cpu") is None
  resolved.config.optimizer.rates = ("encoder/denseblock1: 0.5",)
  assert throughput.of_run(resolved, encoder, 1, "cpu") is not None
  features = run(tmp_path / "features", features=True)
  assert throughput.of_run(*features, 1, "cpu") is None
