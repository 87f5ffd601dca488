"""Grids of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from timm_debias import DebiasError
from timm_debias.pictures import save_grid


def test_images_stand_where_they_should(tmp_path):
    red, green, blue = (torch.zeros(3, 20, 30) for _ in range(3))
    for channel, image in enumerate((red, green, blue)):
        image[channel] = 7.0  # Out of range: clamped to 1.
    path = tmp_path / 'folder' / 'grid.png'
    save_grid([[red, green], [blue]], path, column_titles=['a', 'b'], row_titles=['first', 'second'])
    pixels = np.asarray(Image.open(path))
    counts = [(pixels == colour).all(-1).sum() for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255])]
    assert counts == [600, 600, 600]
    (red_y, red_x), (green_y, green_x), (blue_y, blue_x) = (
        np.argwhere((pixels == colour).all(-1)).mean(0) for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255])
    )
    assert red_y == green_y < blue_y
    assert red_x == blue_x < green_x
    assert (pixels[:14].min(-1) < 100).any(), 'column titles are written in dark ink'


def test_values_survive_to_the_level_of_a_byte(tmp_path):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    save_grid([[image]], tmp_path / 'a.png')
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / 'a.png')))[4:20, 4:20].permute(2, 0, 1) / 255
    assert (pixels - image).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize('rows', [[], [[]]])
def test_no_images(tmp_path, rows):
    with pytest.raises(DebiasError, match='no images'):
        save_grid(rows, tmp_path / 'a.png')
    assert not list(tmp_path.iterdir())
