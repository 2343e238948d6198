"""Tumour typing by networks of the literature, in place of encoder and head.

`network=cnn2d` (the default) is a plain CNN that is trained from scratch on
slices, of the kind of Badza and Barjaktarovic 2020 (Applied Sciences 10:1999),
`network=densenet3d` a DenseNet that reads the scan as a volume (MONAI's
DenseNet with three dimensions, Huang et al. 2017), with the layers of
`--config.model.encoder.preset=small_3d`. All else is as in
configs/densenet_lstm.py. A densenet3d means something only where the slices of
a scan are a volume, which those of figshare are not.

Time and score: not measured on a public cohort.

Command:
  brainjax train --config=configs/comparators.py:network=cnn2d \
      --workdir=runs/typing_cnn2d --config.data.records=records
"""

from brainjax import config as config_lib


def get_config(arg=""):
  config = config_lib.get_config(f"network=cnn2d,{arg}")
  config.task.classes = (
    "meningioma: meningioma",
    "glioma: glioma",
    "pituitary: pituitary",
  )
  config.task.positive = ""
  config.preparation.slices = "all"
  config.preparation.crop = "none"
  return config
