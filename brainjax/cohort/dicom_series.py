"""DICOM images -> stacks: those of a series that make one volume together.

A series may hold several: localisers in three planes, echoes, b-values. A
stack is not a volume if images are missing, lie in one place, or not in a row;
then it says so in one line.
"""

import collections
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from nibabel import orientations

from brainjax.cohort.dicom_headers import Frame

FEWEST_IMAGES = 5  # fewer are a localiser, or what was left of a series
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TURN = 0.01  # between directions of one stack
_UNEVEN = 0.05  # of the distance between slices
_LOCALISER = re.compile(
  r"\b(loc|localizer|localiser|scout|survey|smart ?brain)\b|3.?pl"
)
# The first that fits decides; "" is what is none of the image columns.
_KINDS = (
  (
    "",
    r"mip\b|phase|perf|dsc|dce|dyn|asl\b|fmri|dti|tensor|tof|angio|mr[av]\b",
  ),
  ("", r"spectro|cest|subtract|field ?map|b1 ?map|t2 ?star|t2s|t2 ?\*|hemo"),
  ("adc", r"adc|apparent"),
  ("swi", r"swi\b|swan|venobold|suscept"),
  ("", r"bold"),
  ("dwi", r"dwi|diff|trace|ep2d|b ?1000"),
  ("t1", r"\bt1|mprage|bravo|spgr|vibe|mp2rage|tfl3d"),
  ("flair", r"flair|dark.?fluid"),
  ("t2", r"\bt2"),
  ("pd", r"\bpd\b|proton"),
)
_WITH_CONTRAST = re.compile(
  r"\bpost|\+ ?c\b|\+ ?gd|\bgd\b|\bgad|contrast|\bkm\b|\bce\b|t1c|t1gd"
)
_WITHOUT_CONTRAST = re.compile(r"\bpre\b|without|\bnon? ?c|nativ|plain|w/o")


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
  """Images of one series, orientation, size and kind, in order.

  Attributes:
    key: Names it within its folder, as in `FOLDER#key`.
    frames: From the lowest along the normal of the images, none twice.
    affine: f64[4,4], (column, row, image) -> millimetres (RAS+).
    problem: Why it is no volume; "" if it is one.
    doubts: What is suspicious, a sentence each.
  """

  key: str
  frames: tuple[Frame, ...]
  affine: np.ndarray
  problem: str
  doubts: tuple[str, ...]

  @property
  def facts(self) -> dict[str, str]:
    """What is known of the series."""
    return self.frames[0].facts

  @functools.cached_property
  def plane(self) -> str:
    """The plane of the images that they are nearest to."""
    ornt = orientations.io_orientation(self.affine)
    return ("sagittal", "coronal", "axial")[int(ornt[2, 0])]

  @property
  def modality(self) -> str:
    """The image column that it is taken for; "" where that is not clear."""
    return modality_of(self.facts["description"], self.facts["contrast"])

  @property
  def text(self) -> str:
    """What it is, in a few words."""
    about = [f"{len(self.frames)} {self.plane} images"]
    if self.facts["number"]:
      about.insert(0, f"series {self.facts['number']}")
    if self.problem:
      about.append(self.problem)
    return f"{self.facts['description']!r} ({', '.join(about)}) #{self.key}"


def modality_of(description: str, contrast: str) -> str:
  """Guesses the image column from the description of a series.

  Args:
    description: Of the series.
    contrast: The agent, if one is named.

  Returns:
    One of the image columns, or "" where nothing or two things are said.

  >>> modality_of("Ax T1 MPRAGE post", ""), modality_of("AX T2 FLAIR", "")
  ('t1c', 'flair')
  >>> modality_of("t1 pre", "Gadavist"), modality_of("ep2d_perf", "")
  ('', '')
  """
  text = description.casefold().replace("_", " ")
  kind = next((kind for kind, names in _KINDS if re.search(names, text)), "")
  if kind != "t1":
    return kind
  with_it = bool(_WITH_CONTRAST.search(text))
  without = bool(_WITHOUT_CONTRAST.search(text))
  agent = contrast.casefold() not in ("", "no", "none", "n")
  if without and (with_it or agent):
    return ""
  return "t1c" if with_it or agent else "t1"


