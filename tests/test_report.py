"""`timm-debias report`: coordinates against the numbers, and a page that needs nothing else."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from timm_debias.cli import main
from timm_debias.metrics import ALEXNET_ERRORS, EXTRA_CORRUPTIONS
from timm_debias.report.page import format_page
from timm_debias.report.plots import accuracy_against_mce, epsilon_curves, severity_curves, shape_bias_by_category
from timm_debias.report.published import COLUMNS, PUBLISHED, bounds
from timm_debias.report.runs import read_runs
from timm_debias.report.svg import Axis, dot, look, widened
from timm_debias.validation.benchmarks import get_benchmark
from timm_debias.validation.benchmarks.categories import category_classes

VOID = {'meta', 'br', 'hr', 'img', 'link', 'input'}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects them with their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append((self.open[-1] if self.open else '', data))


def summaries(strength: int) -> dict:
    """Summaries of benchmarks for a model that gets more right the higher `strength`, 0 to 10, made by themselves."""
    top_k = lambda right: {'images': 1000, 'top1': right, 'top5': min(1000, right + 100)}  # noqa: E731
    corrupted = {
        f'imagenet-c/{name}/{severity}': top_k(700 - 20 * number - 90 * severity + 10 * strength + 40)
        for number, name in enumerate([*ALEXNET_ERRORS, 'saturate'])
        for severity in range(1, 6)
    }
    decisions = [(3 * number + 2 * strength + 1) % 40 for number in range(16)]
    states = {
        'imagenet': {'imagenet': top_k(700 + 10 * strength)},
        'imagenet-c': {name: state | {'top1': max(state['top1'], 0)} for name, state in corrupted.items()},
        'cue-conflict': {
            'cue-conflict': {'images': [75] * 16, 'shape': decisions, 'texture': [45 - count for count in decisions]}
        },
        'fgsm': {f'fgsm/eps{epsilon:g}': top_k(int(600 / (1 + epsilon)) + 10 * strength) for epsilon in (8, 0, 0.5, 2)},
        'pgd': {'pgd/eps4': top_k(strength)},
    }
    measured: dict = {}
    for name in sorted(states):
        measured[name] = get_benchmark(name).summarize(states[name], measured)
    return measured


def write(folder, model, strength, names=None, **changes):
    measured = {name: summary for name, summary in summaries(strength).items() if names is None or name in names}
    return store(folder, model, measured, **changes)


def store(folder, model, measured, **changes):
    benchmarks = {
        name: dict(
            protocol=f'{name} as published', partial=False, subset=None, images=1000, skipped=[], fingerprint='f' * 64,
            headline=summary.headline, metrics=summary.metrics, notes=summary.notes,
        ) | changes
        for name, summary in measured.items()
    }  # fmt: skip
    results = dict(model=model, param_count=25.56, img_size=224, weights='a' * 64, absent={'imagenet-o': 'no folder'})
    folder.mkdir()
    (folder / 'results.json').write_text(json.dumps({**results, 'benchmarks': benchmarks}))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return read_runs([write(tmp_path / 'plain', 'resnet50', 1), write(tmp_path / 'better', 'convnext_tiny', 5)])


def dots(markup: str) -> list[tuple[float, float, str]]:
    """Return x, y and words of all dots."""
    found = re.findall(r'<g class="dot" transform="translate\(([\d.]+) ([\d.]+)\)".*?<title>(.*?)</title>', markup)
    return [(float(x), float(y), words) for x, y, words in found]


def drawings(markup: str) -> dict[str, str]:
    return dict(re.findall(r'<svg [^>]*role="img" aria-label="(.*?)">(.*?</svg>)', markup))


def test_words_in_drawings_are_escaped():
    assert '<title>a &lt;b&gt; &amp; &quot;c&quot;</title>' in dot(0, 0, look(0), 'a <b> & "c"')


def test_accuracy_against_mce(runs):
    found = dots(accuracy_against_mce(runs, with_published=False))
    assert len(found) == 2
    figures = [(summary['imagenet'].metrics['top1'], summary['imagenet-c'].metrics['mce']) for summary in
               (summaries(1), summaries(5))]  # fmt: skip
    # Two dots fix both scales: the intervals of the accuracy span the range of x, with a tenth of room.
    intervals = [summaries(strength)['imagenet'].metrics['top1_interval'] for strength in (1, 5)]
    x_axis = Axis('', *widened([value for interval in intervals for value in interval]), 60, 620)
    y_axis = Axis('', *widened([mce for _, mce in figures]), 370, 20)
    for (x, y, words), (top1, mce) in zip(found, figures, strict=True):
        assert (x, y) == pytest.approx((x_axis.at(top1), y_axis.at(mce)), abs=0.06)
        assert f'{top1:.2f} %, mCE {mce:.2f} %' in words
    assert found[1][0] > found[0][0]
    assert found[1][1] > found[0][1]  # A lower mCE is further down.


def test_published_figures_are_marked(runs):
    found = dots(accuracy_against_mce(runs, with_published=True))
    assert len(found) == 2 + len(PUBLISHED)
    assert all('published' in words for *_, words in found[2:])
    page = format_page(runs, with_published=True)
    assert page.count('published, not measured') == len(PUBLISHED)
    assert 'EasyRobust' in page
    assert 'humans, published' in page
    assert 'ublished by others' not in format_page(runs, with_published=False)
    assert 'EasyRobust' not in format_page(runs, with_published=False)


def test_published_table():
    rows = {row.name: row.figures for row in PUBLISHED}
    assert len(rows) == 9
    assert rows['ResNet-50 of torchvision'][COLUMNS[3]] == '76.43'
    official = rows['ResNet-50, debiased, official weights']
    assert bounds(official['imagenet-c', 'mce']) == (67.3, 67.6)
    assert (official['imagenet-v2', 'top1'], official['imagenet-sketch', 'top1']) == ('65.04', '28.41')
    assert ('stylized-imagenet', 'top1') not in rows['ResNet-50, PRIME']
    assert all(0 <= low <= high <= 100 for row in rows.values() for low, high in map(bounds, row.values()))


def test_shape_bias_by_category(runs):
    markup = shape_bias_by_category(runs, with_published=False)
    found = {words: (x, y) for x, y, words in dots(markup)}
    assert len(found) == 2 * 16
    axis = Axis('', 1, 0, 100, 620)  # Shape on the left.
    for label, strength in (('resnet50', 1), ('convnext_tiny', 5)):
        rows = summaries(strength)['cue-conflict'].metrics['categories']
        for number, category in enumerate(category_classes()):
            shape, texture = rows[category]['shape'], rows[category]['texture']
            x, y = found[f'{label}, {category}: {shape} by shape, {texture} by texture']
            assert x == pytest.approx(axis.at(shape / (shape + texture)), abs=0.06)
            assert 60 + 26 * number < y < 60 + 26 * (number + 1)
    assert re.findall(r'class="mean" x1="([\d.]+)"', markup)[0] == (
        f'{axis.at(summaries(1)["cue-conflict"].metrics["shape_bias"] / 100):.1f}'
    )
    assert 'text-anchor="end">airplane<' in markup
    published = shape_bias_by_category(runs, with_published=True)
    assert f'x1="{axis.at(0.9587):.1f}"' in published


def test_severity_curves(runs):
    charts = drawings(severity_curves(runs))
    assert list(charts) == [
        'mean of the 15', *(name.replace('_', ' ') for name in ALEXNET_ERRORS), 'saturate (extra)'
    ]  # fmt: skip
    assert EXTRA_CORRUPTIONS[-1] == 'saturate'
    x_axis, y_axis = Axis('', *widened([1, 5]), 52, 280), Axis('', 0, 100, 190, 30)
    errors = summaries(5)['imagenet-c'].metrics['errors']
    for chart, wanted in (
        ('fog', lambda severity: errors['fog'][severity]['error']),
        ('mean of the 15', lambda severity: np.mean([errors[name][severity]['error'] for name in ALEXNET_ERRORS])),
    ):
        found = dots(charts[chart])[5:]
        for number, (x, y, _) in enumerate(found, start=1):
            assert (x, y) == pytest.approx((x_axis.at(number), y_axis.at(wanted(str(number)))), abs=0.06)
        (curve,) = re.findall(r'points="([^"]*)"', charts[chart])[1:]
        assert curve.split() == [f'{x:.1f},{y:.1f}' for x, y, _ in found]


def test_images_of_ones_own(tmp_path):
    """Their categories are those of either model, none of them ImageNet's; and nothing says ImageNet-C."""
    conflict = {'names': ['boot', 'hat'], 'images': [4, 4], 'shape': [3, 0], 'texture': [1, 2]}
    corrupted = {
        f'folder-c/{name}/{severity}': {'images': 10, 'top1': 9 - severity, 'top5': 10}
        for name in ('fog', 'snow')
        for severity in range(1, 6)
    }
    attacked = {f'folder-fgsm/eps{epsilon}': {'images': 10, 'top1': 9 - epsilon, 'top5': 10} for epsilon in (1, 4)}
    states = {'folder-cue-conflict': {'folder-cue-conflict': conflict}, 'folder-c': corrupted, 'folder-fgsm': attacked}
    made = {name: get_benchmark(name).summarize(state, {}) for name, state in states.items()}
    others = {'names': ['coat', 'hat'], 'images': [4, 4], 'shape': [1, 1], 'texture': [1, 3]}
    other = {'folder-cue-conflict': get_benchmark('folder-cue-conflict').summarize({'folder-cue-conflict': others}, {})}
    folders = [store(tmp_path / 'a', 'resnet18', made), store(tmp_path / 'b', 'resnet34', other)]
    page = format_page(read_runs(folders), with_published=True)
    Page(page)
    titles = ['Shape bias on folder-cue-conflict', 'Error on folder-c by severity', 'Attacks', 'Protocols', 'Models']
    assert re.findall('<h2>(.*?)</h2>', page) == titles
    charts = drawings(page)
    assert set(charts) == {'Shape and texture decisions by category', 'fog', 'snow', 'folder-fgsm'}
    shapes = charts['Shape and texture decisions by category']
    assert re.findall('text-anchor="end">(.*?)<', shapes) == ['boot', 'hat', 'coat']
    assert [words for *_, words in dots(shapes)] == [
        'resnet18, boot: 3 by shape, 1 by texture', 'resnet18, hat: 0 by shape, 2 by texture',
        'resnet34, hat: 1 by shape, 3 by texture', 'resnet34, coat: 1 by shape, 1 by texture',
    ]  # fmt: skip
    assert 'humans' not in page
    assert [words for *_, words in dots(charts['snow'])] == [f'resnet18, {n}: {10 * n + 10:.2f} %' for n in range(1, 6)]


