"""Texts stay texts where some characters are commands."""

import csv
import io

import pytest

from timm_debias.escaping import csv_cell, markdown_code, markdown_text, one_line


def test_one_line():
    assert one_line('a \n b\tc') == 'a b c'
    assert one_line('né 95 %') == 'né 95 %'
    assert one_line('\x1b[2J\x07\udc80') == '\\x1b[2J\\x07\\udc80'


@pytest.mark.parametrize(
    'text', ['<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '![x](http://tracker)', '[x](javascript:1)']
)
def test_markdown_text(text):
    shown = markdown_text(f'{text}\n# heading | cell')
    assert '<' not in shown
    assert '](' not in shown
    assert '\n' not in shown
    assert '\\|' in shown


def test_markdown_code():
    text = 'x\n```\n<script>\n````'
    lines = markdown_code(text, 'bash').splitlines()
    fence = lines[-1]
    assert lines[0] == f'{fence}bash'
    assert set(fence) == {'`'}
    assert not any(line.startswith(fence) for line in text.splitlines())
    assert markdown_code('ls') == '```\nls\n```'


@pytest.mark.parametrize('text', ['=cmd|x!A1', '+1', '-1', '@SUM(A1)', '\t=1'])
def test_formulas(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize('value', [-1.5, 3, None, 'resnet50', '', 'a=b'])
def test_other_cells(value):
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(value)])
    assert csv_cell(value) == value
