"""How a run was made, in the words of a methods section.

Every sentence is written from the files of the run, so that none of them can
say other than what was done; what the files do not know, `claim.py` lists.
"""

import collections
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brainjax.evaluation import augmentation_figure, baselines_figure
from brainjax.evaluation.run_files import Run
from brainjax.training import trained

_HEADS = {
  "lstm": "a long short-term memory network",
  "gru": "a network of gated recurrent units",
  "densenet1d": "a one-dimensional DenseNet over the slices",
  "image2d": "a two-dimensional DenseNet over the image of slices by features",
  "seqconv": "a convolutional sequence encoder",
  "tcn": "a temporal convolutional network",
  "attention": "gated attention pooling",
  "transformer": "a transformer encoder",
  "mingru": "a minimal gated recurrent network (minGRU)",
  "minlstm": "a minimal gated recurrent network (minLSTM)",
  "lru": "a linear recurrent unit",
  "mean": "the mean over slices",
  "max": "the maximum over slices",
  "logsumexp": "the log-sum-exp over slices",
}
_SPLITS = ("train", "validation", "test")


def paragraphs(run: Run, split: str) -> dict[str, str]:
  """Returns what was done, by the heading of a methods section.

  Args:
    run: The run.
    split: Whose scores the page reports.
  """
  texts = {
    "Participants": _participants(run),
    "Images": _images(run),
    "Model": _model(run),
    "Training": _training(run),
    "Statistics": _statistics(run, split),
    "Software": _software(run),
  }
  return {heading: " ".join(text) for heading, text in texts.items()}


def counted(number: int, noun: str) -> str:
  """Writes a number with its noun.

  >>> counted(1, "scan"), counted(1200, "scan")
  ('1 scan', '1,200 scans')
  """
  return f"{number:,} {noun}{'' if number == 1 else 's'}"


def splits_of(run: Run) -> str:
  """Says how the groups came into their splits."""
  chosen = run.config["split"]
  groups = collections.defaultdict(set)
  for scan in run.scans:
    groups[scan["split"]].add(scan["group_id"])
  sizes = ", ".join(
    f"{len(groups[name])} for {name.replace('train', 'training')}"
    for name in _SPLITS
  )
  how = f"drawn at random within class and source with seed {chosen['seed']}"
  if chosen["source"]:
    how = f"those of source {chosen['source']} test, the others were {how}"
  else:
    if chosen["folds"]:
      how += f", fold {chosen['fold']} of {chosen['folds']}"
    how += ", unless the manifest's own columns say otherwise"
  return (
    "Groups of scans that belong to one participant were kept together and"
    f" divided into {sizes} ({how})."
  )


def _participants(run: Run) -> Iterator[str]:
  people = {s["participant_id"] for s in run.scans}
  yield (
    f"The cohort has {counted(len(run.scans), 'scan')} of"
    f" {counted(len(people), 'participant')}."
  )
  of_class = collections.defaultdict(set)
  for scan in run.scans:
    of_class[scan["class"] or "unlabelled"].add(scan["participant_id"])
  sources = sorted({s["source"] for s in run.scans if s["source"]})
  counts = ", ".join(f"{len(ids)} {k}" for k, ids in sorted(of_class.items()))
  yield f"Participants by class: {counts}."
  if sources:
    yield f"Sources: {', '.join(sources)}."
  yield splits_of(run)