def test_attack_without_points(runs):
    """A file may hold such a one."""
    for run in runs:
        for entry in run.results['benchmarks'].values():
            if 'curve' in entry['metrics']:
                entry['metrics']['curve'] = []
    assert not drawings(epsilon_curves(runs))


def test_epsilon_curves_are_in_order(runs):
    charts = drawings(epsilon_curves(runs))
    assert list(charts) == ['fgsm', 'pgd']
    found = dots(charts['fgsm'])[:4]
    assert [words for *_, words in found] == [
        'resnet50, 0: 61.00 %', 'resnet50, 0.5: 41.00 %', 'resnet50, 2: 21.00 %', 'resnet50, 8: 7.60 %'
    ]  # fmt: skip
    axis = Axis('', *widened([0, 8]), 52, 280)
    assert [x for x, _, _ in found] == pytest.approx([axis.at(value) for value in (0, 0.5, 2, 8)], abs=0.06)
    assert [y for _, y, _ in found] == pytest.approx([190 - 1.6 * value for value in (61, 41, 21, 7.6)], abs=0.06)


def test_only_what_was_measured_is_shown(tmp_path):
    names = ('imagenet', 'cue-conflict')
    runs = read_runs([write(tmp_path / 'a', 'resnet50', 1, names), write(tmp_path / 'b', 'resnet50', 2, ['pgd'])])
    page = format_page(runs, with_published=False)
    assert re.findall('<h2>(.*?)</h2>', page) == ['Shape bias on cue-conflict', 'Attacks', 'Protocols', 'Models']
    assert 'resnet50, a' in page  # Two models of one name go by their folders.
    assert 'imagenet-o, no folder' in page


