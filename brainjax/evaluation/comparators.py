"""The source paper's comparators, and others, on the splits of a run.

Classifiers from before networks, with fixed settings, on the mean of the run's
slice embeddings and on classical features. They are fitted on the training
split and judged like the network, per participant. Their features are kept in
the workdir, so that another split does not compute them again.

    baseline_features.npz   f[R,F] of each scan of the run
    baselines_SPLIT.csv     a row a comparator and participant
    metrics.json            its part "baselines", by split

The encoder has seen the training scans: on their embeddings a comparator may
be fitted to what it will not find again.
"""

import functools
import json
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import scipy.special
from sklearn import (
  discriminant_analysis,
  ensemble,
  linear_model,
  naive_bayes,
  neighbors,
  pipeline,
  preprocessing,
  svm,
  tree,
)

from brainjax import InputError, records
from brainjax.evaluation import classical, scoring
from brainjax.metrics import statistics
from brainjax.training import encode, trained
from brainjax.training.experiment import Experiment, open_run

FEATURES = ("encoder", "classical")
_NEIGHBOURS = 5
_SETTINGS: Any = {"class_weight": "balanced", "random_state": 0}
COMPARATORS: Mapping[str, Callable[[], Any]] = types.MappingProxyType(
  {
    "naive Bayes": naive_bayes.GaussianNB,
    "random forest": functools.partial(
      ensemble.RandomForestClassifier, n_estimators=300, **_SETTINGS
    ),
    "decision tree": functools.partial(
      tree.DecisionTreeClassifier, min_samples_leaf=5, **_SETTINGS
    ),
    "SVM": functools.partial(svm.SVC, class_weight="balanced"),
    "k-NN": functools.partial(
      neighbors.KNeighborsClassifier, n_neighbors=_NEIGHBOURS
    ),
    "logistic regression": functools.partial(
      linear_model.LogisticRegression,
      C=0.1,
      max_iter=1000,
      class_weight="balanced",
    ),
    "AdaBoost": functools.partial(ensemble.AdaBoostClassifier, random_state=0),
    "LDA": functools.partial(
      discriminant_analysis.LinearDiscriminantAnalysis,
      solver="lsqr",
      shrinkage="auto",
    ),
  }
)


def score_baselines(
  workdir: pathlib.Path,
  split: str,
  *,
  progress: Callable[..., Iterable[Any]] | None = None,
) -> dict[str, dict[str, Any]]:
  """Fits and scores every comparator on every kind of features.

  Args:
    workdir: Of the run.
    split: To score; they are fitted on the training split.
    progress: `(iterable, total) -> iterable`, to show how far a loop is.

  Returns:
    Scores by "COMPARATOR, KIND features".

  Raises:
    InputError: The run is not ready, classifies nothing, or has too few
      training scans.
  """
  run = open_run(workdir)
  if run.objective == "reconstruct":
    raise InputError(
      f"{workdir}: an auto-encoder's run classifies nothing; leave out"
      " --baselines"
    )
  train, subset = run.scored("train"), run.scored(split)
  if len(train) < _NEIGHBOURS or not len(subset):
    raise InputError(
      f"{workdir / 'splits.csv'}: {len(train)} scans to fit on and"
      f" {len(subset)} in split {split!r}; the comparators need"
      f" {_NEIGHBOURS} and 1"
    )
  step, features = _features(run, progress)
  scores, rows = {}, []
  for kind, values in features.items():
    for name in COMPARATORS:
      probabilities = fit_and_predict(
        name,
        values[train],
        run.targets[train],
        values[subset],
        len(run.classes),
      )
      full_name = f"{name}, {kind} features"
      found = scoring.log_of(probabilities)
      scores[full_name] = scoring.score(run, subset, found)
      rows += _rows(run, subset, found, full_name)
  path = workdir / f"baselines_{split}.csv"
  records.write_csv(path, list(rows[0]), rows)
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text()) if path.is_file() else {}
  known = metrics.setdefault("baselines", {})
  known[split] = {"step": step, "scores": scores}
  records.write_text(path, json.dumps(metrics, indent=2) + "\n")
  return scores


