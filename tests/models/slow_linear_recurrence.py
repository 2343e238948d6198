"""Plain-numpy references of the linear recurrences; see `test_heads.py`."""

import numpy as np
from scipy import special

FIELDS = {
  "mingru": {"hidden_size": 6, "scan": "associative"},
  "mingru:sequential": {"hidden_size": 6, "scan": "sequential"},
  "minlstm": {"hidden_size": 6, "scan": "associative"},
  "lru": {"hidden_size": 6, "scan": "associative"},
  "lru:sequential": {"hidden_size": 6, "scan": "sequential"},
}


def log_positive(x):
  """The logarithm of the positive candidate state."""
  return np.where(x >= 0, np.log(np.maximum(x, 0) + 0.5), -np.logaddexp(0, -x))


def slow_log_space(log_coefficients):
  """All states at once, as the paper's appendix has it."""

  def slow(params, z, mask, positions_mm):
    kernel, bias = params["gates"]["kernel"], params["gates"]["bias"]
    log_decay, log_increment = log_coefficients(z @ kernel + bias)
    features = np.zeros((len(z), log_decay.shape[-1]))
    for b, valid in enumerate(mask):
      if valid.any():
        total = np.cumsum(log_decay[b, valid], 0)
        terms = log_increment[b, valid] - total
        features[b] = np.exp(total[-1] + special.logsumexp(terms, axis=0))
    return features

  return slow


def mingru_coefficients(gates):
  update, candidate = np.split(gates, 2, -1)
  log_decay = -np.logaddexp(0, update)
  return log_decay, -np.logaddexp(0, -update) + log_positive(candidate)


def minlstm_coefficients(gates):
  """With the plain quotients."""
  forget, input_, candidate = np.split(gates, 3, -1)
  forget, input_ = special.expit(forget), special.expit(input_)
  log_increment = np.log(input_ / (forget + input_)) + log_positive(candidate)
  return np.log(forget / (forget + input_)), log_increment


def slow_lru(params, z, mask, positions_mm):
  """Step by step, with complex matrices."""

  def complex_kernel(name, axis):
    real, imaginary = np.split(params[name]["kernel"], 2, axis)
    return real + 1j * imaginary

  logs = params["recurrence"]
  decay = np.exp(-np.exp(logs["nu"]) + 1j * np.exp(logs["theta"]))
  reads = complex_kernel("input", 1)
  writes = complex_kernel("output", 0).conj()
  size = len(decay)
  features = np.zeros((len(z), size))
  for b, (row, valid) in enumerate(zip(z, mask, strict=True)):
    state = np.zeros(size, complex)
    for slice_ in row[valid]:
      x = slice_ @ params["embed"]["kernel"] + params["embed"]["bias"]
      y = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
      y = y * params["norm"]["scale"] + params["norm"]["bias"]
      state = decay * state + np.exp(logs["gamma"]) * (y @ reads)
      y = (state @ writes).real + params["feedthrough"] * y
      y = y * (1 + special.erf(y / np.sqrt(2))) / 2
      glu = y @ params["glu"]["kernel"] + params["glu"]["bias"]
      x = x + glu[:size] * special.expit(glu[size:])
      features[b] += x / valid.sum()
  return features


_SLOW = {
  "mingru": slow_log_space(mingru_coefficients),
  "minlstm": slow_log_space(minlstm_coefficients),
  "lru": slow_lru,
}
REFERENCES = {key: _SLOW[key.partition(":")[0]] for key in FIELDS}
