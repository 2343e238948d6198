import contextlib
import errno
import resource

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax import InputError, checkpoint
from brainjax.checkpoint import Checkpoints


def make_state(value):
  return {"w": jnp.full((3, 2), value), "step": jnp.array(int(value))}


ABSTRACT = jax.eval_shape(lambda: make_state(0.0))


def save(checkpoints, step, *, best=1):
  loop = {"best_step": step, "window": {"loss": 0.1 * step}}
  checkpoints.save(step, make_state(float(step)), loop=loop, best_step=best)


def restore_latest(folder, say=print):
  with Checkpoints(folder, keep=2) as checkpoints:
    return checkpoints.restore_latest(ABSTRACT, say)


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
    save(checkpoints, 1)
    save(checkpoints, 2)
  restored = restore_latest(folder)
  assert restored.step == 2
  assert restored.loop == {"best_step": 2, "window": {"loss": 0.2}}
  np.testing.assert_array_equal(restored.state["w"], np.full((3, 2), 2.0))


def test_nothing_is_compiled_to_save_what_every_device_holds(folder):
  mesh = jax.sharding.Mesh(np.array(jax.devices()), "device")
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  values = np.random.default_rng(0).normal(size=(64, 24))
  state = jax.device_put({"w": jnp.asarray(values)}, everywhere)
  compiled = []

  def listen(event, *_, **__):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    with Checkpoints(folder, keep=2) as checkpoints:
      checkpoints.save(1, state, loop={}, best_step=1)
      checkpoints.finish()
      assert not compiled
      restored = checkpoints.restore_latest(state, print)
  finally:
    jax.monitoring.clear_event_listeners()
  np.testing.assert_array_equal(restored.state["w"], state["w"])


def checkpoints_in(folder):
  """Steps that have files, and steps that have a manifest."""
  steps = {int(p.name) for p in folder.iterdir() if p.name.isdigit()}
  return steps, {int(p.name[0]) for p in folder.glob("*.sha256.json")}


def test_keeps_the_latest_and_the_best(folder):
  with Checkpoints(folder, keep=2) as checkpoints:
    for step, best in enumerate([0, 2, 2, 2, 2], start=1):
      save(checkpoints, step, best=best)
  assert checkpoints_in(folder) == ({2, 4, 5}, {2, 4, 5})
  for step in (2, 4, 5):
    assert checkpoint.is_sound(folder, step)
  with Checkpoints(folder, keep=1) as checkpoints:
    save(checkpoints, 6, best=6)
  assert checkpoints_in(folder) == ({6}, {6})


def test_an_older_one_stays_until_the_new_one_is_proven(folder):
  with Checkpoints(folder, keep=1) as checkpoints:
    save(checkpoints, 1, best=1)
    save(checkpoints, 2, best=2)
    checkpoints._manager.wait_until_finished()
    # A kill here would leave nothing else.
    assert checkpoints_in(folder) == ({1, 2}, {1})
    checkpoints.prove()
    assert checkpoints_in(folder) == ({1, 2}, {1, 2})
  assert checkpoints_in(folder) == ({2}, {2})


def test_writing_goes_on_while_the_arrays_are_donated(folder):
  add_one = jax.jit(
    lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0
  )
  key = jax.random.key(0)
  state = {"w": jax.random.normal(key, (500, 1000)), "step": jnp.array(1)}
  wanted, abstract = jax.device_get(state), jax.eval_shape(lambda: state)
  with Checkpoints(folder, keep=2) as checkpoints:
    checkpoints.save(1, state, loop={}, best_step=0)
    checkpoints.prove()
    assert checkpoints_in(folder)[1] == set()
    for _ in range(20):
      state = add_one(state)
  found = checkpoint.restore(folder, 1, abstract).state
  np.testing.assert_array_equal(found["w"], wanted["w"])


