import os

import pytest

import brainjax


@pytest.fixture
def cache(monkeypatch, tmp_path):
  """Where compiled code goes if the environment says nothing of it."""
  for name in ("JAX_COMPILATION_CACHE_DIR", "BRAINJAX_CACHE"):
    monkeypatch.setenv(name, "")  # so that it is put back afterwards
    monkeypatch.delenv(name)
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path / ".cache" / "brainjax" / "compiled"


def test_compiled_code_is_kept_in_a_folder_of_the_user(
  cache, monkeypatch, tmp_path
):
  brainjax.set_compilation_cache()
  assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == str(cache)
  assert cache.is_dir()
  monkeypatch.setenv("BRAINJAX_CACHE", str(tmp_path / "mine"))
  brainjax.set_compilation_cache()
  wanted = str(tmp_path / "mine" / "compiled")
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == wanted


def test_the_cache_of_the_environment_wins(cache, monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "theirs")
  brainjax.set_compilation_cache()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "theirs"
  assert not cache.exists()


def test_without_a_folder_nothing_is_kept(cache, monkeypatch):
  cache.parent.parent.touch()  # a file, where the folder should be
  brainjax.set_compilation_cache()
  assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
