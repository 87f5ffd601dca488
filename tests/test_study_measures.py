"""Measures of benchmarks that no run measures are refused before anything is trained."""

import re
from pathlib import Path

import pytest
import yaml
from small_study import STUDY

from timm_debias import DebiasError
from timm_debias.study.config import read_study
from timm_debias.study.grid import expand
from timm_debias.study.measures import check_measures

STUDIES = list(Path(__file__).parents[1].glob('docs/studies/*/study.yaml'))


def check(path: Path, column: str, benchmarks: str) -> None:
    path.write_text(yaml.safe_dump(STUDY | {'measures': {'clean': column}, 'validate': {'benchmarks': benchmarks}}))
    study = read_study(path)
    check_measures(study.measures, expand(study), {'BENCH': 'folder,folder-c'}, 'study.yaml')


@pytest.mark.parametrize(
    ('column', 'benchmarks'),
    [
        ('folder_top1', 'folder'), ('folder-c/fog/3', 'folder, folder-c'), ('shapes_textures_shape', 'shapes_textures'),
        ('folder-c_mce', 'folder-c'), ('validation_top1', 'folder'), ('gpu_seconds_train', 'folder'),
        ('imagenet_top1', 'all'), ('folder-c_mce', '${BENCH}'),
    ],
)  # fmt: skip
def test_measures_of_the_runs(tmp_path, column, benchmarks):
    check(tmp_path / 'study.yaml', column, benchmarks)


@pytest.mark.parametrize(
    ('column', 'benchmarks'),
    [
        ('foldr_top1', 'folder,folder-c'),
        ('folder-c_mce', 'folder'),
        ('folder', 'folder'),
        ('folder-pgd_top1', 'folder,folder-fgsm'),
    ],
)
def test_a_measure_of_another_benchmark(tmp_path, column, benchmarks):
    message = f"study.yaml: measures: clean: '{column}' is no column of what the runs measure "
    with pytest.raises(DebiasError, match=re.escape(f'{message}({benchmarks.replace(",", ", ")}); correct it')):
        check(tmp_path / 'study.yaml', column, benchmarks)


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.parent.name)
def test_measures_of_the_stored_studies(path):
    study = read_study(path)
    check_measures(study.measures, expand(study), {}, str(path))


def test_each_data_set_may_have_benchmarks_of_its_own(tmp_path):
    data = {'a': {'validate': {'benchmarks': 'folder'}}, 'b': {'validate': {'benchmarks': 'folder-c'}}}
    path = tmp_path / 'study.yaml'
    path.write_text(yaml.safe_dump(STUDY | {'data': data, 'validate': {}}))
    study = read_study(path)
    check_measures(study.measures, expand(study), {}, 'study.yaml')
