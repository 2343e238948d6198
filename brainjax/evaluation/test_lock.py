"""How often the test split of a run was looked at, and with what.

A test split is worth what it is only once: every choice made after a look at
it is a choice made on it. Nobody can be kept from looking, so each look is
written down, in `test_looks.jsonl` of the workdir, and the report counts them.
A look with the same model at the same scans is not scored again.
"""

import datetime
import json
import pathlib
import sys
from typing import Any

from brainjax import records
from brainjax.evaluation import run_files

FILE = "test_looks.jsonl"


def read_looks(
  workdir: pathlib.Path, external: str | None = None
) -> list[dict[str, Any]]:
  """Reads the looks so far at the test split, or at an external cohort."""
  looks = _read_all(workdir)
  return [look for look in looks if look.get("external") == external]


def commands(workdir: pathlib.Path) -> list[str]:
  """Returns the commands that looked at anything, each once, in order."""
  return list(dict.fromkeys(look["command"] for look in _read_all(workdir)))


def note_look(workdir: pathlib.Path, what: dict[str, Any]) -> None:
  """Writes a look down; `what` is all that a score follows from."""
  look = {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": " ".join(["brainjax", *sys.argv[1:]]),
    **what,
  }
  lines = [json.dumps(line) + "\n" for line in [*_read_all(workdir), look]]
  records.write_text(workdir / FILE, "".join(lines))


def earlier_scores(
  workdir: pathlib.Path, look_sha256: str
) -> dict[str, Any] | None:
  """Returns the test metrics if they follow from what is looked at now."""
  if not all(
    (workdir / name).is_file()
    for name in ("metrics.json", *run_files.PREDICTION_FILES)
  ):
    return None
  scores = json.loads((workdir / "metrics.json").read_text()).get("test", {})
  return scores if scores.get("look_sha256") == look_sha256 else None


def summary(looks: list[dict[str, Any]]) -> str:
  """Says how often the test split was looked at, and what that is worth.

  >>> summary([])
  'The test split of this run has not been looked at.'
  """
  if not looks:
    return "The test split of this run has not been looked at."
  times = "once" if len(looks) == 1 else f"{len(looks)} times"
  said = f"The test split of this run has been looked at {times}"
  models = len({look["checkpoint_sha256"] for look in looks})
  splits = len({look["test_sha256"] for look in looks})
  if models == splits == 1:
    return f"{said}, with one model."
  return (
    f"{said}, with {models} model{'s' * (models > 1)}"
    f"{f' and {splits} sets of test scans' if splits > 1 else ''}: what was"
    " chosen after the first look was chosen on the test split, and its score"
    " flatters the model."
  )


def _read_all(workdir: pathlib.Path) -> list[dict[str, Any]]:
  path = workdir / FILE
  if not path.is_file():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]
