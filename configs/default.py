"""The defaults: screening (normal against tumour), small DenseNet and a head.

`--config=configs/default.py:head=mean` chooses the sequence head. Every field
is documented in `brainjax/config.py`.

Time and score: not measured on a public cohort.

Command:
  brainjax train --config=configs/default.py --workdir=runs/default \
      --config.data.records=records
"""

from brainjax import config as config_lib


def get_config(arg=""):
  return config_lib.get_config(arg)