def test_table(runs):
    page = format_page(runs, with_published=True)
    first, second, *rest = re.findall(r'<tr[^>]*><td data-value.*?</tr>', page, re.DOTALL)
    top1, low, high = 71.0, *summaries(1)['imagenet'].metrics['top1_interval']
    assert f'data-value="{top1}">{top1:.2f}<small>[{low:.2f}, {high:.2f}]</small>' in first
    assert f'{summaries(5)["imagenet-c"].metrics["mce"]:.2f}</td>' in second
    assert len(rest) == len(PUBLISHED)
    heads = re.findall(r'<th[ >].*?</th>', page.split('</thead>')[0])
    assert all(len(re.findall('<td', row)) == len(heads) for row in (first, second, *rest))
    assert 'mce ↓' in page
    assert 'top1 ↓' not in page
    assert 'imagenet-c as published' in page


def test_partial_results_and_subsets_are_marked(tmp_path):
    changes = dict(partial=True, subset='subset of 5,000', skipped=['x'])
    page = format_page(read_runs([write(tmp_path / 'a', 'resnet50', 1, **changes)]), with_published=False)
    mark = 'subset of 5,000, partial, 1 skipped'
    assert f'<small class="mark">{mark}</small>' in page
    assert page.count(f' resnet50 ({mark})</li>') == 4  # The legend of each plot.


