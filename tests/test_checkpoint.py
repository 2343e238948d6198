import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax import InputError
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
      assert checkpoints.is_sound(step)
  manifests = {path.name for path in folder.glob("*.sha256.json")}
  assert manifests == {"2.sha256.json", "4.sha256.json", "5.sha256.json"}


def test_of_equal_losses_the_later_is_the_best(folder):
  with Checkpoints(folder, keep=1) as checkpoints:
    for step, loss in enumerate([0.1, 0.1, 0.5, 0.4], start=1):
      save(checkpoints, step, loss=loss)
    assert checkpoints.is_sound(2)
    assert not checkpoints.is_sound(1)


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


def test_an_empty_folder_restores_nothing(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    assert checkpoints.restore_latest(ABSTRACT) is None
