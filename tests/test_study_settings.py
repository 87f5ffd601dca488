"""What the report says that was trained."""

from small_study import report

from timm_debias.study.collect import PARAMETERS, Row


def section(folder, rows, name='study.yaml', **changes) -> str:
    markdown = report(folder, rows, name, measures={'clean': 'folder_top1'}, **changes)
    return markdown.split('## What was trained\n')[1].split('##')[0]


def row(data='', model='', millions=None) -> Row:
    figures = {'folder_top1': 90.0} | ({} if millions is None else {PARAMETERS: millions})
    return Row(data, model, 'plain', 0, 'finished', figures=figures)


def test_settings_are_those_of_the_study_file(tmp_path):
    text = section(tmp_path, [row()])
    assert '[`study.yaml`](study.yaml)' in text
    assert '- All runs: `model: test_resnet`, `device: cpu`, `epochs: 3`, `scale: [0.5, 1.0]`.' in text
    assert '- plain: nothing else.\n- debiased: `debias: true`, `epochs` × 2.' in text
    (tmp_path / 'study.yaml').unlink()
    assert '](study.yaml)' not in section(tmp_path, [row()], 'other.yaml')


def test_an_empty_text_is_seen(tmp_path):
    train = {'model': 'test_resnet', 'device': 'cpu', 'val_split': ''}
    assert "`val_split: ''`" in section(tmp_path, [row()], train=train)


def test_numbers_of_parameters(tmp_path):
    """Of the one architecture of a study, or of each in its list; data sets differ in their classes."""
    assert '`scale: [0.5, 1.0]`; 1.23 million parameters.\n' in section(tmp_path, [row(millions=1.23)])
    rows = [row('a', 'one', 1.25), row('b', 'one', 1.5), row('a', 'two', 2.0), row('a', 'three')]
    models = {name: {'model': f'test_{name}'} for name in ('one', 'two', 'three')}
    text = section(tmp_path, rows, data={'a': {}, 'b': {}}, models=models)
    assert '- one: `model: test_one`; 1.25 to 1.5 million parameters.\n' in text
    assert '- two: `model: test_two`; 2 million parameters.\n' in text
    assert '- three: `model: test_three`.\n' in text
