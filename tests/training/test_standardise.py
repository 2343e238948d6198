"""The standard scale of intensities: its fit, and what the device does."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import helpers
from brainjax import InputError, records
from brainjax.input import packing, plan
from brainjax.preparation.intensity import LANDMARK_PERCENTILES
from brainjax.training import experiment, intensity, standardise, step

H, W, S = 16, 12, 3


def _record(rng, *, gain=1.0, power=1.0, present=(1, 1), **ids):
  """A scan of two modalities whose histogram is bent by `power`."""
  brain = np.zeros((S, H, W), bool)
  brain[:, 3:13, 2:9] = True
  raw = gain * rng.gamma(4.0, size=(S, H, W, 2)) ** power
  values = raw[brain]
  moments = np.stack([values.mean(0), values.std(0)], -1)
  landmarks = np.percentile(values, LANDMARK_PERCENTILES, axis=0).T
  z = np.clip((raw - moments[:, 0]) / moments[:, 1], -5, 5)
  scale = 5 / 32767
  codes = np.where(brain[..., None], np.rint(z / scale), 0)
  there = np.array(present)
  base = helpers.random_record(
    rng, num_slices=S, height=H, width=W, dtype="int16", **ids
  )
  return dataclasses.replace(
    base,
    slices=(codes * there).astype(np.int16),
    scale=scale,
    present=there.astype(np.uint8),
    brain_mask=records.pack_bits(brain),
    landmarks=(landmarks * there[:, None]).astype(np.float32),
    moments=(moments * there[:, None]).astype(np.float32),
  )


def _scans(count=5, **kwargs):
  rng = np.random.default_rng(0)
  return [
    _record(rng, gain=10.0**i, power=0.7 + 0.2 * i, **kwargs)
    for i in range(count)
  ]


def _reference_scale(scans, channel):
  """Nyul's standard scale from 1 to 100, then in units of z-scores."""
  mapped, ends = [], []
  for scan in scans:
    low, high = scan.landmarks[channel, [0, -1]].astype(np.float64)
    mapped.append(np.interp(scan.landmarks[channel], [low, high], [1, 100]))
    mean, deviation = scan.moments[channel]
    ends.append(((low - mean) / deviation, (high - mean) / deviation))
  (a, b), scale = np.mean(ends, 0), np.mean(mapped, 0)
  return np.interp(scale, [1, 100], [a, b])


def _reference(raw, landmarks, scale):
  """Piecewise-linear interpolation, and extrapolation, of raw intensities."""
  result = np.interp(raw, landmarks, scale)
  below, above = raw < landmarks[0], raw > landmarks[-1]
  for where, i, j in ((below, 0, 1), (above, -1, -2)):
    slope = (scale[j] - scale[i]) / (landmarks[j] - landmarks[i])
    result = np.where(where, scale[i] + slope * (raw - landmarks[i]), result)
  span = scale[-1] - scale[0]
  return np.clip(result, scale[0] - span, scale[-1] + span)


def _on_device(scans, standard):
  shape = plan.PackShape(1, S * len(scans) + 2, len(scans) + 1, S, 1)
  batch = packing.pack_batch(
    np.array([[*range(len(scans)), -1]], np.int32),
    scans.__getitem__,
    np.zeros(len(scans), np.int32),
    shape,
    slice_shape=(H, W, 2),
    dtype=np.dtype(np.int16),
    landmarks=True,
  )
  run = jax.jit(step.dequantise, static_argnums=(1, 2))
  return np.array(run(batch, 0, standard))[0]


@pytest.mark.parametrize("method", ["nyul", "percentile"])
def test_device_does_what_numpy_does(method):
  scans = _scans()
  scale = intensity.fit_scale(method, scans, ["t1", "t2"])
  standard = intensity.standard_of(scale, ["t1", "t2"], np.dtype(np.int16))
  found = _on_device(scans, standard)
  assert (found[S * len(scans) :] == 0).all()  # filler
  for i, scan in enumerate(scans):
    here = found[S * i : S * (i + 1)]
    brain = records.unpack_bits(scan.brain_mask, W)
    assert (here[~brain] == 0).all()
    mean, deviation = scan.moments.T
    raw = scan.intensities() * deviation + mean  # clipped, as they are stored
    for c in range(2):
      columns = slice(None) if method == "nyul" else [0, -1]
      expected = _reference(
        raw[brain][:, c],
        scan.landmarks[c, columns],
        _reference_scale(scans, c)[columns],
      )
      np.testing.assert_allclose(here[brain][:, c], expected, atol=2e-3)


def test_landmarks_of_all_scans_become_the_same():
  scans = _scans()
  scale = intensity.fit_scale("nyul", scans, ["t1", "t2"])
  standard = intensity.standard_of(scale, ["t1", "t2"], np.dtype(np.int16))
  found = _on_device(scans, standard)[: S * len(scans)]
  found = found.reshape(-1, S, H, W, 2)
  brain = records.unpack_bits(scans[0].brain_mask, W)
  for channel, name in enumerate(("t1", "t2")):
    spread = [
      np.percentile(z[brain][:, channel], LANDMARK_PERCENTILES[1:-1])
      for z in found
    ]
    wanted = scale["values"][name][1:-1]
    np.testing.assert_allclose(spread, [wanted] * len(scans), atol=0.02)
    # On the scale of z-scores.
    assert -2.5 < wanted[0] < -0.5 < 0.5 < wanted[-1] < 2.5


