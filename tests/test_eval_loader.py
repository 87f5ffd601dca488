"""Validation images that cannot be read: an error, or left out of the metrics."""

import pytest
import timm.data
import torch
from bad_files import picture
from timm.task import ClassificationEvaluator

from timm_debias import DebiasError
from timm_debias.data.factory import create_dataset
from timm_debias.evaluate import evaluate
from timm_debias.training.eval_loader import EvalLoader


class MeanColour(torch.nn.Module):
    """Logits that depend on the images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 11, bias=False)
        torch.nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        return self.head(images.mean(dim=(2, 3)))


@pytest.fixture
def folder(tmp_path):
    """11 images, each of a class of its own."""
    for number in range(11):
        path = tmp_path / 'val' / f'{number:02d}' / 'image.png'
        path.parent.mkdir(parents=True)
        picture(seed=number).save(path)
    return tmp_path


def loader_of(folder, policy='skip', num_classes=11, batch_size=4, distributed=False, **options):
    options = {'num_workers': 0, 'device': torch.device('cpu'), 'distributed': distributed, **options}
    dataset = create_dataset('', str(folder), 'val', 32)
    return EvalLoader(
        lambda dataset: timm.data.create_loader(dataset, (3, 16, 16), batch_size, is_training=False, **options),
        dataset, options['num_workers'], policy, num_classes,
    )  # fmt: skip


def measure(loader):
    evaluator = ClassificationEvaluator('cpu', max_samples=loader.limit)
    with loader.counted_by(evaluator):
        metrics = evaluate(MeanColour(), loader, torch.device('cpu'), evaluator=evaluator)
    return metrics, evaluator


def spoil(folder, *numbers):
    for number in numbers:
        (folder / 'val' / f'{number:02d}' / 'image.png').write_bytes(b'')


@pytest.mark.parametrize('options', [{}, {'num_workers': 1}, {'use_prefetcher': False}], ids=str)
def test_left_out(folder, options):
    """The metrics are those of the images that are left, computed one by one."""
    dataset, model = create_dataset('', str(folder), 'val', 32), MeanColour()
    transform = timm.data.create_transform((3, 16, 16), normalize=True)
    losses = [
        torch.nn.functional.cross_entropy(model(transform(image)[None]), torch.tensor([label])).item()
        for image, label in dataset
    ]
    spoil(folder, 2, 9)
    loader = loader_of(folder, **options)
    metrics, evaluator = measure(loader)
    assert evaluator.num_samples == 9
    expected = [loss for number, loss in enumerate(losses) if number not in (2, 9)]
    assert metrics['loss'] == pytest.approx(sum(expected) / 9, rel=1e-6)
    assert [bad.name for bad in loader.bad] == [str(folder / 'val' / name / 'image.png') for name in ('02', '09')]
    measure(loader)
    assert len(loader.bad) == 2  # Those of the last validation, not of all.


@pytest.mark.parametrize(('bad', 'counted'), [((0,), (5, 5)), ((1,), (6, 4)), ((0, 1, 10), (4, 4)), ((), (6, 5))])
@pytest.mark.parametrize('batch_size', [2, 3])
def test_each_image_once_in_two_processes(folder, monkeypatch, bad, counted, batch_size):
    """The second process shows image 0 again to fill up, which must not count, bad or not."""
    spoil(folder, *bad)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: 2)
    total, named = [], []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda *_, rank=rank: rank)
        monkeypatch.setattr(torch.distributed, 'is_available', lambda: True)
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        loader = loader_of(folder, batch_size=batch_size, distributed=True)
        assert len(loader) == 6 // batch_size
        total.append(measure(loader)[1].num_samples)
        named += [bad.name for bad in loader.bad]
    assert tuple(total) == counted
    assert sorted(named) == [str(folder / 'val' / f'{number:02d}' / 'image.png') for number in bad]


def test_error(folder):
    spoil(folder, 5)
    with pytest.raises(DebiasError, match=r'unreadable image .*05/image.png'):
        measure(loader_of(folder, 'error'))


def test_label_of_no_class(folder):
    with pytest.raises(DebiasError, match=r'10/image.png \(label 10, and the model has the classes 0 to 9'):
        measure(loader_of(folder, num_classes=10))


def test_a_batch_of_bad_images(folder):
    spoil(folder, 4, 5, 6, 7)
    with pytest.raises(DebiasError, match='4 of 4 images of a batch are unreadable'):
        measure(loader_of(folder))


def test_streams_are_left_to_their_readers():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.ones(3, 8, 8), 1)] * 3)

    loader = EvalLoader(lambda dataset: torch.utils.data.DataLoader(dataset, batch_size=2), Stream(), 0)
    assert [len(images) for images, _ in loader] == [2, 1]
    assert loader.limit is None
