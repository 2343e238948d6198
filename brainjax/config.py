"""Every default of brainjax, and how a command line changes one.

`get_config` is the one place where a default is written. Files in `configs/`
call it and change fields; the command line changes single fields after that
(`--config.optimizer.learning_rate=1e-3`). A config holds facts that a user
sets; whatever follows from them is derived in `training/experiment.py`.
"""

import ast
import difflib
import importlib.util
import json
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from brainjax import InputError

HEAD_DEFAULTS = {
  "lstm": {
    "hidden_size": 256,  # features of the recurrent state
    "num_layers": 1,  # layers
    "bidirectional": False,  # also read the slices backwards
    "readout": "last",  # "last" | "mean": state after, or over, all slices
    "unroll": 1,  # scan steps a loop body holds; speed only
  },
  "gru": {
    "hidden_size": 256,  # features of the recurrent state
    "num_layers": 1,  # layers
    "bidirectional": False,  # also read the slices backwards
    "readout": "last",  # "last" | "mean": state after, or over, all slices
    "unroll": 1,  # scan steps a loop body holds; speed only
  },
  "densenet1d": {
    "growth_rate": 32,  # channels a layer appends
    "block_config": (4, 4),  # layers of each block
    "num_init_features": 64,  # channels of the first convolution
  },
  "image2d": {
    "growth_rate": 12,  # channels a layer appends
    "block_config": (3, 6, 6, 3),  # layers of each block
    "num_init_features": 24,  # channels of the first convolution
    "permute_channels": False,  # the control: shuffle the embeddings' features
    "permutation_seed": 0,  # of that one shuffle
  },
  "seqconv": {
    "filters": (256, 384, 512),  # channels of each layer
    "kernel_size": 5,  # slices a kernel sees
  },
  "tcn": {
    "channels": 128,  # of every convolution
    "dilations": (1, 2, 4, 8),  # slices between taps, of each block
    "kernel_size": 3,  # taps of a kernel
    "dropout": 0.2,  # after every convolution
  },
  "attention": {
    "attention_size": 128,  # features from which a slice's weight is found
  },
  "transformer": {
    "head_size": 64,  # features of an attention head
    "num_heads": 4,  # attention heads
    "num_layers": 1,  # layers
  },
  "mingru": {
    "hidden_size": 256,  # features of the recurrent state
    "scan": "associative",  # "associative" | "sequential"; speed only
  },
  "minlstm": {
    "hidden_size": 256,  # features of the recurrent state
    "scan": "associative",  # "associative" | "sequential"; speed only
  },
  "lru": {
    "hidden_size": 256,  # features, and complex numbers of the state
    "scan": "associative",  # "associative" | "sequential"; speed only
  },
  "mean": {},
  "max": {},
  "logsumexp": {
    "temperature": 0.2,  # towards 0: the maximum; large: the mean
  },
}

# "paper" is Table 2 of the source paper, decoded (see configs/paper.py); "sane"
# goes further where anatomy allows. Pixels are those of a side of 128.
AUGMENT_PRESETS = {
  "none": {
    "flip": False,
    "rotation_degrees": 0.0,
    "scale": 0.0,
    "translation": 0.0,
  },
  "paper": {
    "flip": True,
    "rotation_degrees": 0.0,
    "scale": 0.0,
    "translation": 25 / 128,
  },
  "sane": {
    "flip": True,
    "rotation_degrees": 15.0,
    "scale": 0.1,
    "translation": 8 / 128,
    "shear_degrees": 1.0,
    "elastic_alpha": 4 / 128,
    "elastic_sigma": 8 / 128,
    "bias_field": 0.3,
    "gamma": (0.7, 1.5),
    "noise": 0.05,
  },
}


