"""Recordings that only look like several, tables of spreadsheets, and borders on the time axis."""
import pytest
from test_recordings import opened, write_windows

from groundwork.errors import InputError
from microdoppler.data.recordings import find_recordings


def test_a_time_of_day_in_the_names_does_not_cut_a_recording_at_every_minute(tmp_path):
    def time_of_day(_, __, n):
        seconds = 10 * 3600 + 50 + n        # 10-00-51, …, 10-00-59, 10-01-00, …
        return f"{seconds // 3600}-{seconds // 60 % 60:02d}-{seconds % 60:02d}"
    write_windows(tmp_path / "data", time_of_day, {1: [40], 2: [25, 15]})
    found = opened(tmp_path / "data", tmp_path)
    assert len(found.split.recordings[1]) == 1 and len(found.split.recordings[1][0].images) == 40
    assert found.split.recordings[1][0].images[9].endswith("10-01-00.png")
    # User 2's recordings change after 25 windows, at 10-01-15: inside a minute, where the overlaps tell
    assert len({found.overlaps.pass_of[name] for name in found.overlaps.names[2]}) == 2


def test_a_table_with_semicolons_is_read(tmp_path):
    (tmp_path / "recordings.csv").write_text("path;recording;number\nID_1/a.png;walk;2\nID_1/b.png;walk;1\n")
    found, _ = find_recordings(tmp_path, {1: ["ID_1/a.png", "ID_1/b.png"]})
    assert found[1][0].images == ["ID_1/b.png", "ID_1/a.png"]


def test_borders_on_the_time_axis_are_refused(tmp_path):
    write_windows(tmp_path / "data", lambda p, i, n: f"{n}", {1: [20]})
    with pytest.raises(InputError, match="borders on the time axis"):
        opened(tmp_path / "data", tmp_path, crop=(0, 0, 32, 64), fit="pad")
    assert opened(tmp_path / "data", tmp_path, crop=(0, 0, 64, 32), fit="pad").overlaps.hop is not None
