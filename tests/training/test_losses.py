import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from brainjax.training import losses

KEY = jax.random.key(5)
COUNTS = np.array([60, 30, 10])
WEIGHTS = losses.class_weights(COUNTS, "inverse")
# Label 0 is frequent. The last row of the first pack holds no scan, one row of
# the second is of unknown label, the third pack is empty, and the fourth has
# frequent scans alone.
LABEL = np.array(
  [
    [0, 0, 1, 0, 0, -1],
    [2, -1, 0, 0, 1, 0],
    [-1, -1, -1, -1, -1, -1],
    [0, 0, 0, -1, -1, -1],
  ]
)
WEIGHT = np.ones(LABEL.shape, np.float32)
WEIGHT[0, 5] = 0
WEIGHT[2] = 0
RECORD_INDEX = np.where(
  WEIGHT > 0, np.arange(LABEL.size).reshape(LABEL.shape), -1
)
BATCH = {"label": LABEL, "weight": WEIGHT, "draw": RECORD_INDEX}
KNOWN = (LABEL >= 0) & (WEIGHT > 0)
SETTINGS = {
  "cross_entropy": {},
  "focal": {"focal_gamma": 2.0},
  "steep focal": {"focal_gamma": 0.5},
  "label_smoothing": {"label_smoothing": 0.1},
  "logit_adjustment": {
    "adjustment": losses.logit_adjustment(COUNTS, 1.5),
    "class_weights": (1.0, 1.0, 1.0),
  },
  "hard_negatives": {"hard_negatives": 2},
  "mixup": {"mixup": 0.4},
  "mixup and more": {"mixup": 1.0, "label_smoothing": 0.2},
}


def settings_of(name):
  return losses.LossSettings(**{"class_weights": WEIGHTS} | SETTINGS[name])


def random_logits():
  logits = np.random.default_rng(1).normal(0, 2, (*LABEL.shape, 3))
  logits[0, 1] = logits[0, 3]  # equally hard
  return logits


@functools.cache
def mixes_of(concentration):
  mixes = losses.draw_mixes(KEY, RECORD_INDEX, KNOWN, concentration)
  return [np.asarray(mix, np.float64) for mix in mixes]