def fit_and_predict(
  name: str,
  train: np.ndarray,
  targets: np.ndarray,
  test: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """Fits a comparator, and returns f64[T,K] probabilities of the test rows.

  The margins of the support vector machine go through a softmax: they order
  rows, and say no more of probability than that.

  Args:
    name: Of `COMPARATORS`.
    train: f[R,F] features, standardised by themselves.
    targets: i64[R] classes.
    test: f[T,F] features.
    num_classes: K; a class without a training row has probability 0.
  """
  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(), COMPARATORS[name]()
  )
  model.fit(train, targets)
  if hasattr(model, "predict_proba"):
    found = model.predict_proba(test)
  else:
    margins = model.decision_function(test)
    if margins.ndim == 1:
      margins = np.stack([np.zeros(len(test)), margins], axis=1)
    found = scipy.special.softmax(margins, axis=1)
  probabilities = np.zeros((len(test), num_classes))
  probabilities[:, model.classes_] = found
  return probabilities


def _features(
  run: Experiment, progress: Callable[..., Iterable[Any]] | None
) -> tuple[int, dict[str, np.ndarray]]:
  """Returns the step of the encoder, and f[R,F] of each kind.

  R are all records; those that take no part in the run are zero. Classical
  features are left out where the images are gone, and the encoder's where it
  describes no slices.
  """
  model = trained.load_trained(run.workdir)
  identity = f"{run.record_set.sha256} {model.checkpoint_sha256}"
  path = run.workdir / "baseline_features.npz"
  if path.is_file():
    with open(path, "rb") as opened, np.load(opened) as kept:
      if str(kept["identity"]) == identity:
        return model.step, {k: kept[k] for k in FEATURES if k in kept}
  chosen = np.array([int(scan["record_index"]) for scan in run.scans])
  track = progress or (lambda items, total: items)
  found = {}
  if not model.model.reads_volumes:
    if run.record_set.encoder is None:
      encoded = encode.encode_scans(model, run, chosen)
    else:
      encoded = (
        (i, run.record_set[i].slices[:, 0, 0]) for i in chosen.tolist()
      )
    encoded = track(encoded, len(chosen))
    found["encoder"] = {i: z.mean(0) for i, z in encoded}
  try:
    images = run.record_set.images()
  except InputError:
    pass  # which `evaluate` says of the shortcut probes
  else:
    found["classical"] = {
      i: classical.classical_features(images[i])
      for i in track(chosen.tolist(), len(chosen))
    }
  arrays = {}
  for kind, of_scan in found.items():
    width = len(next(iter(of_scan.values())))
    arrays[kind] = np.zeros((len(run.record_set), width))
    for i, values in of_scan.items():
      arrays[kind][i] = values
  with records.replacing(path) as partial, open(partial, "wb") as file:
    np.savez(file, identity=np.array(identity), **arrays)
  return model.step, arrays


def _rows(
  run: Experiment, subset: np.ndarray, found: np.ndarray, name: str
) -> list[dict[str, Any]]:
  """Returns the rows of `baselines_SPLIT.csv` of a comparator."""
  scans = [run.record_set.rows[i] for i in subset]
  people, probabilities = statistics.aggregate_participants(
    found, [scan["participant_id"] for scan in scans]
  )
  label = {
    scan["participant_id"]: run.classes[run.targets[i]]
    for i, scan in zip(subset, scans, strict=True)
  }
  return [
    {
      "model": name,
      "participant_id": person,
      "true_label": label[person],
      **{
        f"proba_{k}": f"{value:.9g}"
        for k, value in zip(run.classes, row, strict=True)
      },
    }
    for person, row in zip(people, probabilities, strict=True)
  ]
