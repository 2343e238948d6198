"""Learning rate, layers, width, optimiser and epochs of DenseNet and LSTM.

The fields are those that the source paper tunes (its section 4.5); the values
are ours. Screening, as in configs/default.py; `:head=gru` searches for a GRU.
The optimisers share a range of learning rates wide enough for all of them.

Time and score: not measured on a public cohort. It is 32 runs; with
`--executor=slurm`, as many at a time as `--jobs` says.

Command:
  brainjax sweep --config=configs/sweeps/lstm.py --workdir=sweeps/lstm \
      --config.data.records=records
"""

from brainjax import config as config_lib
from brainjax.training import search


def get_config(arg=""):
  return config_lib.get_config(arg)


def get_search():
  return search.Random(
    fields={
      "optimizer.learning_rate": search.LogUniform(3e-5, 3e-2),
      "model.head.num_layers": (1, 2, 3),
      "model.head.hidden_size": (64, 128, 256, 512),
      "optimizer.name": ("adam", "adamw", "sgd"),
      "train.epochs": (50, 100, 200),
    },
    n=32,
    seed=0,
    criterion="roc_auc",
  )
