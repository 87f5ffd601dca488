"""Partners over all processes: what one process with the whole batch computes."""

import os

import pytest
import torch
from processes import launch

from timm_debias import DebiasError, create_stylizer
from timm_debias.global_mix import GlobalMix
from timm_debias.machine import init_machine
from timm_debias.mix import ShapeTextureMix
from timm_debias.stylizers.adain_vgg19 import AdainVgg19

PER_PROCESS = 3


def mix(kind, stylizer):
    return kind(stylizer, 0.5, torch.Generator().manual_seed(3))


@pytest.mark.parametrize(('world_size', 'dtype'), [(2, torch.float32), (4, torch.float32), (2, torch.float16)])
@pytest.mark.parametrize('name', ['adain_lite', 'colour'])
def test_as_one_process_with_the_whole_batch(tmp_path, colour_stylizer, world_size, dtype, name):
    stylizer = colour_stylizer if name == 'colour' else create_stylizer(name)
    images = torch.rand(PER_PROCESS * world_size, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(len(images))

    def run():
        machine = init_machine('cpu')
        own = slice(machine.rank, None, world_size)
        global_mix = mix(GlobalMix, stylizer)
        results = [global_mix(images[own], labels[own]) for _ in range(2)]
        results.append(global_mix(images[own], torch.eye(len(images))[own]))
        torch.save(results, tmp_path / f'{machine.rank}.pt')
        torch.distributed.destroy_process_group()

    ended = launch(run, world_size, tmp_path / 'log')
    assert [process.code for process in ended] == [0] * world_size, ended
    whole = mix(ShapeTextureMix, stylizer)
    atol = 1e-6 if dtype == torch.float32 else 1e-3  # Half precision near 1: the last digit.
    shares = [torch.load(tmp_path / f'{rank}.pt') for rank in range(world_size)]
    for number, targets in enumerate([labels, labels, torch.eye(len(images))]):
        expected_images, expected_labels = whole(images, targets)
        for rank in range(world_size):
            stylised, texture_labels = shares[rank][number]
            assert torch.equal(texture_labels, expected_labels[rank::world_size])
            torch.testing.assert_close(stylised, expected_images[rank::world_size], atol=atol, rtol=0)


def test_some_partners_are_elsewhere():
    """The test above would pass with partners within each process otherwise."""
    partners = mix(GlobalMix, torch.nn.Identity()).sample(8)
    assert {int(partner) % 2 for partner in partners[::2]} == {0, 1}


def test_partners_of_its_own_batch_need_no_other_process(tmp_path, colour_stylizer, images):
    """One process stylises so while the other does nothing."""
    arguments = images, torch.arange(8), torch.arange(8).roll(1)

    def run():
        if init_machine('cpu').is_primary:
            torch.save(mix(GlobalMix, colour_stylizer).apply(*arguments), tmp_path / 'own.pt')
        torch.distributed.destroy_process_group()

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended
    torch.testing.assert_close(torch.load(tmp_path / 'own.pt'), mix(ShapeTextureMix, colour_stylizer).apply(*arguments))


@pytest.mark.parametrize(('name', 'size'), [('adain_lite', 114_624), ('adain_vgg19', 4_096)])
def test_what_travels_for_an_image(name, size):
    """The sizes that the docstring gives, rounded."""
    stylizer = create_stylizer(name) if name == 'adain_lite' else AdainVgg19()
    style = stylizer.style(stylizer.encode(torch.rand(1, 3, 224, 224)))
    assert sum(tensor.nbytes for tensor in style) == size


def test_alone_it_is_the_plain_mix(colour_stylizer, images):
    labels = torch.arange(8)
    first, second = (mix(kind, colour_stylizer)(images, labels) for kind in (GlobalMix, ShapeTextureMix))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_one_image_alone_is_refused(colour_stylizer, images):
    assert 'WORLD_SIZE' not in os.environ
    with pytest.raises(DebiasError, match='a batch of 1'):
        mix(GlobalMix, colour_stylizer)(images[:1], torch.zeros(1))
