import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax import InputError, checkpoint
from brainjax.checkpoint import Checkpoints


def make_state(value):
  return {"w": jnp.full((3, 2), value), "step": jnp.array(int(value))}


ABSTRACT = jax.eval_shape(lambda: make_state(0.0))


def save(checkpoints, step, *, loss):
  loop = {"best_step": step, "window": {"loss": 0.1 * step}}
  checkpoints.save(
    step, make_state(float(step)), loop=loop, validation_loss=loss
  )


def flip_a_byte(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)


@pytest.fixture
def folder(tmp_path):
  return tmp_path / "checkpoints"


def test_restores_what_was_saved(folder):
  with Checkpoints(folder, keep=2) as checkpoints:
    save(checkpoints, 1, loss=0.5)
    save(checkpoints, 2, loss=None)
  with Checkpoints(folder, keep=2) as checkpoints:
    restored = checkpoints.restore_latest(ABSTRACT)
  assert restored.step == 2
  assert restored.loop == {"best_step": 2, "window": {"loss": 0.2}}
  np.testing.assert_array_equal(restored.state["w"], np.full((3, 2), 2.0))


def test_keeps_the_latest_and_the_best(folder):
  with Checkpoints(folder, keep=2) as checkpoints:
    for step, loss in enumerate([0.9, 0.1, 0.5, 0.4, 0.3], start=1):
      save(checkpoints, step, loss=loss)
    for step in (2, 4, 5):
      assert checkpoint.is_sound(folder, step)
  manifests = {path.name for path in folder.glob("*.sha256.json")}
  assert manifests == {"2.sha256.json", "4.sha256.json", "5.sha256.json"}


def test_of_equal_losses_the_later_is_the_best(folder):
  with Checkpoints(folder, keep=1) as checkpoints:
    for step, loss in enumerate([0.1, 0.1, 0.5, 0.4], start=1):
      save(checkpoints, step, loss=loss)
    assert checkpoint.is_sound(folder, 2)
    assert not checkpoint.is_sound(folder, 1)


def test_flipped_bit_falls_back_to_the_newest_sound_one(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 1, loss=0.5)
    save(checkpoints, 2, loss=0.4)
  flip_a_byte(folder / "2")
  with Checkpoints(folder, keep=3) as checkpoints:
    assert checkpoints.restore_latest(ABSTRACT).step == 1
    # The damaged one is gone, so that the run can write it again.
    save(checkpoints, 2, loss=0.4)
    assert checkpoints.restore_latest(ABSTRACT).step == 2


def test_a_kill_before_the_manifest_leaves_the_earlier_checkpoint(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 1, loss=0.5)
    save(checkpoints, 2, loss=0.4)
  (folder / "2.sha256.json").unlink()
  (folder / "7").mkdir()
  with Checkpoints(folder, keep=3) as checkpoints:
    assert checkpoints.restore_latest(ABSTRACT).step == 1


def test_asking_for_a_damaged_checkpoint_is_refused(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 1, loss=0.5)
    flip_a_byte(folder / "1")
    with pytest.raises(InputError, match="damaged"):
      checkpoints.restore(1, ABSTRACT)


def files_of(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_part_is_read_without_the_rest_or_its_devices(folder):
  sharding = jax.NamedSharding(jax.make_mesh((8,), ("data",)), jax.P("data"))
  weights = jnp.arange(16.0).reshape(8, 2)
  state = {
    "params": {"w": jax.device_put(weights, sharding), "b": jnp.ones(3)},
    "opt_state": {"w": weights},
  }
  with Checkpoints(folder, keep=2) as checkpoints:
    checkpoints.save(5, state, loop={"best_step": 5}, validation_loss=0.1)
  before = files_of(folder)
  abstract = {"params": jax.eval_shape(lambda: state["params"])}
  given = checkpoint.restore_arrays(folder, 5, abstract)
  assert set(given) == {"params"}
  assert type(given["params"]["w"]) is np.ndarray
  np.testing.assert_array_equal(given["params"]["w"], weights)
  assert given["params"]["w"].dtype == np.float32
  assert files_of(folder) == before


@pytest.mark.parametrize(
  "asked", [{"w": (2, 3)}, {"w": (3, 2), "v": (1,)}, {"v": (3, 2)}], ids=str
)
def test_parts_of_another_model_are_refused(folder, asked):
  with Checkpoints(folder, keep=2) as checkpoints:
    save(checkpoints, 1, loss=0.5)
  abstract = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in asked.items()
  }
  with pytest.raises(InputError, match="not those of the model"):
    checkpoint.restore_arrays(folder, 1, abstract)


def test_a_part_of_a_damaged_checkpoint_is_refused(folder):
  with Checkpoints(folder, keep=2) as checkpoints:
    save(checkpoints, 1, loss=0.5)
  flip_a_byte(folder / "1")
  with pytest.raises(InputError, match="damaged"):
    checkpoint.restore_arrays(folder, 1, {"w": ABSTRACT["w"]})


def test_latest_loop_is_of_the_newest_sound_one(folder):
  assert checkpoint.latest_loop(folder) is None
  assert not folder.exists()
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 9, loss=0.5)
    save(checkpoints, 10, loss=0.4)
  assert checkpoint.latest_loop(folder)["best_step"] == 10
  flip_a_byte(folder / "10")
  before = files_of(folder)
  assert checkpoint.latest_loop(folder)["best_step"] == 9
  assert files_of(folder) == before


def test_an_empty_folder_restores_nothing(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    assert checkpoints.restore_latest(ABSTRACT) is None
