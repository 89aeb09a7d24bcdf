"""Grids of spectrograms keep every pixel."""
import numpy as np
import pytest
import torch
from PIL import Image

from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import sample_grid
from microdoppler.figures.report import save_figure

LEGEND = Legend({1: "ID_1", 3: "ID_3"}, {1: "user 1", 3: "user 3"}, None)


@pytest.mark.parametrize("size", [64, 256])
def test_fine_stripes_survive(tmp_path, size):
    """Columns that are red and blue by turns: shrunk or dropped, they would mix or merge."""
    stripes = torch.zeros(3, size, size, dtype=torch.uint8)
    stripes[0, :, ::2], stripes[2, :, 1::2] = 255, 255
    images = {user: stripes.expand(4, -1, -1, -1) for user in (1, 3)}
    save_figure(sample_grid({1: stripes, 3: stripes}, images, LEGEND, "step 5"), tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    row = picture[len(picture) // 3]                       # through the first user's images
    for channel in (0, 2):
        coloured = row[:, channel] - row[:, 2 - channel] > 128
        seen = np.count_nonzero(np.diff(coloured.astype(int)) == 1)
        assert 5 * size // 2 - 1 <= seen <= 5 * size // 2        # one may hide behind the frame
