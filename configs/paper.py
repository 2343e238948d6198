"""The source paper's options as printed, its Tables 2 and 3 decoded.

Table 3 is the print-out of MATLAB's `TrainingOptionsADAM`; the label of the
mini-batch size and the value of Shuffle were lost, so the seven rows between
are off by one. Table 2 is that of `imageDataAugmenter`, which is 2-D: its rows
named Z do not exist, and its ranges have three numbers where MATLAB has two.
Comments below give the printed row, then the option it must be.

Not copied, and why:
  Validation every 3 iterations with a patience of 5 of them: training could end
    after 15 steps. Here it is after each epoch, and patience counts epochs.
  Augmented validation data: the score would depend on the draw.
  Padding to the longest sequence with 0: MATLAB's LSTM runs through it and
    reads its last state. Here padding changes nothing.
  Shuffle: the value is lost; here every epoch has its own order.
Not in the paper: depth of the DenseNet, width of the LSTM, size of the images,
dropout and splits. They are the defaults of `brainjax/config.py`.

Time and score: not measured on a public cohort.

Command:
  brainjax train --config=configs/paper.py --workdir=runs/paper \
      --config.data.records=records
"""

from brainjax import config as config_lib


def get_config(arg=""):
  # Table 2 is the preset: RandXReflection 1, RandYReflection 0; Rand*Scale of 0
  # and 1, where 0 would leave no image, is none, and Rand*Shear likewise;
  # Rand*Translation is +-25 pixels in-plane; FillValue 0; no row of a rotation,
  # though the text has one.
  config = config_lib.get_config(f"head=lstm,augment=paper,{arg}")
  config.preparation.num_slices = 6  # text: six of each, equally spaced

  # Table 3.
  optimizer = config.optimizer
  optimizer.name = "adam"  # the options' type; the text says SGD
  optimizer.b1 = 0.9  # Gradient Decay Factor 0.9
  optimizer.b2 = 0.99  # Squared Gradient Decay Factor 0.99
  optimizer.epsilon = 1e-8  # Epsilon 1.0000e=08
  optimizer.learning_rate = 3e-4  # Initial Learn Rate 3e-4
  optimizer.schedule = "constant"  # no row of LearnRateSchedule: 'none'
  optimizer.l2 = 1e-4  # L2 Regularization 1e-4: coupled, weights only
  # Gradient Threshold Method '12norm', 'l2norm': what `clip="array_norm"` is;
  # but Gradient Threshold Inf: never
  optimizer.clip = "none"
  config.train.epochs = 100  # Max Epochs 100
  config.data.scans_per_step = 11  # Verbose 64, MiniBatchSize: slices, 6 a scan
  config.train.log_every_steps = 50  # Validation Data 50, VerboseFrequency
  config.train.patience_epochs = 5  # Shuffle 5, ValidationPatience
  config.train.class_weights = "none"  # no row of them
  return config