def reference(logits, settings):
  """Loss and its weight, scan by scan, from the definitions."""
  partner, share = mixes_of(settings.mixup) if settings.mixup else (None, None)

  def log_softmax(row):
    return row - np.log(np.exp(row - row.max()).sum()) - row.max()

  def loss_of(row, k):
    log_p = log_softmax(row + np.array(settings.adjustment or [0.0] * 3))
    target = np.eye(3)[k] * (1 - settings.label_smoothing)
    target += settings.label_smoothing / 3
    focus = (1 - np.exp(log_p[k])) ** settings.focal_gamma
    return -(target * log_p).sum() * focus

  total = weight = 0.0
  for g, pack in enumerate(LABEL):
    rows = np.flatnonzero(KNOWN[g])
    if settings.hard_negatives:
      frequent = [b for b in rows if pack[b] == settings.frequent]
      # sorted() is stable: the first row of equal losses stays first.
      frequent.sort(key=lambda b: -loss_of(logits[g, b], pack[b]))
      rarer = [b for b in rows if pack[b] != settings.frequent]
      rows = rarer + frequent[: settings.hard_negatives * len(rarer)]
    for b in rows:
      row, terms = logits[g, b], [(pack[b], 1.0)]
      if settings.mixup:
        other, own = int(partner[g, b]), share[g, b]
        row = own * row + (1 - own) * logits[g, other]
        terms = [(pack[b], own), (pack[other], 1 - own)]
      for k, part in terms:
        weight += part * settings.class_weights[k]
        total += part * settings.class_weights[k] * loss_of(row, k)
  return total, weight


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradient_against_the_definition(name):
  settings, logits = settings_of(name), random_logits()

  def total(logits):
    return losses.classification_loss(logits, BATCH, KEY, settings)

  with jax.enable_x64(True):
    gradient, metrics = jax.jit(jax.grad(total, has_aux=True))(logits)
  expected, weight = reference(logits, settings)
  assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
  assert metrics["weight"] == pytest.approx(weight, rel=1e-6)
  correct = (logits.argmax(-1) == LABEL) & KNOWN
  assert metrics["correct"] == correct.sum()
  assert metrics["labelled"] == KNOWN.sum()
  for g, b, k in itertools.product(*map(range, logits.shape)):
    sides = []
    for sign in (1, -1):
      moved = logits.copy()
      moved[g, b, k] += sign * 1e-6
      sides.append(reference(moved, settings)[0])
    difference = (sides[0] - sides[1]) / 2e-6
    if (g, b) in ((0, 1), (0, 3)) and settings.hard_negatives:
      continue  # equally hard: the choice between them has no derivative
    assert gradient[g, b, k] == pytest.approx(difference, abs=2e-6)
  np.testing.assert_array_equal(np.asarray(gradient)[~KNOWN], 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_packs_add_up_and_their_rows_have_no_order(name):
  settings = settings_of(name)
  logits = random_logits().astype(np.float32)
  logits[0, 1] += 0.1  # no ties: those go by row

  def total(logits, batch):
    return losses.classification_loss(logits, batch, KEY, settings)[0]

  whole = total(logits, BATCH)
  packs = [
    total(logits[g : g + 1], {k: v[g : g + 1] for k, v in BATCH.items()})
    for g in range(len(LABEL))
  ]
  assert sum(packs) == pytest.approx(float(whole), rel=1e-6)
  order = np.random.default_rng(0).permutation(LABEL.shape[1])
  moved = {key: value[:, order] for key, value in BATCH.items()}
  assert total(logits[:, order], moved) == pytest.approx(float(whole), rel=1e-6)


def test_cross_entropy_is_that_of_scikit_learn():
  logits = random_logits()
  settings = losses.LossSettings((1.0, 1.0, 1.0))
  _, metrics = losses.classification_loss(
    jnp.array(logits, jnp.float32), BATCH, KEY, settings
  )
  probabilities = np.array(jax.nn.softmax(logits[KNOWN]), np.float64)
  probabilities /= probabilities.sum(1, keepdims=True)
  expected = sklearn.metrics.log_loss(LABEL[KNOWN], probabilities)
  assert metrics["loss"] / metrics["weight"] == pytest.approx(
    expected, rel=1e-5
  )


def test_unknown_label_has_no_loss_and_no_gradient():
  def total(logits):
    return losses.scan_losses(logits, jnp.array([-1, 1])).sum()

  gradient = jax.grad(total)(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
  np.testing.assert_array_equal(gradient[0], 0)
  assert np.abs(gradient[1]).min() > 0


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_certain_scan_has_a_finite_focal_gradient(gamma):
  def total(logits):
    return losses.scan_losses(logits, jnp.array([0]), focal_gamma=gamma).sum()

  loss, gradient = jax.value_and_grad(total)(jnp.array([[200.0, 0.0]]))
  assert loss == 0
  np.testing.assert_array_equal(gradient, 0)


def test_no_gradient_goes_through_the_choice_of_hard_scans():
  label = jnp.array([[0, 0, 1]])
  batch = {"label": label, "weight": jnp.ones((1, 3)), "draw": label}
  settings = losses.LossSettings((1.0, 1.0), hard_negatives=1)

  def total(logits):
    return losses.classification_loss(logits, batch, KEY, settings)[0]

  gradient = jax.grad(total)(jnp.array([[[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]))
  np.testing.assert_array_equal(gradient[0, 0], 0)  # the easier of the two
  assert np.abs(gradient[0, 1:]).min() > 0.1


def test_partners_make_one_round_of_the_known_scans_of_a_pack():
  partner, share = losses.draw_mixes(KEY, RECORD_INDEX, KNOWN, 0.5)
  for g, known in enumerate(KNOWN):
    rows = np.flatnonzero(known)
    seen, row = [], rows[0] if len(rows) else 0
    for _ in rows:
      seen.append(int(row))
      row = partner[g, row]
    assert sorted(seen) == rows.tolist()
    assert not len(rows) or row == rows[0]
  assert ((share >= 0) & (share <= 1)).all()
  assert len(np.unique(share[KNOWN])) == KNOWN.sum()
  other, _ = losses.draw_mixes(jax.random.key(6), RECORD_INDEX, KNOWN, 0.5)
  assert (partner != other).any()
  alone, _ = losses.draw_mixes(KEY, RECORD_INDEX, KNOWN & (LABEL == 1), 0.5)
  assert alone[0, 2] == 2 and alone[1, 4] == 4


@pytest.mark.parametrize("concentration", [0.1, 0.4, 1.0, 8.0])
def test_shares_are_of_the_beta_distribution(concentration):
  index = np.arange(4000).reshape(1, -1)
  _, share = losses.draw_mixes(KEY, index, index >= 0, concentration)
  beta = scipy.stats.beta(concentration, concentration)
  places = np.linspace(0.01, 0.99, 99)
  below = np.searchsorted(np.sort(share[0]), places) / index.size
  # Kolmogorov and Smirnov: 4000 draws are further off in 1 of 100 tests.
  np.testing.assert_allclose(below, beta.cdf(places), atol=0.026)


@pytest.mark.parametrize("name", ["hard_negatives", "mixup"])
def test_packs_on_other_devices_need_not_be_asked(name):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[: len(LABEL)]), ("data",))
  packs = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  arguments = jax.device_put((random_logits().astype(np.float32), BATCH), packs)

  def total(logits, batch):
    return losses.classification_loss(logits, batch, KEY, settings_of(name))[0]

  text = jax.jit(jax.grad(total)).lower(*arguments).compile().as_text()
  assert not re.search(r" (all|reduce|collective)-[a-z-]+\(", text)


def test_weights_of_classes():
  inverse, median, effective = (
    np.array(losses.class_weights(COUNTS, kind))
    for kind in ("inverse", "median", "effective")
  )
  np.testing.assert_allclose(inverse * COUNTS, 100 / 3)
  np.testing.assert_allclose(median, [0.5, 1, 3])
  ratio = (1 - 0.999**60) / (1 - 0.999**10)
  assert effective[2] / effective[0] == pytest.approx(ratio)
  for weights in (inverse, effective):
    assert (weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)
  # Few samples are all effective, and of very many 1000 are.
  many = np.array(losses.class_weights(COUNTS * 1000, "effective"))
  assert many[2] / many[0] == pytest.approx(1, abs=1e-3)
  assert losses.class_weights(COUNTS, "none") == (1.0, 1.0, 1.0)
  assert set(losses.CLASS_WEIGHTS) == {"inverse", "median", "effective", "none"}


def test_adjusted_logits_undo_the_frequency_of_classes():
  adjustment = losses.logit_adjustment(COUNTS, 1.0)
  np.testing.assert_allclose(np.exp(adjustment), COUNTS / 100)
  assert losses.logit_adjustment(COUNTS, 0.0) == ()
