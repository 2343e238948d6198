"""Training in two phases: balanced classes first, true frequencies second.

The encoder and the head learn from epochs in which every class is as frequent
as any other; then all of it stays as it is but the classifier, which learns
anew how frequent the classes are (Havaei et al. 2017, arXiv:1505.03540, there
with patches).

  phase=1  everything, with balanced sampling
  phase=2  the classifier, with each scan once an epoch

`--config=configs/two_phase.py:phase=2,head=gru` chooses a head too; phase 2
starts from the first run, `--config.model.init_from`. The reverse, features
from true frequencies and a balanced classifier (cRT; Kang et al. 2020,
arXiv:1910.09217), is the same with `--config.data.sampling=natural` in phase 1
and `--config.data.sampling=class` in phase 2.

Time and score: not measured on a public cohort.

Commands:
  brainjax train --config=configs/two_phase.py:phase=1 --workdir=runs/phase1 \
      --config.data.records=records
  brainjax train --config=configs/two_phase.py:phase=2 --workdir=runs/phase2 \
      --config.data.records=records --config.model.init_from=runs/phase1
"""

from brainjax import InputError
from brainjax import config as config_lib


def get_config(arg=""):
  pairs = [pair for pair in arg.split(",") if pair]
  chosen = [pair for pair in pairs if pair.startswith("phase=")]
  phase = (chosen or ["phase=1"])[-1].removeprefix("phase=")
  if phase not in ("1", "2"):
    raise InputError(f"phase={phase}: choose 1 or 2")
  rest = ",".join(pair for pair in pairs if pair not in chosen)
  config = config_lib.get_config(rest)
  config.train.class_weights = "none"
  if phase == "1":
    config.data.sampling = "class"
  else:
    config.optimizer.rates = ("classifier: 1", ".*: 0")
    config.model.encoder.statistics = "frozen"
  return config
