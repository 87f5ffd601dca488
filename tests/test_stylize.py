"""`timm-debias stylize`."""

import numpy as np
import pytest
import torch
from PIL import Image

from timm_debias import DebiasError, create_stylizer
from timm_debias.checks import check_device
from timm_debias.cli import main


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'content'
    generator = np.random.default_rng(0)
    for number, size in enumerate([(40, 32), (33, 47), (64, 64)]):
        path = root / str(number % 2) / f'image{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return root


def run(*argv) -> int:
    return main(['stylize', *map(str, argv)])


def pixels(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)[None].float() / 255


def test_folder_in_its_own_styles(folder, tmp_path):
    output = tmp_path / 'out'
    assert run('--content-dir', folder, '--output', output) == 0
    files = sorted(output.rglob('*.png'))
    assert len(files) == 3
    for file in files:
        content, style = file.stem.split('-')
        assert content != style
        source = next(folder.rglob(f'{content}.png'))
        assert file.parent.name == source.parent.name
        expected = create_stylizer('adain_lite')(pixels(source), pixels(next(folder.rglob(f'{style}.png'))), 0.5)
        assert (pixels(file) - expected.clamp(0, 1)).abs().max() < 0.003


def test_pairs_come_from_the_seed(folder, tmp_path):
    names = []
    for number, seed in enumerate((1, 1)):
        assert run('--content-dir', folder, '--output', tmp_path / str(number), '--seed', seed) == 0
        names.append(
            {str(path.relative_to(tmp_path / str(number))) for path in (tmp_path / str(number)).rglob('*.png')}
        )
    assert names[0] == names[1]


def test_styles_of_another_folder_and_one_size(folder, tmp_path):
    styles = tmp_path / 'styles'
    styles.mkdir()
    Image.new('RGB', (30, 30), (200, 10, 10)).save(styles / 'red.png')
    arguments = ['--content-dir', folder, '--style-dir', styles, '--output', tmp_path / 'out', '--img-size', 32]
    assert run(*arguments, '--alphas', 1) == 0
    files = list((tmp_path / 'out').rglob('*-red.png'))
    assert len(files) == 3
    assert all(Image.open(file).size == (32, 32) for file in files)


def test_grid(folder, tmp_path):
    path = tmp_path / 'grid.png'
    arguments = ['--content-dir', folder, '--grid', 2, '--alphas', 0, 0.5, 1, '--img-size', 32, '--output', path]
    assert run(*arguments) == 0
    picture = Image.open(path)
    assert picture.width >= 3 * 32
    assert picture.height >= 3 * 3 * 32
    assert run(*arguments) == 2
    assert run(*arguments, '--overwrite') == 0


def test_nothing_is_written_over(folder, tmp_path, capsys):
    arguments = ['--content-dir', folder, '--output', tmp_path / 'out']
    assert run(*arguments) == 0
    assert run(*arguments) == 2
    assert 'exists; choose another --output' in capsys.readouterr().err
    assert run(*arguments, '--overwrite') == 0


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--content-dir', 'nowhere'], ["--content-dir 'nowhere'", 'no such folder']),
        (['--style-dir', 'nowhere'], ["--style-dir 'nowhere'"]),
        (['--alphas', '0.5', '1'], ['--grid']),
        (['--alphas', '2'], ['2.0', '[0, 1]']),
        (['--grid', '0'], ['--grid is 0']),
        (['--grid', '2'], ['ends in .png']),
        (['--img-size', '8'], ['--img-size is 8', '16']),
        (['--stylizer', 'adain_light'], ["'adain_lite'"]),
        (['--stylizer-weights', 'nowhere'], ['nowhere']),
        (['--device', 'gpu'], ["'gpu'"]),
        (['--device', 'cuda:7'], ['--device cuda:7', 'torch finds']),
        (['--device', 'xpu'], ['--device xpu: torch cannot use it here']),
        (['--device', 'privateuseone'], ['--device privateuseone: torch cannot use it here']),
        (['--seed', '-1'], ['--seed is -1']),
        (['--output', __file__], [__file__, 'name a folder']),
        (['--grid', '2', '--output', f'{__file__}/a.png'], [__file__, 'name a folder']),
    ],
    ids=lambda value: ' '.join(value) if value[0].startswith('-') else '',
)
def test_mistakes(folder, tmp_path, capsys, flags, parts):
    assert run('--content-dir', folder, '--output', tmp_path / 'out', *flags) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('timm-debias stylize: error: ')
    for part in parts:
        assert part in message
    assert not (tmp_path / 'out').exists()


def test_bad_images(folder, tmp_path, capsys):
    Image.new('RGB', (15, 40)).save(folder / 'thin.png')
    assert run('--content-dir', folder, '--output', tmp_path / 'out') == 2
    assert 'thin.png: 15×40 pixels' in capsys.readouterr().err
    (folder / 'thin.png').write_bytes(b'torn')
    assert run('--content-dir', folder, '--output', tmp_path / 'out') == 2
    assert 'thin.png' in capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert run('--content-dir', tmp_path / 'empty', '--output', tmp_path / 'out') == 2
    assert 'has no images' in capsys.readouterr().err


def test_devices_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for device in ('cuda', 'cuda:1'):
        check_device(device)
    with pytest.raises(DebiasError, match=r'--device cuda:2: the last CUDA device .* is cuda:1; give another'):
        check_device('cuda:2')


def test_images_that_would_become_one_file(folder, tmp_path, capsys):
    (tmp_path / 'styles').mkdir()
    Image.new('RGB', (30, 30), (200, 10, 10)).save(tmp_path / 'styles' / 'red.png')
    Image.new('RGB', (40, 40)).save(folder / '0' / 'image0.jpg')
    arguments = ['--content-dir', folder, '--style-dir', tmp_path / 'styles', '--output', tmp_path / 'out']
    assert run(*arguments, '--overwrite') == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for part in ('image0.jpg and ', 'image0.png would become one file', 'image0-red.png; rename one of them'):
        assert part in message
    assert not (tmp_path / 'out').exists()
