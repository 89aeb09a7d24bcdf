"""The gain of each person over the fidelity of its synthetic images."""
import json
import math

import pytest

from groundwork.files import write_json
from microdoppler.fidelity.gains import find_fidelity, gains_figure

NAMES = {1: "user 1", 4: "Anna", 7: "user 7", 9: "user 9"}
MADE_BY = {"synthetic_folder": "a/set", "model_weights": "abc", "sampling_guidance_interval": [0.0, 1.0]}


def contrast_of(gains: list[float]) -> dict:
    recalls = {user: [0.5, 0.5 + gain] for user, gain in zip(NAMES, gains)}
    return {"baseline": "real + cuts", "kind": "real + synthetic", "by_user": {"recalls": recalls}}


def fidelity_of(recognised: list[float]) -> dict:
    users = {str(user): {"synthetic": {"recognised": value, "kid": math.nan, "precision": 0.5, "recall": value}}
             for user, value in zip(NAMES, recognised)}
    return {"made_by": MADE_BY, "users": users}


def test_each_person_is_a_point_and_the_title_says_how_they_are_related(tmp_path):
    write_json(tmp_path / "fidelity.json", fidelity_of([0.6, 0.7, 0.9, 0.8]))
    fidelity = find_fidelity(tmp_path / "fidelity.json", [MADE_BY])
    contrast = json.loads(json.dumps(contrast_of([0.01, 0.02, 0.04, 0.03])))        # as read from summary.json
    recognised, kid, precision, _ = gains_figure(contrast, NAMES, fidelity).axes
    points = recognised.lines[1]
    assert points.get_xdata().tolist() == [0.6, 0.7, 0.9, 0.8] and points.get_ydata() == pytest.approx([1, 2, 4, 3])
    assert [text.get_text() for text in recognised.texts] == ["1", "Anna", "7", "9"]
    assert "rank correlation +1.00" in recognised.get_title() and "4 users" in recognised.get_title()
    assert kid.get_title() == precision.get_title() == "rank correlation unknown" and not kid.texts


def test_only_the_fidelity_of_a_set_of_the_study_is_shown(tmp_path):
    path = tmp_path / "fidelity.json"
    assert find_fidelity(path, [MADE_BY]) is None
    write_json(path, fidelity_of([0.6, 0.7, 0.9, 0.8]))
    assert find_fidelity(path, [{**MADE_BY, "model_weights": "another"}]) is None
    assert find_fidelity(path, [{**MADE_BY, "synthetic_folder": "/whole/path/a/set", "fold": 0, "name": "set"}])
    path.write_text("[1]")
    assert find_fidelity(path, [MADE_BY]) is None
    path.write_text('{"made_by": {}}')
    assert find_fidelity(path, [MADE_BY]) is None
