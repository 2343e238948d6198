import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

import brainjax

YNN = "--xla_cpu_experimental_ynn_fusion_type"
SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


@pytest.mark.parametrize(
  ("version", "names"),
  [("0.10.2", {YNN, SCHEDULER}), ("0.11.2", {SCHEDULER}), ("0.12.0", set())],
)
def test_only_known_flags_are_set(monkeypatch, version, names):
  monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
  monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
  brainjax.set_xla_flags()
  flags = os.environ["XLA_FLAGS"].split()
  assert flags[0] == "--xla_other=1"
  assert {flag.partition("=")[0] for flag in flags[1:]} == names


def test_flags_of_the_environment_win(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", f"{SCHEDULER}=true")
  brainjax.set_xla_flags()
  brainjax.set_xla_flags()
  flags = os.environ["XLA_FLAGS"].split()
  assert flags.count(f"{SCHEDULER}=true") == 1
  assert f"{SCHEDULER}=false" not in flags
  assert len(flags) == len(set(flags))


_FAULTS = """
import os, resource, threading, brainjax
brainjax.keep_freed_memory()
size = 64 << 20
def fill(): b"x" * size
def in_thread():
  thread = threading.Thread(target=fill)
  thread.start()
  thread.join()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
in_thread()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults / (size / os.sysconf("SC_PAGE_SIZE")))
"""


@pytest.mark.parametrize(
  ("environment", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "8"}, False)]
)
def test_another_thread_takes_what_is_freed_without_a_page_fault(
  environment, kept
):
  if platform.libc_ver()[0] != "glibc":
    pytest.skip("needs glibc")
  if any(map(os.path.exists, brainjax._ACCELERATORS)):
    pytest.skip("the allocator is left alone beside an accelerator")
  inherited = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
  }
  share = subprocess.run(
    [sys.executable, "-c", _FAULTS],
    env=inherited | environment,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert (float(share) < 0.1) == kept


_RESIDENT = """
import brainjax
brainjax.keep_freed_memory()
def resident():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1])
pieces = [bytes([i % 256]) * 4000 for i in range(20_000)]
last = bytes([1]) * 4000
del pieces
kept = resident()
brainjax.release_freed_memory()
print(kept - resident())
"""


def test_what_was_freed_can_be_given_back():
  if platform.libc_ver()[0] != "glibc":
    pytest.skip("needs glibc")
  pages = subprocess.run(
    [sys.executable, "-c", _RESIDENT],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert int(pages) > 0.9 * 20_000 * 4000 / os.sysconf("SC_PAGE_SIZE")
