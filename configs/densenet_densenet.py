"""Tumour typing with DenseNet and DenseNet: meningioma, glioma, pituitary.

The convolutional system of the source paper (after Zhou et al. 2018,
"Holistic Brain Tumor Screening and Classification Based on DenseNet and RNN"):
as configs/densenet_lstm.py, but a 1-D DenseNet reads the sequence of slices in
place of the LSTM.

Time and score: see "Tumour typing on figshare" in the README.

Command:
  brainjax train --config=configs/densenet_densenet.py \
      --workdir=runs/typing_densenet --config.data.records=records
"""

from brainjax import config as config_lib


def get_config(arg=""):
  config = config_lib.get_config(f"head=densenet1d,{arg}")
  config.task.classes = (
    "meningioma: meningioma",
    "glioma: glioma",
    "pituitary: pituitary",
  )
  config.task.positive = ""
  config.preparation.slices = "all"
  config.preparation.crop = "none"
  return config