# The comparators: networks of the literature, in place of encoder and head.
NETWORKS = ("cnn2d", "densenet3d")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the default configuration.

  Args:
    arg: Variants as `key=value`, joined by commas. `head=NAME` chooses the
      sequence head with its default fields, `augment=NAME` one of
      `AUGMENT_PRESETS`, `network=NAME` one of `NETWORKS` in place of all.

  Raises:
    InputError: `arg` names an unknown variant, head, preset or network.
  """
  variants = _parse_variants(arg, allowed=("head", "augment", "network"))
  head = variants.get("head", "lstm")
  if "network" in variants and variants.get("head", "mean") != "mean":
    raise InputError(
      f"head={head}: network={variants['network']} stands in the place of"
      " encoder and head; leave out one of the two"
    )
  if head not in HEAD_DEFAULTS:
    raise InputError(
      f"head={head}: no such head; choose one of {sorted(HEAD_DEFAULTS)}"
    )
  config = ml_collections.ConfigDict()

  config.task = task = ml_collections.ConfigDict()
  task.classes = (  # "name: label, label"; the order is the class index
    "normal: normal",
    "tumour: glioma, meningioma, metastasis",
  )
  task.positive = "tumour"  # positive class of a binary task, else ""
  task.negative = ""  # of more classes, the one without a tumour; "" = unsaid
  task.ignore = ()  # labels of scans to leave out

  config.split = split = ml_collections.ConfigDict()
  split.fractions = (0.6, 0.2, 0.2)  # of groups: train, validation, test
  split.folds = 0  # k >= 3: cross-validation, instead of the fractions
  split.fold = 0  # the test fold; the next one is the validation fold
  split.source = ""  # the source that tests, all others train; "" = none
  split.seed = 0  # of the assignment of groups

  config.preparation = preparation = ml_collections.ConfigDict()
  preparation.modalities = ()  # image columns, the channels; () = all
  preparation.bias_field = ml_collections.ConfigDict()
  # N4 "jax" | "n3" (in JAX, with N3's update) | "sitk" (SimpleITK's N4: the
  # same field as "jax", far slower) | "none"
  preparation.bias_field.method = "jax"  # of correcting volumes
  preparation.bias_field.grid_mm = 4.0  # voxels it is estimated on, millimetres
  preparation.bias_field.iterations = (50, 50, 50, 50)  # at most, of each level
  preparation.bias_field.tolerance = 1e-3  # change at which a level ends
  # "none", by their scanner coordinates, or "rigid": the motion is looked for
  preparation.registration = "none"  # of other modalities to the first
  # A head to lay each scan upon, turned and shifted: "mni152" or a NIfTI file
  preparation.template = ""  # "" = scans stay on their own grids
  preparation.template_sha256 = ""  # of it; `prepare` fills it in
  preparation.plane = "axial"  # "axial" | "coronal" | "sagittal"
  preparation.height = 128  # pixels
  preparation.width = 128  # pixels
  preparation.pixel_mm = 0.0  # side of a pixel; 0 = what the crop needs
  preparation.crop = "brain"  # "brain" | "region" | "none"
  preparation.margin_mm = 5.0  # kept around the brain, millimetres
  # Of crop="region", the source paper's search; where it finds nothing, and in
  # 2-D images, the crop is "brain".
  preparation.region = ml_collections.ConfigDict()
  preparation.region.margin = 0.25  # kept around it, fraction of its side
  preparation.region.relative = True  # thresholds: to the largest z-score
  preparation.region.flair = 0.7  # threshold of a slice of FLAIR
  preparation.region.t2 = 0.7  # of T2
  preparation.region.t1c = 0.9  # of T1 with contrast agent
  preparation.region.solidity = 0.7  # of an object, its share of its hull
  preparation.region.area_mm2 = 500.0  # of an object, square millimetres
  preparation.region.length_mm = 35.0  # of an object, and of the crop
  preparation.region.overlap_mm2 = 20.0  # bright in FLAIR and T2 as well
  preparation.slices = "uniform"  # "all" | "uniform" | "every"
  preparation.num_slices = 24  # of "uniform", equally spaced
  preparation.every_mm = 5.0  # of "every", millimetres
  preparation.intensity_limit = 5.0  # clip of the z-score, standard deviations
  preparation.dtype = "u8"  # "u8" | "i16": integers stored in a record
  preparation.shard_scans = 64  # manifest rows a shard file holds

  config.data = data = ml_collections.ConfigDict()
  data.records = ""  # folder that `brainjax prepare` wrote
  # "zscore", of each scan alone; "nyul" and "percentile" move landmarks of its
  # brain to a standard scale, fitted on the training scans
  data.intensity = "zscore"  # of images; the others only to classify
  # "natural": each scan once an epoch; "class": all classes as often, counted
  # by participants; "source": all pairs of a source and a class as often
  data.sampling = "natural"  # of training scans
  data.scans_per_step = 16  # scans an optimizer step sees, on average
  # Unset = within 5 % of what the line above asks for, where there is least
  # filler. It stays what the first start of a run derived.
  data.steps_per_epoch = config_dict.placeholder(int)  # 0 = the nearest to it
  data.packs = config_dict.placeholder(int)  # G; unset = one a device
  data.pack_slices = config_dict.placeholder(int)  # N; unset = derived
  data.read_threads = 2  # threads that read and pack batches
  data.prefetch_steps = 2  # batches kept ready
  # "resident" (training slices stay on the devices) | "streaming" | "auto"
  data.mode = "auto"  # resident on an accelerator with room, else streaming
  data.resident_gb = config_dict.placeholder(float)  # a device; unset = 30 %

  config.augment = augment = ml_collections.ConfigDict()
  augment.flip = True  # left-right, half of the scans
  augment.rotation_degrees = 10.0  # uniform in +-, in-plane
  augment.scale = 0.1  # uniform in 1 +- scale
  augment.translation = 0.05  # uniform in +-, fraction of the image side
  augment.stretch = 0.0  # height against width, uniform in 1 +- stretch
  augment.shear_degrees = 0.0  # uniform in +-, of rows and of columns
  augment.perspective = 0.0  # scale at the edges, uniform in 1 +- perspective
  augment.crop = 0.0  # window cut out, uniform in 1 - crop to 1 of a side
  augment.elastic_alpha = 0.0  # largest displacement, fraction of the side
  augment.elastic_sigma = 0.0625  # smoothness of that, fraction of the side
  augment.fill_value = 0.0  # z-score outside the image; 0 is the background
  augment.bias_field = 0.0  # largest logarithm of a field, uniform in 0 to it
  augment.gamma = (1.0, 1.0)  # exponent of the intensity, uniform between
  augment.noise = 0.0  # uniform in 0 to it, standard deviations of the brain
  if "augment" in variants:
    augment.update(_augment_preset(variants["augment"]))

  config.model = model = ml_collections.ConfigDict()
  model.encoder = ml_collections.ConfigDict()
  # "micro" | "tiny" | "small", and torchvision's "densenet121" | "densenet169"
  # | "densenet201" | "densenet161"; the comparators: "cnn2d", a plain CNN, and
  # any of the others with "_3d", which reads a scan as a volume, with head mean
  model.encoder.preset = "small"  # layers and channels
  model.encoder.statistics = "batch"  # or "pack", "frozen": what BatchNorm uses
  model.encoder.residuals = "fast"  # or "small": less memory, more time
  # For volumes that do not fit; a chunk has BatchNorm statistics of its own.
  model.encoder.chunk_slices = 0  # of a pack, encoded at a time; 0 = all
  model.init_from = ""  # workdir, or file of weights; "" = from scratch
  model.head = ml_collections.ConfigDict({"name": head})
  model.head.projection = 0  # features embeddings are first reduced to; 0 = no
  model.head.budget = config_dict.placeholder(int)  # parameters; sets the width
  model.head.update(HEAD_DEFAULTS[head])
  model.attention = ml_collections.ConfigDict()
  # "none" | "distance" | "distance_fixed", and the controls "se" | "cbam"
  # | "coordconv"
  model.attention.in_plane = "none"  # to places of the last feature map
  model.attention.slice_axis = "none"  # to slices: "none" | "distance"
  model.decoder = ml_collections.ConfigDict()  # unless train.objective=classify
  model.decoder.code_channels = 64  # of each place of the last feature map
  model.decoder.widths = (256, 128, 64, 32, 16)  # channels, small to large
  # "flat" | "hierarchical": tumour or task.negative, then which tumour
  model.output = "flat"  # how classes are told apart
  model.dropout = 0.5  # of the head's features, before the classifier
  model.dtype = "float32"  # of the computation; parameters stay float32

  config.optimizer = optimizer = ml_collections.ConfigDict()
  optimizer.name = "adam"  # "adam" | "adamw" | "sgd" | "lamb"
  optimizer.learning_rate = 3e-4  # the highest of the schedule
  # "MODULE: factor" of that; the first that fits counts; 0 = it stays as it is;
  # for example ("encoder/denseblock1: 0", "encoder: 0.1")
  optimizer.rates = ()  # see training/rates.py
  optimizer.b1 = 0.9  # decay of the gradient's mean; not of "sgd"
  optimizer.b2 = 0.99  # decay of the squared gradient's mean; not of "sgd"
  optimizer.epsilon = 1e-8  # added to the root of the squared gradient's mean
  optimizer.momentum = 0.9  # of "sgd": decay of the sum of gradients
  optimizer.nesterov = False  # of "sgd": look one step ahead
  optimizer.l2 = 1e-4  # of "adam", "sgd": times kernels, added to the gradient
  optimizer.weight_decay = 0.01  # of "adamw", "lamb": of kernels, decoupled
  optimizer.clip = "none"  # "none" | "global_norm" | "array_norm"
  optimizer.clip_norm = 1.0  # the gradient's largest norm: of all, or an array
  optimizer.schedule = "constant"  # "constant" | "cosine" | "step"
  optimizer.warmup_epochs = 0.0  # of a linear rise; may be a fraction
  optimizer.final_rate = 0.01  # of "cosine": times learning_rate, at the end
  optimizer.decay_epochs = 10.0  # of "step": from drop to drop
  optimizer.decay_factor = 0.1  # of "step": of each drop
  optimizer.ema_decay = 0.0  # of a running average of the weights; 0 = none

  config.train = train = ml_collections.ConfigDict()
  train.seed = 0  # of initialisation, data order, dropout and augmentation
  train.epochs = 100  # at most
  train.objective = "classify"  # "classify" | "reconstruct" | "joint"
  train.reconstruction_weights = (1.0, 0.01)  # of "joint": first and last
  train.anneal_epochs = 20  # from the first to the last, linearly
  train.patience_epochs = 15  # without a lower validation loss; 0 = never stop
  train.class_weights = "inverse"  # "inverse" | "median" | "effective" | "none"
  train.loss = "cross_entropy"  # "cross_entropy" | "focal"
  train.focal_gamma = 2.0  # of "focal": how little easy scans count
  train.label_smoothing = 0.0  # share of a label that all classes get alike
  train.logit_adjustment = 0.0  # times a class's log frequency, in training
  # The hardest of the most frequent class, for each other scan of a pack
  train.hard_negatives = 0  # scans kept; 0 = all
  train.mixup = 0.0  # a of Beta(a, a), of the head's features; 0 = no mixing
  train.accumulation = 1  # parts of a step, one after another, each G / parts
  train.log_every_steps = 10  # and at the end of every epoch
  train.non_finite = "stop"  # "stop" | "skip" a step whose loss is not finite
  train.most_skipped = 10  # such steps in a row; one more ends the run
  train.tensorboard = False  # also write event files; needs tensorboardX
  train.profile_steps = ()  # first and last of this start to trace; () = none

  config.checkpoint = checkpoint = ml_collections.ConfigDict()
  checkpoint.every_epochs = 1  # the best is always saved
  checkpoint.keep = 2  # latest ones; the best is kept as well

  config.mesh = mesh = ml_collections.ConfigDict()
  mesh.devices = config_dict.placeholder(int)  # unset = all that jax sees
  mesh.slice_devices = 1  # of them, that share the slices of a pack
  mesh.parallelism = "jit"  # | "pmap": one process, whole packs

  config.ablation = ablation = ml_collections.ConfigDict()
  # Declared before anything is trained; refused when changed afterwards.
  ablation.primary = ("lstm", "densenet1d")  # the heads whose difference counts
  ablation.metric = "roc_auc"  # the metric it is of; more is better
  ablation.margin = 0.02  # a smaller difference of it does not matter
  ablation.budget = 500_000  # parameters of each head; model.head.budget wins
  # Tried in each fold, for the lowest validation loss; () = the optimizer's
  ablation.learning_rates = ()  # the highest of the schedule

  config.eval = evaluation = ml_collections.ConfigDict()
  evaluation.resamples = 2000  # bootstrap resamples of an interval
  evaluation.seed = 0  # of the bootstrap
  # Of the operating point, on validation; 0 = highest sum with specificity
  evaluation.least_sensitivity = 0.0  # of a binary task, from 0 to 1
  config.lock()
  if "network" in variants:
    set_network(config, variants["network"])
  return config


def set_network(config: ml_collections.ConfigDict, name: str) -> None:
  """Puts a comparator in the place of encoder and head.

  It starts at random and goes without attention. "cnn2d" is a plain CNN of the
  slices, whose mean is classified, "densenet3d" a DenseNet of the volume with
  as many layers and channels as the encoder of slices had.

  Args:
    config: To change.
    name: One of `NETWORKS`.

  Raises:
    InputError: There is no such network.
  """
  if name not in NETWORKS:
    raise InputError(
      f"network={name}: no such network; choose one of {list(NETWORKS)}"
    )
  model = config.model
  of_volumes = f"{model.encoder.preset.removesuffix('_3d')}_3d"
  preset = of_volumes if name == "densenet3d" else name
  model.encoder.update({"preset": preset, "chunk_slices": 0})
  model.update({"init_from": ""})
  model.attention.update({"in_plane": "none", "slice_axis": "none"})
  config.optimizer.update({"rates": ()})
  config.train.update({"objective": "classify"})
  with config.unlocked():
    model.head = ml_collections.ConfigDict({"name": "mean", "projection": 0})
    model.head.update({"budget": config_dict.placeholder(int)})


def reads_volumes(preset: str) -> bool:
  """Whether an encoder describes a scan as a whole, and not its slices.

  >>> reads_volumes("small_3d"), reads_volumes("small")
  (True, False)
  """
  return preset.endswith("_3d")


def network_of(model: Mapping[str, Any]) -> str:
  """Names the comparator of a section `model`; "" if it is none."""
  preset = model["encoder"]["preset"]
  if reads_volumes(preset):
    return "densenet3d"
  plain = preset == "cnn2d" and model["head"]["name"] == "mean"
  return "cnn2d" if plain else ""


def load_config(
  spec: str, overrides: Iterable[str] = ()
) -> ml_collections.ConfigDict:
  """Loads `FILE[:arg]` and applies `section.field=value` overrides.

  Args:
    spec: Path of a Python file with `get_config(arg)`, and its argument.
    overrides: `section.field=value` strings, applied in order.

  Returns:
    The locked configuration.

  Raises:
    InputError: The file, a key or a value is wrong.
  """
  module, arg = load_module(spec)
  config = module.get_config(arg)
  for override in overrides:
    set_field(config, override)
  return config.lock()


def load_module(spec: str) -> tuple[types.ModuleType, str]:
  """Runs the file of `FILE[:arg]`; returns what it defines, and the argument.

  Raises:
    InputError: There is no such file, or it does not define `get_config`.
  """
  path, _, arg = spec.partition(":")
  file = pathlib.Path(path)
  if not file.is_file():
    raise InputError(f"{path}: no such config file")
  module_spec = importlib.util.spec_from_file_location(file.stem, file)
  if module_spec is None or module_spec.loader is None:
    raise InputError(f"{path}: a config must be a Python file")
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise InputError(f"{path}: it does not define get_config(arg)")
  return module, arg


def set_field(config: ml_collections.ConfigDict, override: str) -> None:
  """Sets one existing field from `section.field=value`.

  Values are Python literals; a bare word is a string. Lists become tuples.

  >>> config = get_config()
  >>> set_field(config, "optimizer.learning_rate=1e-3")
  >>> config.optimizer.learning_rate
  0.001

  Raises:
    InputError: The field does not exist (the nearest one is named), or the
      value has the wrong type.
  """
  key, equals, text = override.partition("=")
  if not equals:
    raise InputError(f"--config.{override}: write --config.{key}=VALUE")
  fields = leaf_fields(config)
  if key not in fields:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
    raise InputError(
      f"--config.{key}: no such field; did you mean --config.{near[0]}?"
    )
  try:
    value: Any = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text
  if isinstance(value, list):
    value = tuple(value)
  if isinstance(fields[key], str):
    value = text
  *sections, field = key.split(".")
  section = config
  for name in sections:
    section = section[name]
  try:
    section[field] = value
  except TypeError:
    wanted = section.get_type(field).__name__
    raise InputError(
      f"--config.{key}={text}: the value must be of type {wanted}"
    ) from None


def leaf_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns every field by its dotted name, sections flattened."""
  fields = {}
  for key in config:
    value = config[key]
    if isinstance(value, ml_collections.ConfigDict):
      nested = leaf_fields(value)
      fields.update({f"{key}.{name}": leaf for name, leaf in nested.items()})
    else:
      fields[key] = value
  return fields


