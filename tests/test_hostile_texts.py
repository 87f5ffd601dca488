"""Pages, cards, tables and messages made of hostile files: what they quote stays a text."""

import json
from html.parser import HTMLParser

import timm
import torch
import yaml

from timm_debias.cli import main
from timm_debias.validation.bulk_tables import format_rows
from timm_debias.validation.tables import format_results
from timm_debias.weights.release import evaluation_sections

SCRIPT = '<script>alert(1)</script>'
IMAGE = '"><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        assert not any(name.startswith('on') for name, _ in attrs)


def hostile_results() -> dict:
    entry = {
        'protocol': SCRIPT, 'partial': False, 'subset': IMAGE, 'images': 10, 'skipped': [SCRIPT], 'fingerprint': SCRIPT,
        'headline': {SCRIPT: 1.0, IMAGE: 2.0}, 'notes': [SCRIPT, '![x](http://tracker/x.png)'],
        'metrics': {'categories': {SCRIPT: {'images': 1, 'shape': 1, 'texture': 0, 'shape_bias': 100.0}}},
    }  # fmt: skip
    conflict = entry | {'metrics': entry['metrics'] | {'shape_bias': 50.0, 'published_shape_bias': {SCRIPT: 95.0}}}
    return {
        'model': SCRIPT, 'weights': SCRIPT, 'param_count': 1, 'img_size': 32, 'absent': {SCRIPT: IMAGE},
        'benchmarks': {SCRIPT: entry, IMAGE: entry, 'cue-conflict': conflict},
    }  # fmt: skip


def test_report(tmp_path):
    folder = tmp_path / IMAGE.replace('/', '_')
    folder.mkdir()
    (folder / 'results.json').write_text(json.dumps(hostile_results()))
    assert main(['report', str(folder), '--with-published', '--output', str(tmp_path / 'r.html')]) == 0
    tags = Tags((tmp_path / 'r.html').read_text()).found
    assert tags.count('script') == 1  # Our own.
    assert 'img' not in tags


def test_tables(tmp_path):
    table = format_results(hostile_results())
    assert '<script' not in table
    assert '<img' not in table
    assert '](http' not in table


def test_cards(tmp_path):
    (section,) = evaluation_sections([hostile_results()])
    assert '<script' not in section.text
    assert '<img' not in section.text


def test_card_of_a_run(tmp_path):
    """Flags of a run that would end the block of code they stand in, and begin one that is shown as HTML."""
    run = tmp_path / 'run'
    run.mkdir()
    state = timm.create_model('test_resnet', num_classes=3).state_dict()
    torch.save({'state_dict': state}, run / 'model_best.pth.tar')
    args = {'model': 'test_resnet', 'num_classes': 3, 'device': 'cpu', 'dataset': SCRIPT}
    (run / 'args.yaml').write_text(yaml.safe_dump(args | {'input_key': f'\n```\n{SCRIPT}\n```'}))
    argv = ['release', str(run), '--name', 'x', '--license', SCRIPT, '--output', str(tmp_path / 'out')]
    assert main(argv) == 0
    card = (tmp_path / 'out' / 'README.md').read_text()
    front, _, body = card.removeprefix('---\n').partition('\n---\n')
    assert yaml.safe_load(front)['license'] == SCRIPT
    fence, inside = '', []
    for line in body.splitlines():
        if line.startswith('```') and not fence:
            fence = line[: len(line) - len(line.lstrip('`'))]
        elif fence and line == fence:
            fence = ''
        elif not fence:
            assert '<' not in line, line
        else:
            inside.append(line)
    assert SCRIPT in '\n'.join(inside)


def test_spreadsheets(tmp_path):
    """A list of models whose names are formulas: in the table they are texts."""
    table = format_rows([{'model': '=HYPERLINK("http://x")', 'folder': '@x', 'error': '-1+cmd|x', 'top1': -1.5}])
    cells = table.splitlines()[1]
    assert "'=HYPERLINK" in cells
    assert "'@x" in cells
    assert "'-1+cmd" in cells
    assert ',-1.5,' in f',{cells},'


def test_terminals(tmp_path, capsys):
    """An error that quotes a file shows its control characters and does not send them."""
    (tmp_path / 'models.txt').write_text('\x1b]0;owned\x07\n')
    argv = ['validate', '--benchmarks', 'shapes_textures', '--models', tmp_path / 'models.txt', '--device', 'cpu']
    assert main([str(word) for word in [*argv, '--results-dir', tmp_path / 'results']]) == 2
    err = capsys.readouterr().err
    assert '\\x1b]0;owned\\x07' in err
    assert err.count('\n') == 1
    assert err.strip().isprintable()
