"""Classification losses: sums over scans, divided by a constant.

A constant divisor makes packs, devices and accumulated steps simply add. For
the same reason what compares scans with each other, mining and mixup, compares
those of one pack.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

CLASS_WEIGHTS = ("inverse", "median", "effective", "none")
_BETA = 0.999  # of the effective number of samples
_TINY = 1e-12  # a power of 0 may have no gradient


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """What a classification loss is made of; a default leaves its part out.

  Attributes:
    class_weights: K weights, of scans by their class.
    focal_gamma: Exponent of the focal loss; 0 = cross-entropy.
    label_smoothing: Share of the target that goes to all classes alike.
    adjustment: K numbers, added to the logits; () = none.
    hard_negatives: Scans of the class `frequent` that are kept, for each other
      scan of their pack; 0 = all.
    frequent: The most frequent class.
    mixup: a, where the share of a scan in a mix is of Beta(a, a); 0 = no mix.
  """

  class_weights: tuple[float, ...]
  focal_gamma: float = 0.0
  label_smoothing: float = 0.0
  adjustment: tuple[float, ...] = ()
  hard_negatives: int = 0
  frequent: int = 0
  mixup: float = 0.0


def classification_loss(
  logits: jax.Array,
  batch: Mapping[str, jax.Array],
  key: jax.Array,
  settings: LossSettings,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Adds up the loss of the scans of a batch.

  A row without a scan, and one of unknown label, adds exactly 0.

  Args:
    logits: f32[G,B,K].
    batch: `label`, `weight` and `draw`, each [G,B].
    key: Of the step; only mixup draws.
    settings: What the loss is made of. Static.

  Returns:
    f32[], the sum; and metrics, f32[] sums: `loss`, to be divided by `weight`;
    `correct` of `labelled` scans.
  """
  label = batch["label"]
  known = batch["weight"] * (label >= 0)
  correct = jnp.argmax(logits, axis=-1) == label
  weight_of_class = jnp.array(settings.class_weights, jnp.float32)
  if settings.adjustment:
    logits += jnp.array(settings.adjustment, jnp.float32)[None, None]
  terms = [(label, known)]
  if settings.mixup:
    partner, share = draw_mixes(key, batch["draw"], known > 0, settings.mixup)
    # The classifier is linear: to mix what it reads is to mix what it says.
    other = jnp.take_along_axis(logits, partner[..., None], axis=1)
    logits = share[..., None] * logits + (1 - share[..., None]) * other
    terms = [
      (label, known * share),
      (jnp.take_along_axis(label, partner, axis=1), known * (1 - share)),
    ]
  loss = weight = jnp.zeros((), jnp.float32)
  for target, counts in terms:
    losses = scan_losses(
      logits,
      target,
      focal_gamma=settings.focal_gamma,
      label_smoothing=settings.label_smoothing,
    )
    if settings.hard_negatives:
      kept = keep_hardest(
        losses,
        (known > 0) & (label == settings.frequent),
        (known > 0) & (label != settings.frequent),
        settings.hard_negatives,
      )
      counts = counts * kept
    counts = counts * weight_of_class[jnp.where(target >= 0, target, 0)]
    loss += jnp.sum(losses * counts)
    weight += jnp.sum(counts)
  return loss, {
    "loss": loss,
    "weight": weight,
    "correct": jnp.sum(correct * known),
    "labelled": jnp.sum(known),
  }


def scan_losses(
  logits: jax.Array,
  labels: jax.Array,
  *,
  focal_gamma: float = 0.0,
  label_smoothing: float = 0.0,
) -> jax.Array:
  """Cross-entropy of each scan, or its focal loss.

  Args:
    logits: f32[...,K].
    labels: i32[...], class index; -1 = unknown.
    focal_gamma: The loss is multiplied by (1 - p)^gamma, p being the
      probability of the class; 0 = cross-entropy. Static.
    label_smoothing: Share of the target that goes to all classes alike. Static.

  Returns:
    f32[...]; 0 where the label is unknown.

  Source: Lin et al. 2017, arXiv:1708.02002, eq. 4; Szegedy et al. 2016,
  arXiv:1512.00567, section 7.
  """
  log_probabilities = jax.nn.log_softmax(logits)
  known = labels >= 0
  picked = jnp.take_along_axis(
    log_probabilities, jnp.where(known, labels, 0)[..., None], axis=-1
  )[..., 0]
  loss = -picked
  if focal_gamma:
    loss *= jnp.maximum(-jnp.expm1(picked), _TINY) ** focal_gamma
  if label_smoothing:
    spread = -jnp.mean(log_probabilities, axis=-1)
    loss = (1 - label_smoothing) * loss + label_smoothing * spread
  return jnp.where(known, loss, 0.0)