def test_absent_modality_is_zero_and_takes_no_part_in_the_fit():
  scans = _scans()
  lacking = _record(np.random.default_rng(9), present=(1, 0))
  scale = intensity.fit_scale("nyul", [*scans, lacking], ["t1", "t2"])
  alone = intensity.fit_scale("nyul", scans, ["t1", "t2"])
  assert scale["values"]["t2"] == alone["values"]["t2"]
  assert scale["values"]["t1"] != alone["values"]["t1"]
  standard = intensity.standard_of(scale, ["t1", "t2"], np.dtype(np.int16))
  found = _on_device([lacking], standard)
  assert (found[..., 1] == 0).all() and found[..., 0].any()


def test_landmarks_that_coincide_stay_finite():
  (scan,) = _scans(1)
  flat = dataclasses.replace(
    scan, landmarks=np.repeat(scan.landmarks[:, 5:6], 11, 1)
  )
  scale = intensity.fit_scale("nyul", _scans(3), ["t1", "t2"])
  standard = intensity.standard_of(scale, ["t1", "t2"], np.dtype(np.int16))
  found = _on_device([flat], standard)
  assert np.isfinite(found).all() and np.abs(found).max() < 10
  again = intensity.fit_scale("nyul", [flat, *_scans(3)], ["t1", "t2"])
  assert np.isfinite(again["values"]["t1"]).all()


def test_background_codes_are_no_intensity():
  rng = np.random.default_rng(0)
  for dtype in ("uint8", "int16"):
    scan = helpers.random_record(rng, dtype=dtype)
    brain = np.zeros((3, 16, 16), bool)
    brain[:, 4:9] = True
    scan = dataclasses.replace(scan, brain_mask=records.pack_bits(brain))
    marked = packing.marked_slices(scan)
    assert marked.dtype == scan.slices.dtype
    code = records.BACKGROUND_CODES[scan.slices.dtype]
    np.testing.assert_array_equal(marked[..., 0] == code, ~brain)
    np.testing.assert_array_equal(marked[brain], scan.slices[brain])


def test_zscore_fits_nothing():
  assert intensity.fit_scale("zscore", iter(()), ["t1"]) is None
  assert intensity.standard_of(None, ["t1"], np.dtype(np.uint8)) is None


def test_a_modality_nobody_has_is_refused():
  scans = [_record(np.random.default_rng(1), present=(1, 0))]
  with pytest.raises(InputError, match="no training scan has a t2"):
    intensity.fit_scale("nyul", scans, ["t1", "t2"])


def test_records_without_moments_are_refused():
  scan = dataclasses.replace(_scans(1)[0], moments=None)
  with pytest.raises(InputError, match="run `brainjax prepare` again"):
    intensity.fit_scale("nyul", [scan], ["t1", "t2"])


def _write(folder, *, bent=()):
  """A cohort of 20, of which the records `bent` have other histograms."""
  rng = np.random.default_rng(3)
  scans = []
  for i in range(20):
    ids = {"participant_id": f"p{i:02d}", "label": ["normal", "glioma"][i % 2]}
    scan = _record(rng, power=3.0 if i in bent else 1.0, **ids)
    scans.append(
      dataclasses.replace(
        scan,
        slices=scan.slices[..., :1],
        present=scan.present[:1],
        landmarks=scan.landmarks[:1],
        moments=scan.moments[:1],
      )
    )
  return helpers.write_records(folder, scans)


def test_only_training_scans_decide(tmp_path):
  _write(tmp_path / "records")
  config = helpers.micro_config(
    tmp_path / "records", "data.intensity=nyul", "data.packs=1"
  )
  plain = experiment.resolve(config, tmp_path / "plain", 1)
  assert plain.intensity["method"] == "nyul"
  others = {
    int(i) for split in ("validation", "test") for i in plain.subset(split)
  }
  _write(tmp_path / "bent", bent=others)
  config.data.records = str(tmp_path / "bent")
  bent = experiment.resolve(config, tmp_path / "run", 1)
  assert bent.intensity == plain.intensity
  _write(tmp_path / "train", bent={int(plain.subset("train")[0])})
  config.data.records = str(tmp_path / "train")
  moved = experiment.resolve(config, tmp_path / "other", 1)
  assert moved.intensity != plain.intensity
  assert isinstance(plain.build()[2].standard, standardise.Standard)


def test_restart_keeps_the_scale_of_the_first_start(tmp_path):
  _write(tmp_path / "records")
  config = helpers.micro_config(
    tmp_path / "records", "data.intensity=percentile", "data.packs=1"
  )
  first = experiment.resolve(config, tmp_path / "run", 1)
  scale = json.loads(json.dumps(first.intensity))
  scale["values"]["t1"][1] += 0.25
  content = {"schema_version": 3, "model": {}, "intensity": scale}
  content["records_sha256"] = first.record_set.sha256
  (tmp_path / "run" / "model.json").write_text(json.dumps(content))
  again = experiment.resolve(config, tmp_path / "run", 1)
  assert again.intensity["values"]["t1"] == tuple(scale["values"]["t1"])


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("data.intensity=nyull", "choose one of"),
    ("train.objective=joint", "only to classify"),
  ],
)
def test_impossible_configs_are_refused(tmp_path, override, message):
  _write(tmp_path / "records")
  config = helpers.micro_config(
    tmp_path / "records", "data.intensity=nyul", override
  )
  with pytest.raises(InputError, match=message):
    experiment.resolve(config, tmp_path / "run", 1)