def to_json(config: ml_collections.ConfigDict) -> str:
  """Returns the configuration as indented JSON with sorted keys."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def parse_classes(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Reads `task.classes` into {class name: labels}, in class order.

  >>> parse_classes(("normal: normal", "tumour: glioma, meningioma"))
  {'normal': ('normal',), 'tumour': ('glioma', 'meningioma')}

  Raises:
    InputError: An entry is malformed, or a label stands in two classes.
  """
  parsed: dict[str, tuple[str, ...]] = {}
  owner: dict[str, str] = {}
  for entry in classes:
    name, colon, labels = entry.partition(":")
    name = name.strip()
    members = tuple(label.strip() for label in labels.split(","))
    if not colon or not name or not all(members):
      raise InputError(
        f"config.task.classes: {entry!r} is not of the form"
        " 'name: label, label'"
      )
    if name in parsed:
      raise InputError(f"config.task.classes: class {name!r} stands twice")
    for label in members:
      if label in owner:
        raise InputError(
          f"config.task.classes: label {label!r} stands in class"
          f" {owner[label]!r} and in class {name!r}"
        )
      owner[label] = name
    parsed[name] = members
  if len(parsed) < 2:
    raise InputError("config.task.classes: name at least two classes")
  return parsed


def _augment_preset(name: str) -> dict[str, Any]:
  if name not in AUGMENT_PRESETS:
    raise InputError(
      f"augment={name}: no such preset; choose one of {list(AUGMENT_PRESETS)}"
    )
  return AUGMENT_PRESETS[name]


def _parse_variants(arg: str, *, allowed: Sequence[str]) -> dict[str, str]:
  variants = {}
  for pair in filter(None, arg.split(",")):
    key, equals, value = pair.partition("=")
    if not equals or key not in allowed:
      raise InputError(
        f"config variant {pair!r}: write one of"
        f" {[f'{name}=VALUE' for name in allowed]}"
      )
    variants[key] = value
  return variants
