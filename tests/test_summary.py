"""summary.csv: as timm writes it, and whole whenever a run is stopped."""

import csv

from timm.utils import update_summary as timm_update_summary

from timm_debias.training.summary import update_summary


def test_as_timm_writes_it(tmp_path):
    for epoch in range(3):
        train, validation = {'loss': 0.1 * epoch, 'top1_clean': 3.0}, {'top1': 12.5, 'shape_bias': None}
        update_summary(tmp_path / 'ours.csv', epoch, train, validation, lr=0.1 / 3)
        timm_update_summary(epoch, train, validation, filename=str(tmp_path / 'timms.csv'), lr=0.1 / 3)
    ours, timms = ((tmp_path / name).read_text().split() for name in ('ours.csv', 'timms.csv'))
    assert ours == timms


def test_rows_of_a_run_that_goes_back_are_replaced(tmp_path):
    path = tmp_path / 'summary.csv'
    for epoch, loss in [(0, 1), (1, 2), (2, 3), (1, 4)]:
        update_summary(path, epoch, {'loss': loss}, None, lr=1)
    assert [(row['epoch'], row['train_loss']) for row in csv.DictReader(path.open())] == [('0', '1'), ('1', '4')]


def test_columns_that_come_later(tmp_path):
    path = tmp_path / 'summary.csv'
    update_summary(path, 0, {'loss': 1}, None, lr=1)
    update_summary(path, 1, {'loss': 1}, {'top1': 5}, lr=1)
    assert [row['eval_top1'] for row in csv.DictReader(path.open())] == ['', '5']
