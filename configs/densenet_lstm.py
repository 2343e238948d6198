"""Tumour typing with DenseNet and LSTM: meningioma, glioma, pituitary.

The recurrent system of the source paper (after Zhou et al. 2018, "Holistic
Brain Tumor Screening and Classification Based on DenseNet and RNN"): each
slice through one DenseNet, the sequence through an LSTM, one label a patient.

Time and score: see "Tumour typing on figshare" in the README.

Command:
  brainjax train --config=configs/densenet_lstm.py --workdir=runs/typing \
      --config.data.records=records
"""

from brainjax import config as config_lib


def get_config(arg=""):
  config = config_lib.get_config(f"head=lstm,{arg}")
  config.task.classes = (
    "meningioma: meningioma",
    "glioma: glioma",
    "pituitary: pituitary",
  )
  config.task.positive = ""
  config.preparation.slices = "all"
  config.preparation.crop = "none"
  return config