def stacks_of(frames: Iterable[Frame]) -> list[Stack]:
  """Sorts images into stacks, in the order of the series' numbers."""
  alike: dict[tuple, list[list[Frame]]] = collections.defaultdict(list)
  for frame in _once(frames):
    spacing = tuple(round(mm, 3) for mm in frame.spacing_mm)
    candidates = alike[frame.study, frame.series, frame.shape, spacing]
    for several in candidates:
      turn = np.abs(several[0].orientation - frame.orientation).max()
      if turn < _TURN:
        several.append(frame)
        break
    else:
      candidates.append([frame])
  stacks = []
  for candidates in alike.values():
    for several in candidates:
      stacks += [_stack(part) for part in _apart(several)]
  return sorted(stacks, key=_order)


def _order(stack: Stack) -> tuple[float, str]:
  number = stack.facts["number"]
  return (float(number) if number.isdecimal() else np.inf, stack.key)


def _once(frames: Iterable[Frame]) -> list[Frame]:
  """Leaves out further copies of one image."""
  return list({frame.uid: frame for frame in frames}.values())


def _apart(frames: list[Frame]) -> list[list[Frame]]:
  """Separates echoes and the like, if images lie in one place."""
  distances = np.sort(_along_normal(frames))
  if len(frames) < 2 or np.diff(distances).min() > 1e-3:
    return [frames]
  kinds = collections.defaultdict(list)
  for frame in frames:
    kinds[frame.varies].append(frame)
  return list(kinds.values())


def _along_normal(frames: Sequence[Frame]) -> np.ndarray:
  positions = np.array([frame.position_mm for frame in frames])
  return positions @ np.cross(*frames[0].orientation)


def _stack(frames: list[Frame]) -> Stack:
  distances = _along_normal(frames)
  order = np.argsort(distances, kind="stable")
  ordered = tuple(frames[i] for i in order)
  first = ordered[0]
  gaps = np.diff(distances[order])
  positions = np.array([frame.position_mm for frame in ordered])
  step = (positions[-1] - positions[0]) / max(len(frames) - 1, 1)
  if not step.any():
    step = np.cross(*first.orientation)
  lps = np.eye(4)
  lps[:3, 0] = first.orientation[0] * first.spacing_mm[1]
  lps[:3, 1] = first.orientation[1] * first.spacing_mm[0]
  lps[:3, 2] = step
  lps[:3, 3] = positions[0]
  content = [first.series, *first.varies, first.orientation, first.shape]
  content.append([round(float(mm), 3) for mm in first.spacing_mm])
  doubts = ()
  if len(gaps) and np.median(gaps) > 1.9 * first.thickness_mm > 0:
    doubts = (
      f"slices {first.thickness_mm:.3g} mm thick are {np.median(gaps):.3g} mm"
      " apart: some may be missing",
    )
  return Stack(
    key=hashlib.sha256(str(content).encode()).hexdigest()[:8],
    frames=ordered,
    affine=_RAS_FROM_LPS @ lps,
    problem=_problem(ordered, gaps, positions, step),
    doubts=doubts,
  )


def _problem(
  frames: Sequence[Frame],
  gaps: np.ndarray,
  positions: np.ndarray,
  step: np.ndarray,
) -> str:
  """Returns why images are no volume; "" if they are one."""
  facts = frames[0].facts
  if "LOCALIZER" in facts["type"].upper() or _LOCALISER.search(
    facts["description"].casefold().replace("_", " ")
  ):
    return "a localiser"
  if len(frames) < FEWEST_IMAGES:
    return "too few for a volume"
  usual = float(np.median(gaps))
  same = np.count_nonzero(gaps <= max(1e-3, 0.01 * usual))
  if same:
    return f"{same} images lie where another one does"
  ratios = gaps / usual
  uneven = np.abs(ratios - 1) > _UNEVEN
  holes = uneven & (np.rint(ratios) > 1)
  if holes.any() and np.abs(ratios - np.rint(ratios)).max() <= 2 * _UNEVEN:
    missing = int((np.rint(ratios[holes]) - 1).sum())
    place = int(np.flatnonzero(holes)[0]) + 1
    return (
      f"{missing} images are missing: {gaps[place - 1]:.3g} mm instead of"
      f" {usual:.3g} mm behind image {place} of {len(frames)}"
    )
  if uneven.any():
    return f"slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart"
  line = positions[0] + np.arange(len(frames))[:, None] * step
  aside = np.linalg.norm(positions - line, axis=1).max()
  if aside > 0.25 * min(frames[0].spacing_mm):
    return f"images lie up to {aside:.3g} mm beside their row"
  return ""
