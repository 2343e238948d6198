import pytest

from brainjax.evaluation import scoring


@pytest.mark.parametrize(
  "cells, known",
  [
    ([{}, {}], True),
    ([{"patient_id_known": "true"}, {"patient_id_known": ""}], True),
    ([{"patient_id_known": "true"}, {"patient_id_known": "false"}], False),
  ],
)
def test_one_scan_of_nobody_knows_whom_is_enough(cells, known):
  assert scoring.patients_known(cells) is known