def test_page_is_balanced_escaped_and_needs_nothing_else(tmp_path):
    name = '<img src=x onerror="alert(1)">&\'</script>'
    runs = read_runs([write(tmp_path / 'a', name, 1, protocol=name), write(tmp_path / 'b', 'plain', 2)])
    text = format_page(runs, with_published=True)
    page = Page(text)
    assert name not in text
    assert {tag for tag, _ in page.tags}.isdisjoint({'img', 'link', 'iframe', 'object', 'image', 'use'})
    for tag, attributes in page.tags:
        assert attributes.keys().isdisjoint({'src', 'href', 'xlink:href', 'srcset', 'onerror', 'onclick'}), tag
    assert not re.search(r'https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp', text)
    assert [words for tag, words in page.words if tag == 'td' and words == name]
    assert sum(tag == 'script' for tag, _ in page.tags) == 1


def test_command(tmp_path, capsys):
    folders = [write(tmp_path / 'a', 'resnet50', 1), write(tmp_path / 'b', 'resnet50', 2)]
    output = tmp_path / 'report.html'
    assert main(['report', *folders, '--output', str(output)]) == 0
    assert Page(output.read_text(encoding='utf-8')).tags
    (tmp_path / 'shards').mkdir()
    (tmp_path / 'shards' / 'results-1-of-2.json').write_text('[]')
    for wrong, words in (
        ([str(tmp_path)], 'is no results folder'),
        ([str(tmp_path / 'shards')], 'holds shards of --models'),
        ([folders[0], folders[0] + '/'], 'is given twice'),
        ([], 'RESULTS_DIR'),
    ):
        capsys.readouterr()
        assert main(['report', *wrong, '--output', str(output)]) == 2
        assert words in capsys.readouterr().err


