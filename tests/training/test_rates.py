import jax
import jax.numpy as jnp
import pytest

from brainjax import InputError
from brainjax.training import rates

PARAMS = {
  "encoder": {
    "denseblock1": {"kernel": jnp.ones((2, 2))},
    "denseblock10": {"kernel": jnp.ones((2, 2))},
    "norm5": {"scale": jnp.ones(2)},
  },
  "head": {"kernel": jnp.ones((2, 2))},
}


@pytest.mark.parametrize(
  ("entries", "wanted"),
  [
    ((), (1, 1, 1, 1)),
    (("encoder: 0.1",), (0.1, 0.1, 0.1, 1)),
    (("encoder/denseblock1: 0", "encoder: 0.5"), (0, 0.5, 0.5, 1)),
    (("encoder: 0.5", ".*: 0"), (0.5, 0.5, 0.5, 0)),
    (("encoder/(denseblock10|norm5): 2e-1",), (1, 0.2, 0.2, 1)),
    ((".*/kernel|nothing: 3",), (3, 3, 1, 3)),
    (("code: 0",), (1, 1, 1, 1)),  # the path from its beginning
  ],
)
def test_the_first_that_fits_counts(entries, wanted):
  found = rates.factors(PARAMS, rates.parse_rates(entries))
  assert tuple(jax.tree.leaves(found)) == wanted


def test_no_gradient_reaches_what_stays():
  parsed = rates.parse_rates(("encoder/norm5: 0", "encoder: 0.1"))

  def loss(params):
    held = rates.stop_gradients(params, parsed)
    return sum(leaf.sum() for leaf in jax.tree.leaves(held))

  found = jax.grad(loss)(PARAMS)
  assert not found["encoder"]["norm5"]["scale"].any()
  assert found["encoder"]["denseblock1"]["kernel"].all()
  assert found["head"]["kernel"].all()


@pytest.mark.parametrize(
  "entry",
  ["encoder", "encoder=0.1", ": 1", "encoder: -1", "e: inf", "e: nan", "(: 1"],
)
def test_malformed_entries_are_refused(entry):
  with pytest.raises(InputError, match="config.optimizer.rates: .*the form"):
    rates.parse_rates((entry,))


def test_what_can_have_no_effect_is_refused():
  with pytest.raises(InputError, match="'head' stands twice"):
    rates.parse_rates(("head: 1", "head: 2"))
  for entries, said in (
    (("heed: 0.1",), "'heed' fits no parameter.* are encoder, head"),
    ((".*: 0.1", "head: 1"), "'head' fits no parameter"),
    ((".*: 0",), "nothing is left to learn"),
  ):
    with pytest.raises(InputError, match=said):
      rates.check_rates(PARAMS, rates.parse_rates(entries))
  rates.check_rates(PARAMS, rates.parse_rates(("head: 1", ".*: 0")))


def test_what_was_drawn_at_random_must_learn():
  parsed = rates.parse_rates(("encoder/norm5: 0", "head: 0.1"))
  rates.check_drawn(PARAMS, parsed, ["head"])
  with pytest.raises(InputError, match="encoder would stay"):
    rates.check_drawn(PARAMS, parsed, ["head", "encoder"])
