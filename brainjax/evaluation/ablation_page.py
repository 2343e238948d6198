"""The page of an ablation: its verdict in words, then tables and pictures."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

from brainjax import config as config_lib
from brainjax import records
from brainjax.evaluation import (
  ablation_figure,
  ablation_scores,
  figures,
  report,
  verdict,
)
from brainjax.evaluation.ablation_variants import CONTROLS
from brainjax.evaluation.exhibits import Exhibit
from brainjax.evaluation.forest import Estimate, draw_forest

SECTIONS = {
  "verdict": "Verdict",
  "heads": "All heads",
  "order": "Who differs from whom",
  "controls": "Controls",
  "cost": "What it costs",
  "method": "How it was done",
}


def write_page(workdir: pathlib.Path, found: Mapping[str, Any]) -> pathlib.Path:
  """Writes `ablation.html`, and its pictures into `figures/`.

  Args:
    workdir: Of the ablation.
    found: What `ablation.json` says.

  Returns:
    Path of the page.
  """
  folder = workdir / "figures"
  folder.mkdir(exist_ok=True)

  def picture(exhibit: Exhibit) -> dict[str, str]:
    file = folder / exhibit.name
    figures.save_png(exhibit.figure, file)
    data = base64.b64encode(file.read_bytes()).decode()
    return {"href": f"figures/{file.name}", "data": data, "alt": exhibit.alt}

  of_name = {row["head"]: row for row in found["heads"]}
  page = report.template("ablation", picture=picture).render(
    name=workdir.resolve().name,
    found=found,
    sections=SECTIONS,
    metric=verdict.METRICS[found["metric"]],
    metric_names={m: verdict.METRICS[m] for m in found["heads"][0]["scores"]},
    headline=headline(found),
    checks=checks(found),
    rows=[of_name[name] for name in found["order"]],
    controls=CONTROLS,
    networks=[name for name in found["order"] if name in config_lib.NETWORKS],
    forest=_forest(found),
    ranks=_ranks(found),
    cost=_cost(found),
  )
  out = workdir / "ablation.html"
  records.write_text(out, page)
  return out


def headline(found: Mapping[str, Any]) -> str:
  """Says what the declared comparison has shown."""
  primary = found["primary"]
  first, second = primary["heads"]
  name = verdict.METRICS[found["metric"]]
  scores = {
    row["head"]: row["scores"][found["metric"]] for row in found["heads"]
  }
  text = (
    f"{name} of {first} {verdict.score_text(scores[first])}, of {second}"
    f" {verdict.score_text(scores[second])}; the difference is"
    f" {verdict.difference_text(primary)}, n = {found['participants']}."
  )
  return f"{conclusion(primary, found['margin'])} {text}"


def conclusion(compared: Mapping[str, Any], margin: float) -> str:
  """Says in a sentence what a comparison of two heads has shown.

  >>> pair = {"heads": ["lstm", "gru"], "low": -0.01, "high": 0.01}
  >>> conclusion(pair | {"equivalence_p": 0.03}, 0.02)
  'lstm and gru are equivalent within 0.02.'
  >>> conclusion(pair | {"low": 0.002, "equivalence_p": 0.3}, 0.02)
  'lstm is better than gru.'
  """
  first, second = compared["heads"]
  low, high = compared["low"], compared["high"]
  equal = compared["equivalence_p"]
  if equal is not None and equal < 0.05:
    return f"{first} and {second} are equivalent within {margin:g}."
  if low is not None and low > 0:
    return f"{first} is better than {second}."
  if high is not None and high < 0:
    return f"{second} is better than {first}."
  return (
    f"Neither is shown: that {first} and {second} differ, or that they are"
    f" equivalent within {margin:g}."
  )


def checks(found: Mapping[str, Any]) -> list[verdict.Check]:
  """Holds the heads against their controls."""
  made = []
  chance = chance_level(found["metric"], len(found["classes"]))
  best = {row["head"]: row["scores"][found["metric"]] for row in found["heads"]}
  name = verdict.METRICS[found["metric"]]
  for row in found["controls"]:
    if row["control"] == "random_labels" and chance is not None:
      low, high = row["score"]["low"], row["score"]["high"]
      stands = low is None or low <= chance <= high
      made.append(
        verdict.Check(
          stands,
          f"With random labels {row['head']} has {name}"
          f" {verdict.score_text(row['score'])}; chance is {chance:.2f}.",
        )
      )
    elif row["control"] == "shuffled":
      lost = row["high"] is not None and row["high"] < 0
      made.append(
        verdict.Check(
          lost,
          f"{row['head']} without the order of slices: {name}"
          f" {verdict.difference_text(row)} against it; "
          + (
            "the order carries something."
            if lost
            else "that the order carries anything is not shown."
          ),
        )
      )
  primary = [row for row in found["primary"]["heads"] if row != "mean"]
  for head in primary:
    pair = _pair(found, head, "mean")
    better = pair["low"] is not None and pair["low"] > 0
    made.append(
      verdict.Check(
        better,
        f"{head} against the mean over slices: {name}"
        f" {verdict.score_text(best[head])} and"
        f" {verdict.score_text(best['mean'])}, difference"
        f" {verdict.difference_text(pair)}.",
      )
    )
  return made


def chance_level(metric: str, num_classes: int) -> float | None:
  """Returns what a metric is without skill; None if it is of the cohort."""
  levels = {"roc_auc": 0.5, "balanced_accuracy": 1 / num_classes}
  return levels.get(metric)


def _pair(found: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
  """Returns the comparison of two heads, the first minus the second."""
  for pair in found["pairs"]:
    if pair["heads"] == [first, second]:
      return pair
    if pair["heads"] == [second, first]:
      return ablation_scores.turned(pair)
  raise ValueError(f"no comparison of {first} and {second}")


def _forest(found: Mapping[str, Any]) -> Exhibit:
  rows = {row["head"]: row["scores"][found["metric"]] for row in found["heads"]}
  n, name = found["participants"], verdict.METRICS[found["metric"]]
  estimates = [
    Estimate(
      head,
      "run" if head in found["primary"]["heads"] else "compared",
      rows[head],
      n,
    )
    for head in found["order"]
  ]
  estimates += [
    Estimate(f"{row['head']}, {_control(row)}", "shortcut", row["score"], n)
    for row in found["controls"]
  ]
  values = "; ".join(
    f"{e.name} {verdict.score_text(e.score)}" for e in estimates
  )
  return Exhibit(
    "heads.png",
    f"{name} of every head and control, n = {n}: {values}.",
    draw_forest(
      estimates,
      metric=name,
      chance=chance_level(found["metric"], len(found["classes"])),
    ),
  )


def _ranks(found: Mapping[str, Any]) -> Exhibit | None:
  ranks = {row["head"]: row["rank"] for row in found["heads"]}
  if None in ranks.values():
    return None
  ordered = {name: ranks[name] for name in found["order"]}
  said = ", ".join(f"{name} {rank:.1f}" for name, rank in ordered.items())
  joined = "; ".join(" and ".join(clique) for clique in found["cliques"])
  return Exhibit(
    "ranks.png",
    f"Mean ranks over folds: {said}. Not shown to differ: {joined or 'none'}.",
    ablation_figure.draw_ranks(ordered, found["cliques"]),
  )


def _cost(found: Mapping[str, Any]) -> Exhibit:
  of_name = {row["head"]: row for row in found["heads"]}
  points = {
    name: (
      of_name[name]["seconds"] / of_name[name]["runs"],
      of_name[name]["scores"][found["metric"]],
    )
    for name in found["order"]
  }
  name = verdict.METRICS[found["metric"]]
  said = "; ".join(f"{head} {cost:.2g} s" for head, (cost, _) in points.items())
  return Exhibit(
    "cost.png",
    f"{name} against the seconds that one training takes: {said}.",
    ablation_figure.draw_costs(
      points, metric=name, what="seconds a training (logarithmic)"
    ),
  )


def _control(row: Mapping[str, str]) -> str:
  return row["control"].replace("_", " ")