def _images(run: Run) -> Iterator[str]:
  preparation = trained.preparation_of(run.model)  # of features: of images
  modalities = run.model["modalities"]
  yield f"Modalities: {', '.join(modalities)}."
  if len(modalities) > 1:
    yield {
      "none": "Those of a scan were laid upon each other by their scanner"
      " coordinates.",
      "rigid": "The others of a scan were moved onto the first by rigid"
      " registration.",
    }[preparation["registration"]]
  if preparation["template"]:
    yield (
      "Each scan was laid upon the template"
      f" {pathlib.PurePath(preparation['template']).name} by rigid"
      " registration, brain upon brain."
    )
  field = preparation["bias_field"]
  if field["method"] == "none":
    yield "The bias field was not corrected."
  else:
    source = "Tustison et al. 2010"
    if field["method"] == "n3":
      source += ", with the update of Sled et al. 1998"
    yield (
      f"The bias field was corrected by N4 ({source}; {field['method']}, voxels"
      f" of {field['grid_mm']:g} mm)."
    )
  height, width, _ = run.slice_shape
  brain = f"the brain and {preparation['margin_mm']:g} mm around it"
  where = {
    "none": "the whole image",
    "brain": brain,
    "region": "the suspicious region that thresholds find and a margin of"
    f" {preparation['region']['margin']:.0%} of its side (where none is found,"
    f" {brain})",
  }[preparation["crop"]]
  which = {
    "all": f"all {preparation['plane']} slices",
    "uniform": f"{preparation['num_slices']} equally spaced"
    f" {preparation['plane']} slices",
    "every": f"{preparation['plane']} slices every"
    f" {preparation['every_mm']:g} mm",
  }[preparation["slices"]]
  yield (
    f"Of {where}, {which} were kept at {height} × {width} pixels. Intensities"
    " were given zero mean and unit variance within the brain and clipped at"
    f" ±{preparation['intensity_limit']:g} standard deviations."
  )
  scale = run.config["data"]["intensity"]
  if scale != "zscore":
    which = {
      "nyul": "the deciles and the ends of its brain",
      "percentile": "the ends of its brain",
    }[scale]
    yield (
      f"Each scan's landmarks, {which}'s intensities, were then moved to a"
      " standard scale that was fitted on the training scans (Nyúl et al."
      " 2000)."
    )


def _model(run: Run) -> Iterator[str]:
  model = run.config["model"]
  encoder, head = model["encoder"], model["head"]
  fields = _fields(head)
  if run.reads_volumes:
    described = (
      "Each scan was read as a volume by a three-dimensional DenseNet"
      f" ({encoder['preset']}, kernels of 3 × 3 × 3)"
    )
  else:
    named = f"a DenseNet ({encoder['preset']})"
    if encoder["preset"] == "cnn2d":
      named = "a plain two-dimensional convolutional network"
    described = (
      f"Each slice was described by {named} and the sequence of slices read by"
      f" {_HEADS[head['name']]}{f' ({fields})' if fields else ''}"
    )
  yield (
    f"{described}, followed by dropout of {model['dropout']:g} and a"
    f" linear classifier: {run.model['num_parameters']:,} parameters,"
    f" computed in {model['dtype']}."
  )
  attention = {k: v for k, v in model["attention"].items() if v != "none"}
  if attention:
    yield f"Attention: {_fields(attention)}."
  if run.features:
    yield (
      "The encoder was fixed: the head was trained on the features of step"
      f" {run.features['step']} of {run.features['workdir']}."
    )
  elif model["init_from"]:
    yield f"Its weights started from {model['init_from']}."
  else:
    yield "Its weights were initialised at random."


def _training(run: Run) -> Iterator[str]:
  config = run.config
  train, optimizer, data = config["train"], config["optimizer"], config["data"]
  regular = (
    f"weight decay {optimizer['weight_decay']:g}"
    if optimizer["name"] in ("adamw", "lamb")
    else f"L2 penalty {optimizer['l2']:g}"
  )
  yield (
    f"It was trained with {optimizer['name']} (learning rate"
    f" {optimizer['learning_rate']:g}, {optimizer['schedule']};"
    f" {regular}) on {data['scans_per_step']} scans a step for at most"
    f" {counted(train['epochs'], 'epoch')}, or until the validation loss had"
    f" not fallen for {train['patience_epochs']}."
  )
  yield (
    f"Loss: {train['loss'].replace('_', ' ')}, class weights"
    f" {train['class_weights']}; sampling {data['sampling']}."
  )
  yield from _loss_extras(train)
  if optimizer["ema_decay"]:
    yield (
      "What answers, parameters and statistics of BatchNorm, is a running"
      f" average of those of the steps (decay {optimizer['ema_decay']:g})."
    )
  ranges = augmentation_figure.describe(config["augment"])
  yield f"Augmentation: {ranges or 'none'}."
  validations = [x for x in run.log if x.get("validation/loss") is not None]
  if validations:
    best = min(validations, key=lambda line: line["validation/loss"])
    yield (
      f"{validations[-1]['epoch']:g} epochs were run, and the parameters with"
      f" the lowest validation loss, after epoch {best['epoch']:g}, were kept."
    )
  yield f"One model was trained, with seed {train['seed']}."


