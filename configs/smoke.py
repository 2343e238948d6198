"""Everything at its smallest: a run that ends within a minute on a CPU.

It proves that an installation works, nothing else.

Command:
  brainjax train --config=configs/smoke.py --workdir=runs/smoke \
      --config.data.records=records
"""

from brainjax import config as config_lib


def get_config(arg=""):
  config = config_lib.get_config(arg)
  config.preparation.bias_field.method = "none"
  config.preparation.height = 32
  config.preparation.width = 32
  config.preparation.num_slices = 6
  config.model.encoder.preset = "micro"
  if "hidden_size" in config.model.head:
    config.model.head.hidden_size = 16
  config.train.epochs = 3
  config.data.scans_per_step = 4
  return config
