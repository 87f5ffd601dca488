"""The picture of the tests' images: which are shown, and that nothing in the folders keeps the report from its end."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from timm_debias.study.config import read_study
from timm_debias.study.samples import save_samples

COLOURS = {'blue': (0, 0, 255), 'green': (0, 255, 0), 'red': (255, 0, 0)}
SIDE = 128


def study_of(folder: Path, place: str = '${TESTS}'):
    path = folder / 'study.yaml'
    study = {
        'name': 'colours', 'title': 'Colours', 'train': {'model': 'test_resnet'}, 'methods': {'plain': {}},
        'validate': {'benchmarks': 'folder', 'benchmark_dir': [f'folder={place}', f'folder-stylized={place}-made']},
        'data': {'tests': {}}, 'seeds': [0], 'baselines': ['plain'], 'measures': {'clean': 'folder_top1'},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(study))
    return read_study(path)


def write_image(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (SIDE, SIDE), colour).save(path)


@pytest.fixture
def tests_dir(tmp_path):
    """Two folders of three classes."""
    for name, colour in COLOURS.items():
        write_image(tmp_path / 'tests' / name / '0[1].png', colour)
        write_image(tmp_path / 'tests-made' / name / '0[1].png', colour)
    return tmp_path / 'tests'


def colours_of(path: Path) -> list[str]:
    """The colours that fill much of a picture, from top to bottom."""
    pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    places = {name: np.flatnonzero((pixels == colour).all(1)) for name, colour in COLOURS.items()}
    return sorted((name for name in places if len(places[name]) > SIDE**2), key=lambda name: places[name][0])


def test_what_is_no_image_is_passed_over(tests_dir, tmp_path):
    """A file of the desktop's, a class without images, and one that is missing in a column."""
    (tests_dir / 'blue/.DS_Store').write_bytes(b'x')
    (tests_dir / 'blue/._0.png').write_bytes(b'x')
    (tests_dir / 'empty').mkdir()
    (tmp_path / 'tests-made/green/0[1].png').unlink()
    save_samples(study_of(tmp_path), {'TESTS': str(tests_dir)}, tmp_path / 'samples.png')
    assert colours_of(tmp_path / 'samples.png') == ['blue', 'red']


@pytest.mark.parametrize(
    ('place', 'reason'),
    [
        (None, 'the folders in benchmark_dir hold no image'),
        ('folder=tests', "validate.py: 'benchmark_dir': expected a list"),
        ([['folder=tests']], "validate.py: 'benchmark_dir': expected a list"),
    ],
)
def test_flags_of_another_type(tests_dir, tmp_path, caplog, place, reason):
    """A report of stored runs is written without a check of their flags."""
    study = study_of(tmp_path)
    study.validate['benchmark_dir'] = place
    save_samples(study, {}, tmp_path / 'samples.png')
    assert f'No picture of the tests in the report: {reason}' in caplog.text
    assert not (tmp_path / 'samples.png').exists()


def test_names_of_the_run_stand_for_those_of_the_first(tests_dir, tmp_path):
    save_samples(study_of(tmp_path, f'{tmp_path}/${{data}}'), {}, tmp_path / 'samples.png')
    assert colours_of(tmp_path / 'samples.png') == ['blue', 'green', 'red']


def test_a_report_goes_on_without(tests_dir, tmp_path, caplog):
    path = tmp_path / 'samples.png'
    save_samples(study_of(tmp_path), {}, path)
    assert 'No picture of the tests in the report' in caplog.text
    assert 'give --set TESTS=VALUE' in caplog.text
    caplog.clear()
    save_samples(study_of(tmp_path), {'TESTS': str(tmp_path / 'nowhere')}, path)
    assert 'no image that all of them have' in caplog.text
    (tests_dir / 'blue/0[1].png').write_bytes(b'no image')
    save_samples(study_of(tmp_path), {'TESTS': str(tests_dir)}, path)
    assert 'cannot identify image file' in caplog.text
    assert not path.exists()
