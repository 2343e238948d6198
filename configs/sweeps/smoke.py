"""The smallest sweep: two learning rates of configs/smoke.py.

It proves that an installation works, nothing else.

Command:
  brainjax sweep --config=configs/sweeps/smoke.py --workdir=sweeps/smoke \
      --config.data.records=records
"""

from brainjax import config as config_lib
from brainjax.training import search


def get_config(arg=""):
  config = config_lib.get_config(arg)
  config.model.encoder.preset = "micro"
  config.model.head.hidden_size = 16
  config.train.epochs = 3
  config.data.scans_per_step = 4
  return config


def get_search():
  return search.Grid(fields={"optimizer.learning_rate": (1e-3, 1e-2)})