def test_flipped_bit_falls_back_to_the_newest_sound_one(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    for step in (1, 2, 3):
      save(checkpoints, step)
  flip_a_byte(folder / "2")
  manifest = folder / "3.sha256.json"
  manifest.write_bytes(b"\xff" + manifest.read_bytes()[1:])
  said = []
  with Checkpoints(folder, keep=1) as checkpoints:
    assert checkpoints.restore_latest(ABSTRACT, said.append).step == 1
    # The damaged ones are gone, so that the run can write them again.
    save(checkpoints, 2)
  assert said == [
    f"{folder / step}: the checkpoint is damaged (sha256); deleted"
    for step in "32"
  ]
  assert checkpoints_in(folder) == ({1, 2}, {1, 2})
  assert restore_latest(folder).step == 2


def test_a_kill_before_the_manifest_leaves_the_earlier_checkpoint(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 1)
    save(checkpoints, 2)
  (folder / "2.sha256.json").unlink()
  (folder / "7").mkdir()
  (folder / "7.sha256.json").write_text("{}")
  said = []
  assert restore_latest(folder, said.append).step == 1
  assert [line.split(": ")[1] for line in said] == [
    "the checkpoint is damaged (sha256); deleted",
    "the checkpoint is not finished; deleted",
  ]


def test_checkpoints_with_metrics_of_orbax_are_read(folder):
  with Checkpoints(folder, keep=2) as checkpoints:
    save(checkpoints, 1)
  (folder / "1" / "metrics").mkdir()
  (folder / "1" / "metrics" / "metrics").write_text('{"validation_loss": 0.5}')
  assert restore_latest(folder).step == 1


def test_asking_for_a_damaged_checkpoint_is_refused(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 1)
  before = files_of(folder)
  assert checkpoint.restore(folder, 1, ABSTRACT).loop["best_step"] == 1
  assert files_of(folder) == before
  flip_a_byte(folder / "1")
  with pytest.raises(InputError, match="damaged"):
    checkpoint.restore(folder, 1, ABSTRACT)


@contextlib.contextmanager
def small_files():
  """Lets the system refuse files of more than 40 kB."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


# tensorstore goes on telling an event loop that Orbax closed at the first one.
@pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize("how", ["prove", "save", "close"])
def test_what_cannot_be_written_is_said_and_replaces_nothing(folder, how):
  checkpoints = Checkpoints(folder, keep=1)
  state = {"w": jnp.asarray(np.random.default_rng(0).random((100, 1000)))}
  for step in (1, 2, 3):
    save(checkpoints, step)
  checkpoints.finish()
  with small_files(), pytest.raises(OSError) as refused:
    checkpoints.save(4, state, loop={}, best_step=4)
    if how == "prove":
      while True:
        checkpoints.prove()
    elif how == "save":
      save(checkpoints, 5)
    else:
      checkpoints.close()
  assert refused.value.errno == errno.EFBIG
  checkpoints.close()
  assert checkpoints_in(folder) == ({1, 3}, {1, 3})
  assert restore_latest(folder).step == 3


def test_the_best_stays_until_a_better_one_is_proven(folder, monkeypatch):
  checkpoints = Checkpoints(folder, keep=1)
  for step in (1, 2, 3):
    save(checkpoints, step)
  checkpoints.finish()

  def refuse(path, text):
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as patch, pytest.raises(OSError):
    patch.setattr(checkpoint.records, "write_text", refuse)
    save(checkpoints, 4, best=4)
    checkpoints.finish()
  checkpoints.close()
  assert checkpoints_in(folder) == ({1, 3, 4}, {1, 3})
  assert restore_latest(folder).step == 3


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
    checkpoints.save(5, state, loop={"best_step": 5}, best_step=5)
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
    save(checkpoints, 1)
  abstract = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in asked.items()
  }
  with pytest.raises(InputError, match="not those of the model"):
    checkpoint.restore_arrays(folder, 1, abstract)


def test_a_part_of_a_damaged_checkpoint_is_refused(folder):
  with Checkpoints(folder, keep=2) as checkpoints:
    save(checkpoints, 1)
  flip_a_byte(folder / "1")
  with pytest.raises(InputError, match="damaged"):
    checkpoint.restore_arrays(folder, 1, {"w": ABSTRACT["w"]})


def test_latest_loop_is_of_the_newest_sound_one(folder):
  assert checkpoint.latest_loop(folder) is None
  assert not folder.exists()
  with Checkpoints(folder, keep=3) as checkpoints:
    save(checkpoints, 9)
    save(checkpoints, 10)
  assert checkpoint.latest_loop(folder)["best_step"] == 10
  flip_a_byte(folder / "10")
  before = files_of(folder)
  assert checkpoint.latest_loop(folder)["best_step"] == 9
  assert files_of(folder) == before


def test_an_empty_folder_restores_nothing(folder):
  with Checkpoints(folder, keep=3) as checkpoints:
    assert checkpoints.restore_latest(ABSTRACT, print) is None
