"""Plain-numpy references of the recurrent heads; see `test_heads.py`."""

import functools

import numpy as np

FIELDS = {
  "lstm": {"hidden_size": 6, "unroll": 2},
  "gru": {"hidden_size": 6, "unroll": 2},
  "lstm:bidirectional": {"hidden_size": 3, "bidirectional": True},
  "gru:deep": {
    "hidden_size": 3,
    "num_layers": 2,
    "bidirectional": True,
    "readout": "mean",
  },
}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def lstm_states(params, suffix, sequence):
  size = len(params["recurrent_kernel"])
  cell = hidden = np.zeros(size)
  states = []
  for inputs in sequence:
    gates = inputs @ params["input_kernel" + suffix] + params["bias" + suffix]
    gates += hidden @ params["recurrent_kernel" + suffix]
    i, f, g, o = gates.reshape(4, size)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    states.append(hidden)
  return states


def gru_states(params, suffix, sequence):
  w_r, w_u, w_n = np.split(params["input_kernel" + suffix], 3, axis=1)
  u_r, u_u, u_n = np.split(params["recurrent_kernel" + suffix], 3, axis=1)
  b_r, b_u, b_n = np.split(params["bias" + suffix], 3)
  hidden = np.zeros(len(u_n))
  states = []
  for inputs in sequence:
    reset = sigmoid(inputs @ w_r + hidden @ u_r + b_r)
    update = sigmoid(inputs @ w_u + hidden @ u_u + b_u)
    new = hidden @ u_n + params["recurrent_new_bias" + suffix]
    new = np.tanh(inputs @ w_n + b_n + reset * new)
    hidden = (1 - update) * new + update * hidden
    states.append(hidden)
  return states


def slow_recurrent(
  params,
  z,
  mask,
  positions_mm,
  *,
  states_of,
  hidden_size,
  unroll=1,
  num_layers=1,
  bidirectional=False,
  readout="last",
):
  """Row by row, and without the slices that are masked."""
  features = np.zeros((len(z), hidden_size * (1 + bidirectional)))
  for b, row in enumerate(z):
    sequence = row[mask[b]]
    if not len(sequence):
      continue
    for suffix in ["", *(f"_l{i}" for i in range(1, num_layers))]:
      directions = [states_of(params, suffix, sequence)]
      last = [directions[0][-1]]
      if bidirectional:
        backwards = states_of(params, suffix + "_reverse", sequence[::-1])
        directions.append(backwards[::-1])
        last.append(backwards[-1])
      sequence = np.concatenate(directions, -1)
    features[b] = (
      sequence.mean(0) if readout == "mean" else np.concatenate(last)
    )
  return features


STATES = {"lstm": lstm_states, "gru": gru_states}
REFERENCES = {
  key: functools.partial(
    slow_recurrent, states_of=STATES[key.partition(":")[0]], **fields
  )
  for key, fields in FIELDS.items()
}
