"""Image folders that hold links back to where they come from, or that the machine cannot read now."""

import errno
import os

import pytest
from bad_files import picture
from PIL import Image

from timm_debias import DebiasError
from timm_debias.data.checks import check_images, check_no_link_loops
from timm_debias.data.factory import create_dataset


@pytest.fixture
def train(tmp_path):
    root = tmp_path / 'data' / 'train'
    for name in ('cat', 'dog'):
        (root / name).mkdir(parents=True)
        picture().save(root / name / '0.png')
    return root


@pytest.mark.parametrize('up', ['.', '..', '../..', '../../..', '/'])
def test_links_to_folders_above(train, up):
    """Two of them would be followed 2⁴⁰ times."""
    (train / 'cat' / 'again').symlink_to(up)
    (train / 'dog' / 'again').symlink_to(up)
    with pytest.raises(DebiasError, match=r'again is a link to a folder that it lies in \(.*remove the link'):
        create_dataset('', str(train.parent), 'train', 32)


def test_loop_by_way_of_a_folder_elsewhere(train, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'back').symlink_to(train)
    (train / 'cat' / 'out').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(DebiasError, match='out/back is a link'):
        check_no_link_loops(str(train))


def test_links_that_are_no_loops(train, tmp_path):
    """Class folders on another disk, two names for one folder, a data set behind a link, a link to itself."""
    (tmp_path / 'disk').mkdir()
    picture().save(tmp_path / 'disk' / '1.png')
    for name in ('bird', 'fowl'):
        (train / name).symlink_to(tmp_path / 'disk')
    (train / 'cat' / 'self.png').symlink_to('self.png')
    (tmp_path / 'data2').symlink_to(train.parent)
    check_no_link_loops(str(tmp_path / 'data2' / 'train'))
    assert len(create_dataset('', str(tmp_path / 'data2'), 'train', 32)) == 5


@pytest.mark.parametrize('number', [errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT])
def test_faults_of_the_machine_are_not_the_images(train, monkeypatch, number):
    monkeypatch.setattr(Image, 'open', lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(OSError, match=os.strerror(number)):
        check_images([str(train / 'cat' / '0.png')])