def test_a_folder_of_many_models(tmp_path, capsys):
    (tmp_path / 'many').mkdir()
    write(tmp_path / 'many' / 'a', 'resnet50', 1)
    write(tmp_path / 'many' / 'b', 'resnet18', 2)
    models = [{'folder': 'b'}, {'folder': 'failed', 'error': 'torn'}, {'folder': 'a'}]
    (tmp_path / 'many' / 'results.json').write_text(json.dumps(models))
    assert [run.label for run in read_runs([str(tmp_path / 'many')])] == ['resnet18', 'resnet50']
    assert main(['report', str(tmp_path / 'many'), str(tmp_path / 'many' / 'a'), '--output', str(tmp_path / 'r')]) == 2
    assert 'is given twice' in capsys.readouterr().err
    assert main(['compare', str(tmp_path / 'many'), str(tmp_path / 'many' / 'a')]) == 2
    message = capsys.readouterr().err
    assert 'results of many models' in message
    assert str(tmp_path / 'many' / 'b') in message


def test_measured_results(suite, tmp_path):
    assert suite('--benchmarks', 'all', '--results-dir', tmp_path / 'results') == 0
    assert main(['report', str(tmp_path / 'results'), '--output', str(tmp_path / 'r.html'), '--with-published']) == 0
    page = (tmp_path / 'r.html').read_text(encoding='utf-8')
    Page(page)
    results = json.loads((tmp_path / 'results' / 'results.json').read_text())
    for entry in results['benchmarks'].values():
        for value in entry['headline'].values():
            assert value is None or f'data-value="{value}"' in page
    assert len(drawings(page)) == 2 + 20 + 3


def browse(tmp_path, *arguments) -> subprocess.CompletedProcess:
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('no chromium on PATH to look at the page with')
    quiet = ['--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking', '--disable-sync']
    command = [chromium, '--headless', '--no-sandbox', '--disable-gpu', *quiet, f'--user-data-dir={tmp_path}/profile']
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.slow
def test_in_a_browser(runs, tmp_path):
    page = tmp_path / 'report.html'
    page.write_text(format_page(runs, with_published=True), encoding='utf-8')
    picture = tmp_path / 'page.png'
    browse(tmp_path, f'--screenshot={picture}', '--window-size=1300,3000', page.as_uri())
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert('RGB')).reshape(-1, 3).astype(int)
    # Without a click, the marks of both models are there, and most of the page is white.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (abs(pixels - colour).max(axis=1) < 8).sum() > 500
    assert 0.5 < (pixels == 255).all(axis=1).mean() < 0.99


@pytest.mark.slow
def test_sorting_in_a_browser(runs, tmp_path):
    page = tmp_path / 'report.html'
    clicks = (
        "<script>const head = [...document.querySelectorAll('th button')].find((b) => b.textContent.includes('mce'));"
        'CLICKS</script></body>'
    )
    orders = []
    for times in (1, 2):
        script = clicks.replace('CLICKS', 'head.click();' * times)
        page.write_text(format_page(runs, with_published=True).replace('</body>', script), encoding='utf-8')
        shown = browse(tmp_path, '--dump-dom', page.as_uri()).stdout
        rows = re.findall(r'<tr[^>]*><td data-value="([^"]*)"', shown)
        assert len(rows) == 2 + len(PUBLISHED)
        orders.append(rows)
        assert 'aria-sort="descending"' in shown or times == 2
    mce = {row.name: sum(bounds(row.figures['imagenet-c', 'mce'])) / 2 for row in PUBLISHED}
    mce |= {run.label: run.results['benchmarks']['imagenet-c']['metrics']['mce'] for run in runs}
    assert orders[0] == sorted(mce, key=lambda name: -mce[name])
    assert orders[1] == orders[0][::-1]
