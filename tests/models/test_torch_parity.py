"""Recurrent heads against PyTorch: features and the gradient of each weight.

PyTorch is no dependency of brainjax; where it is installed, this runs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.heads import build_head

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

B, S, D, F = 4, 9, 7, 5
LENGTHS = np.array([9, 6, 1, 3])
CLASSES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def to_torch(params):
  """PyTorch's names and transposes; of its two biases, ours is the first.

  The GRU has the part of the second that its reset gate acts on.
  """
  weights = {}
  for name in params:
    if not name.startswith("bias"):
      continue
    suffix = name.removeprefix("bias")
    layer = suffix if suffix.startswith("_l") else "_l0" + suffix
    second = np.zeros(len(params[name]), np.float32)
    second[-F:] = params.get("recurrent_new_bias" + suffix, 0)
    weights["weight_ih" + layer] = params["input_kernel" + suffix].T
    weights["weight_hh" + layer] = params["recurrent_kernel" + suffix].T
    weights["bias_ih" + layer] = params[name]
    weights["bias_hh" + layer] = second
  return {name: np.asarray(weight) for name, weight in weights.items()}


def run_torch(head, name, params, z):
  """Features, and gradients of their sum of squares by PyTorch's weights."""
  rnn = CLASSES[name](
    D,
    F,
    num_layers=head.num_layers,
    bidirectional=head.bidirectional,
    batch_first=True,
  )
  weights = to_torch(params)
  rnn.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
  packed = torch.nn.utils.rnn.pack_padded_sequence(
    torch.tensor(z), LENGTHS, batch_first=True, enforce_sorted=False
  )
  states, last = rnn(packed)
  if head.readout == "mean":
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    features = padded.sum(1) / torch.tensor(LENGTHS)[:, None]
  else:
    hidden = last[0] if name == "lstm" else last
    features = torch.cat(list(hidden[-(1 + head.bidirectional) :]), -1)
  features.square().sum().backward()
  gradients = {k: v.grad.numpy() for k, v in rnn.named_parameters()}
  return features.detach().numpy(), gradients


@pytest.mark.parametrize(
  "fields",
  [
    {"name": "lstm"},
    {"name": "lstm", "bidirectional": True, "readout": "mean"},
    {"name": "lstm", "bidirectional": True, "num_layers": 2},
    {"name": "gru", "num_layers": 2},
  ],
  ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_recurrent_head_matches_torch(fields):
  head = build_head({"hidden_size": F, **fields})
  rng = np.random.default_rng(0)
  z = rng.normal(size=(B, S, D)).astype(np.float32)
  mask = np.arange(S) < LENGTHS[:, None]
  inputs = z, mask, np.zeros((B, S), np.float32)
  init = jax.jit(functools.partial(head.init, train=False))
  params = jax.tree.map(
    lambda leaf: leaf + rng.normal(size=leaf.shape, scale=0.1).astype("f"),
    init(jax.random.key(0), *inputs)["params"],
  )

  @functools.partial(jax.grad, has_aux=True)
  def gradient(params):
    features = head.apply({"params": params}, *inputs, train=False)
    return jnp.square(features).sum(), features

  gradients, features = jax.jit(gradient)(params)
  expected, expected_gradients = run_torch(head, fields["name"], params, z)
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)
  for weight, given in to_torch(gradients).items():
    wanted = expected_gradients[weight]
    if weight.startswith("bias_hh"):
      if fields["name"] == "lstm":
        continue
      given, wanted = given[-F:], wanted[-F:]
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4 * scale)
