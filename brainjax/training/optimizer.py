"""The optimizer: Adam with coupled L2, as the source paper's Table 3 prints.

MATLAB adds lambda * w to the gradient of weights, not of biases or
normalisation, before the moments are taken; so this is not AdamW.
"""

import jax
import optax


def make_optimizer(
  *,
  learning_rate: float,
  encoder_rate: float,
  b1: float,
  b2: float,
  epsilon: float,
  l2: float,
) -> optax.GradientTransformation:
  """Adam with L2 regularisation of kernels.

  Args:
    learning_rate: Constant step size.
    encoder_rate: Times the learning rate, for the encoder; 0 = it stays.
    b1: Decay of the gradient's running mean.
    b2: Decay of the squared gradient's running mean.
    epsilon: Added to the root of the second moment.
    l2: Times the kernels, added to their gradient.

  Source: the paper's Table 3, decoded: beta1 0.9, beta2 0.99, 3e-4, 1e-4.
  """
  adam = optax.chain(
    optax.add_decayed_weights(l2, mask=_is_kernel),
    optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon),
    optax.scale_by_learning_rate(learning_rate),
  )
  if encoder_rate == 1:
    return adam
  slower = optax.chain(adam, optax.scale(encoder_rate))
  return optax.partition(
    {"encoder": slower if encoder_rate else optax.set_to_zero(), "rest": adam},
    lambda params: {
      name: "encoder" if name == "encoder" else "rest" for name in params
    },
  )


def _is_kernel(params):
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