def _loss_extras(train: Mapping[str, Any]) -> Iterator[str]:
  if train["objective"] == "joint":
    first, last = train["reconstruction_weights"]
    yield (
      f"The slices were reconstructed as well, a loss that weighed {first:g} at"
      f" first and {last:g} from epoch {train['anneal_epochs']} on."
    )
  if train["label_smoothing"]:
    yield f"Labels were smoothed by {train['label_smoothing']:g}."
  if train["logit_adjustment"]:
    yield (
      f"In training, {train['logit_adjustment']:g} times the logarithm of its"
      " class's frequency was added to each logit (Menon et al. 2021)."
    )
  if train["hard_negatives"]:
    yield (
      "Of the most frequent class, only the hardest"
      f" {train['hard_negatives']} for each other scan of a pack counted."
    )
  if train["mixup"]:
    yield (
      "The features of pairs of scans were mixed, in shares of Beta(a, a),"
      f" a = {train['mixup']:g}."
    )


def _statistics(run: Run, split: str) -> Iterator[str]:
  evaluation = run.config["eval"]
  yield (
    "A participant’s probabilities are those of the mean log-probability of"
    " the scans. Intervals are 95 % percentile intervals of"
    f" {evaluation['resamples']:,} bootstrap resamples of groups within class"
    f" (seed {evaluation['seed']})."
  )
  calibration = run.metrics.get(split, {}).get("calibration")
  if calibration:
    yield (
      "Logits were divided by a temperature of"
      f" {calibration['temperature']:.2f} (Guo et al. 2017), fitted on"
      f" {calibration['n']} participants of the validation split."
    )
    if calibration["threshold"] is not None:
      least = evaluation["least_sensitivity"]
      rule = "sum of sensitivity and specificity (Youden 1950)"
      if least:
        rule = f"specificity at a sensitivity of at least {least:g}"
      yield (
        "The operating point, a probability of"
        f" {calibration['threshold']:.3f}, has the highest {rule} there."
      )
  if baselines_figure.baseline_scores(run, split):
    yield (
      "Comparators were fitted by scikit-learn on the training split, with"
      " fixed settings."
    )
  if split != "test":
    yield f"The scores are of the {split} split; the test split was not used."


def _software(run: Run) -> Iterator[str]:
  made = run.environment
  names = ("brainjax", "python", "jax", "flax", "optax")
  versions = ", ".join(f"{n} {made[n]}" for n in names if n in made)
  devices = ", ".join(
    f"{count} × {name}"
    for name, count in collections.Counter(made["devices"]).items()
  )
  yield f"{versions}, on {devices}."
  if made["git_revision"]:
    yield f"Source revision {made['git_revision'][:12]}."


def _fields(fields: Mapping[str, Any]) -> str:
  """Writes the fields that are set and say more than how fast it runs."""
  return ", ".join(
    f"{name.replace('_', ' ')} {_value(value)}"
    for name, value in fields.items()
    if name not in ("name", "unroll") and value not in (None, False, 0, "")
  )


def _value(value: Any) -> str:
  if isinstance(value, Sequence) and not isinstance(value, str):
    return " ".join(map(str, value))
  return "yes" if value is True else str(value)
