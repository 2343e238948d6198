"""What the files around the package promise, held against each other."""

import os
import pathlib
import re
import runpy
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import brainjax
from brainjax import config

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
  "python, jax_release", [("3.11", (0, 10)), ("3.12", (0, 11))]
)
def test_constraints_pin_every_dependency(python, jax_release):
  file = ROOT / f"constraints-py{python.replace('.', '')}.txt"
  pins = dict(line.split("==") for line in file.read_text().split())
  versions = {canonicalize_name(name): Version(pins[name]) for name in pins}
  extras = PROJECT["optional-dependencies"]
  for line in PROJECT["dependencies"] + extras["test"] + extras["dev"]:
    requirement = Requirement(line)
    name = canonicalize_name(requirement.name)
    if name != "brainjax":
      assert versions[name] in requirement.specifier, line
  for name in ("jax", "jaxlib"):
    assert versions[canonicalize_name(name)].release[:2] == jax_release


def test_every_named_python_has_constraints():
  prefix = "Programming Language :: Python :: "
  named = {
    f"constraints-py{line.removeprefix(prefix).replace('.', '')}.txt"
    for line in PROJECT["classifiers"]
    if line.startswith(prefix)
  }
  assert named == {file.name for file in ROOT.glob("constraints-*.txt")}


def test_citation_names_the_version():
  citation = (ROOT / "CITATION.cff").read_text()
  versions = re.findall(r"^version: (.+)$", citation, re.MULTILINE)
  assert versions == [brainjax.__version__]


def test_extras_exist():
  assert set(PROJECT["optional-dependencies"]) >= {
    *("cuda", "tpu", "dask", "slurm", "tensorboard", "export"),
    *("peers", "notebook", "test", "dev"),
  }


def test_make_help_lists_every_target():
  listed = subprocess.run(
    ["make", "--no-print-directory", "help"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  phony = re.search(
    r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
  )
  assert phony is not None
  targets = [line.split()[0] for line in listed.splitlines()]
  assert targets == phony[1].split()


def test_no_file_names_a_folder_of_one_machine():
  files = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  if files.returncode:
    pytest.skip("needs a git checkout")
  private = re.compile(rb"(?<![\w.])/(?:home|root|Users)/")
  offenders = [
    name
    for name in files.stdout.split("\0")
    if name
    and (ROOT / name).is_file()
    and b"\0" not in (data := (ROOT / name).read_bytes())
    and private.search(data)
  ]
  assert offenders == []


def test_benchmarked_heads_have_the_defaults(monkeypatch):
  folder = ROOT / "benchmarks"
  monkeypatch.syspath_prepend(str(folder))
  monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
  fields = runpy.run_path(str(folder / "heads.py"))["FIELDS"]
  assert fields.keys() == config.HEAD_DEFAULTS.keys()
  for name, values in fields.items():
    assert values.items() <= config.HEAD_DEFAULTS[name].items(), name
