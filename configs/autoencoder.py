"""Typing with an auto-encoder: its features, or a network trained at once.

The source paper (after Zhou et al. 2018) trains a DenseNet as an auto-encoder
and lets an LSTM read its features, but never tests whether that helps. Here
are the steps of it, and what to hold it against:

  regime=pretrain    encoder and decoder learn to reconstruct slices
  regime=ae_frozen   a head learns from that encoder, which stays as it is
  regime=ae_tuned    the encoder goes on learning, at a tenth of the rate
  regime=ae_joint    classification and reconstruction are learned at once
  regime=supervised  no decoder, from scratch

`--config=configs/autoencoder.py:regime=ae_frozen,head=gru` chooses a head too.
ae_frozen and ae_tuned start from the first run, `--config.model.init_from`.

Time and score: see "The auto-encoder" in the README.

Commands:
  brainjax train --config=configs/autoencoder.py --workdir=runs/pretrained \
      --config.data.records=records
  brainjax train --config=configs/autoencoder.py:regime=ae_frozen \
      --workdir=runs/ae_frozen --config.data.records=records \
      --config.model.init_from=runs/pretrained
"""

from brainjax import InputError
from brainjax import config as config_lib

REGIMES = ("pretrain", "ae_frozen", "ae_tuned", "ae_joint", "supervised")


def get_config(arg=""):
  pairs = [pair for pair in arg.split(",") if pair]
  chosen = [pair for pair in pairs if pair.startswith("regime=")]
  regime = (chosen or ["regime=pretrain"])[-1].removeprefix("regime=")
  if regime not in REGIMES:
    raise InputError(f"regime={regime}: choose one of {list(REGIMES)}")
  rest = ",".join(pair for pair in pairs if pair not in chosen)
  config = config_lib.get_config(rest)
  config.task.classes = (
    "meningioma: meningioma",
    "glioma: glioma",
    "pituitary: pituitary",
  )
  config.task.positive = ""
  config.preparation.slices = "all"
  config.preparation.crop = "none"
  if regime == "pretrain":
    config.train.objective = "reconstruct"
  elif regime == "ae_joint":
    config.train.objective = "joint"
  elif regime == "ae_frozen":
    config.model.encoder.statistics = "frozen"
    config.optimizer.rates = ("encoder: 0",)
  elif regime == "ae_tuned":
    config.optimizer.rates = ("encoder: 0.1",)
  return config