def keep_hardest(
  losses: jax.Array, frequent: jax.Array, rarer: jax.Array, ratio: int
) -> jax.Array:
  """Chooses all scans of the rarer classes and the hardest of the frequent one.

  Of the frequent class, `ratio` are kept for each of the others in the pack,
  so a pack that has no other keeps none. Of equal losses the first row wins.

  Args:
    losses: f32[G,B] of each scan; no gradient goes through the choice.
    frequent: bool[G,B], scans of the most frequent class.
    rarer: bool[G,B], scans of the others.
    ratio: At least 1. Static.

  Returns:
    bool[G,B].

  Source: Shrivastava et al. 2016, arXiv:1604.03540; the ratio is that of Liu
  et al. 2016, arXiv:1512.02325, section 2.2.
  """
  losses = jnp.where(frequent, jax.lax.stop_gradient(losses), -jnp.inf)
  rank = jnp.argsort(jnp.argsort(-losses, axis=1), axis=1)
  most = ratio * jnp.sum(rarer, axis=1, keepdims=True)
  return rarer | (frequent & (rank < most))


def draw_mixes(
  key: jax.Array,
  draw: jax.Array,
  known: jax.Array,
  concentration: float,
) -> tuple[jax.Array, jax.Array]:
  """Draws with whom each scan is mixed, and its own share of the mix.

  The scans of a pack are put into a random order, and each is mixed with the
  next; the last with the first, and one alone with itself. Draws are of (key,
  record), so a mix depends on which scans are in the pack, but neither on
  their order nor on other packs.

  Args:
    key: Of the step.
    draw: i32[G,B] identifies the draw of a scan.
    known: bool[G,B], scans of known label; no other is mixed in.
    concentration: a of Beta(a, a), from which shares are drawn. Static.

  Returns:
    i32[G,B] row of the partner, and f32[G,B] own share.

  Source: Verma et al. 2019, arXiv:1806.05236, at the last hidden layer.
  Differs: a share a scan, not one a batch; and every scan has a partner. The
  symmetric beta distribution is drawn as Devroye 1996 does ("Random variate
  generation in one line of code"), without the loop that devices would have to
  wait for each other in.
  """

  def draw_three(draw):
    return jax.random.uniform(jax.random.fold_in(key, draw), (3,), jnp.float32)

  draws = jax.vmap(jax.vmap(draw_three))(draw)
  place, first, second = jnp.moveaxis(draws, -1, 0)
  cosine = jnp.cos(2 * jnp.pi * second)
  spread = 1 / jnp.expm1(-jnp.log(first) / concentration)
  share = 0.5 + 0.5 * cosine / jnp.sqrt(spread + cosine**2)
  order = jnp.argsort(jnp.where(known, place, jnp.inf), axis=1)
  after = jnp.argsort(order, axis=1) + 1
  total = jnp.sum(known, axis=1, keepdims=True)
  partner = jnp.take_along_axis(order, jnp.where(after < total, after, 0), 1)
  return partner, share


def class_weights(counts: np.ndarray, kind: str) -> tuple[float, ...]:
  """Weights that make classes count alike, or more alike.

  Args:
    counts: i64[K] training participants of each class, n of them in all.
    kind: "inverse" for n / (K n_c); "median" for median(n_c) / n_c; "effective"
      for weights in proportion to (1 - b) / (1 - b^n_c) with b = 0.999; "none"
      for 1.

  Returns:
    K floats. Their mean over the participants is 1, unless those of "median".

  Source: Eigen and Fergus 2015, arXiv:1411.4734 ("median"); Cui et al. 2019,
  arXiv:1901.05555 ("effective"; theirs add up to K).
  """
  if kind == "none":
    return (1.0,) * len(counts)
  if kind == "effective":
    weights = 1 / -np.expm1(counts * np.log(_BETA))
    weights *= counts.sum() / (weights * counts).sum()
  elif kind == "median":
    weights = np.median(counts) / counts
  else:
    weights = counts.sum() / (len(counts) * counts)
  return tuple(float(weight) for weight in weights)


def logit_adjustment(counts: np.ndarray, strength: float) -> tuple[float, ...]:
  """Returns what training adds to the K logits; () for a strength of 0.

  The model then learns what it would say if classes were equally frequent.

  Args:
    counts: i64[K] training participants of each class.
    strength: tau, times the logarithm of a class's share of them.

  Source: Menon et al. 2021, arXiv:2007.07314, eq. 10.
  """
  if not strength:
    return ()
  return tuple(float(a) for a in strength * np.log(counts / counts.sum()))
