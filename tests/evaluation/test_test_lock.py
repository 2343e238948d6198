import json

import pytest

from brainjax.evaluation import run_files, test_lock


def look(checkpoint="a", test="t"):
  return {"checkpoint_sha256": checkpoint, "test_sha256": test}


def test_looks_are_kept_in_order_with_date_and_command(tmp_path, monkeypatch):
  assert test_lock.read_looks(tmp_path) == []
  test_lock.note_look(tmp_path, look("a"))
  test_lock.note_look(tmp_path, look("b"))
  looks = test_lock.read_looks(tmp_path)
  assert [entry["checkpoint_sha256"] for entry in looks] == ["a", "b"]
  assert all(entry["date"] and entry["command"] for entry in looks)
  monkeypatch.setattr("sys.argv", ["brainjax", "evaluate", "--records=x"])
  test_lock.note_look(tmp_path, look("b") | {"external": "x"})
  assert test_lock.commands(tmp_path) == [
    looks[0]["command"],
    "brainjax evaluate --records=x",
  ]


@pytest.mark.parametrize(
  ("looks", "text"),
  [
    ([look()], "looked at once, with one model."),
    ([look(), look()], "looked at 2 times, with one model."),
    ([look("a"), look("b"), look("a")], "3 times, with 2 models: what was"),
    ([look(test="t"), look(test="u")], "with 1 model and 2 sets of test"),
  ],
)
def test_summary_says_what_the_looks_are_worth(looks, text):
  assert text in test_lock.summary(looks)


def test_only_scores_of_the_same_look_are_taken_again(tmp_path):
  def earlier():
    return test_lock.earlier_scores(tmp_path, "same")

  metrics = {"test": {"look_sha256": "same", "n": 8}}
  (tmp_path / "metrics.json").write_text(json.dumps(metrics))
  assert earlier() is None  # its predictions are gone
  for name in run_files.PREDICTION_FILES:
    (tmp_path / name).touch()
  assert earlier() == metrics["test"]
  assert test_lock.earlier_scores(tmp_path, "other") is None
  (tmp_path / "metrics.json").write_text('{"validation": {}}')
  assert earlier() is None
