"""Plain-numpy references of the pooling heads; see `test_heads.py`."""

import numpy as np

FIELDS = {
  "mean": {},
  "max": {},
  "max:projection": {"projection": 3},
  "logsumexp": {"temperature": 0.3},
  "attention": {"attention_size": 3},
  "attention:projection": {"projection": 6, "attention_size": 3},
}


def slow_mean(params, z, mask, positions_mm):
  rows = zip(z, mask, strict=True)
  return np.stack([row[m].sum(0) / max(m.sum(), 1) for row, m in rows])


def slow_max(params, z, mask, positions_mm):
  rows = zip(z, mask, strict=True)
  return np.stack([row[m].max(0) if m.any() else 0 * row[0] for row, m in rows])


def slow_logsumexp(params, z, mask, positions_mm):
  t = FIELDS["logsumexp"]["temperature"]
  features = np.zeros((len(z), z.shape[-1]))
  for b, (row, valid) in enumerate(zip(z, mask, strict=True)):
    if valid.any():
      features[b] = t * np.log(np.exp(row[valid] / t).mean(0))
  return features


def slow_attention(params, z, mask, positions_mm):
  features = np.zeros((len(z), z.shape[-1]))
  for b, (row, valid) in enumerate(zip(z, mask, strict=True)):
    exponentials = []
    for slice_ in row[valid]:
      content, gate = (
        slice_ @ params[name]["kernel"] + params[name]["bias"]
        for name in ("content", "gate")
      )
      gated = np.tanh(content) / (1 + np.exp(-gate))
      exponentials.append(np.exp(gated @ params["score"]["kernel"][:, 0]))
    for slice_, exponential in zip(row[valid], exponentials, strict=True):
      features[b] += exponential / sum(exponentials) * slice_
  return features


def projected(slow):
  """The reference of a head whose embeddings are first projected."""

  def slow_projected(params, z, mask, positions_mm):
    norm, dense = params["norm"], params["projection"]
    z = z @ dense["kernel"] + dense["bias"]
    z = z - z.mean(-1, keepdims=True)
    z /= np.sqrt(np.square(z).mean(-1, keepdims=True) + 1e-6)
    z = z * norm["scale"] + norm["bias"]
    return slow(params.get("head", {}), z, mask, positions_mm)

  return slow_projected


REFERENCES = {
  "mean": slow_mean,
  "max": slow_max,
  "max:projection": projected(slow_max),
  "logsumexp": slow_logsumexp,
  "attention": slow_attention,
  "attention:projection": projected(slow_attention),
}
