"""Stylizers against other formulations of AdaIN, and their weight files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from timm_debias import DebiasError, Stylizer, create_stylizer, list_stylizers, register_stylizer
from timm_debias.benchmark.size import count_macs
from timm_debias.data.shapes_textures import ShapesTextures
from timm_debias.stylizers import registry, save_stylizer
from timm_debias.stylizers.adain_lite import WEIGHTS, AdainLite
from timm_debias.stylizers.adain_vgg19 import RELEASE
from timm_debias.stylizers.base import adain, mean_std

# Index and shape of every convolution in the AdaIN release.
ENCODER = {
    0: (3, 3, 1), 2: (64, 3, 3), 5: (64, 64, 3), 9: (128, 64, 3), 12: (128, 128, 3), 16: (256, 128, 3),
    19: (256, 256, 3), 22: (256, 256, 3), 25: (256, 256, 3), 29: (512, 256, 3), 32: (512, 512, 3),
    35: (512, 512, 3), 38: (512, 512, 3), 42: (512, 512, 3), 45: (512, 512, 3), 48: (512, 512, 3), 51: (512, 512, 3),
}  # fmt: skip
DECODER = {
    1: (256, 512, 3), 5: (256, 256, 3), 8: (256, 256, 3), 11: (256, 256, 3), 14: (128, 256, 3), 18: (128, 128, 3),
    21: (64, 128, 3), 25: (64, 64, 3), 28: (3, 64, 3),
}  # fmt: skip


def random_state(layout: dict, seed: int) -> dict[str, torch.Tensor]:
    """A state dict of the release's layout with random weights of a useful size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for index, (outputs, inputs, side) in layout.items():
        scale = (2 / (inputs * side * side)) ** 0.5
        state[f'{index}.weight'] = scale * torch.randn(outputs, inputs, side, side, generator=generator)
        state[f'{index}.bias'] = 0.05 * torch.randn(outputs, generator=generator)
    return state


@pytest.fixture(scope='module')
def release(tmp_path_factory):
    """A folder with the two files of the AdaIN release, random weights in them."""
    folder = tmp_path_factory.mktemp('release')
    torch.save(random_state(ENCODER, 0), folder / 'vgg_normalised.pth')
    torch.save(random_state(DECODER, 1), folder / 'decoder.pth')
    return folder


@pytest.fixture(scope='module', params=['adain_lite', 'adain_vgg19'])
def stylizer(request, release) -> Stylizer:
    return create_stylizer(request.param, release if request.param == 'adain_vgg19' else None)


def batch(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def test_adain_by_numpy():
    """Each channel by itself: standardise with content's statistics, scale with the style's, blend."""
    content, style = batch(2, 3, 5, 7).double(), 4 * batch(2, 3, 6, 4, seed=1).double() - 1
    result = adain(content, *mean_std(style), 0.3)
    for image in range(2):
        for channel in range(3):
            c, s = content[image, channel].numpy(), style[image, channel].numpy()
            c_std = np.sqrt(((c - c.mean()) ** 2).sum() / (c.size - 1) + 1e-5)
            s_std = np.sqrt(((s - s.mean()) ** 2).sum() / (s.size - 1) + 1e-5)
            expected = 0.3 * ((c - c.mean()) / c_std * s_std + s.mean()) + 0.7 * c
            np.testing.assert_allclose(result[image, channel].numpy(), expected, atol=1e-5)


def test_statistics_are_float32_under_autocast():
    features = 300 + batch(1, 2, 64, 64).to(torch.bfloat16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mean, std = mean_std(features)
    assert mean.dtype == std.dtype == torch.float32
    expected = features.double().mean((2, 3), keepdim=True)
    torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=0)


def test_vgg19_against_the_reference_pipeline(release):
    """The paper's pipeline written out with functional calls on the release's own keys."""
    encoder, decoder = random_state(ENCODER, 0), random_state(DECODER, 1)

    def convolve(x, state, index, relu=True):
        side = state[f'{index}.weight'].shape[-1]
        x = F.pad(x, (side // 2,) * 4, mode='reflect') if side > 1 else x
        x = F.conv2d(x, state[f'{index}.weight'], state[f'{index}.bias'])
        return F.relu(x) if relu else x

    def encode(x):
        x = convolve(x, encoder, 0, relu=False)
        for index in (2, 5, 'M', 9, 12, 'M', 16, 19, 22, 25, 'M', 29):
            x = F.max_pool2d(x, 2, ceil_mode=True) if index == 'M' else convolve(x, encoder, index)
        return x

    content, style = batch(2, 3, 40, 48), batch(2, 3, 32, 32, seed=1)
    f, g = encode(content), encode(style)
    variance = [x.flatten(2).var(2)[..., None, None] + 1e-5 for x in (f, g)]
    mean = [x.flatten(2).mean(2)[..., None, None] for x in (f, g)]
    target = (f - mean[0]) / variance[0].sqrt() * variance[1].sqrt() + mean[1]
    x = 0.6 * target + 0.4 * f
    for index in (1, 'U', 5, 8, 11, 14, 'U', 18, 21, 'U', 25, 28):
        x = F.interpolate(x, scale_factor=2) if index == 'U' else convolve(x, decoder, index, relu=index != 28)
    result = create_stylizer('adain_vgg19', release)(content, style, 0.6)
    torch.testing.assert_close(result, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('size', [(16, 16), (17, 31), (64, 48), (45, 90)])
def test_shape_of_the_content_is_kept(stylizer, size):
    images = batch(2, 3, *size)
    result = stylizer(images, batch(2, 3, 20, 33), 0.5)
    assert result.shape == images.shape
    assert result.isfinite().all()


def test_compiles_without_a_graph_break(stylizer):
    images, partners = batch(2, 3, 32, 32), torch.tensor([1, 0])
    compiled = torch.compile(stylizer.mix, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(images, partners, 0.5), stylizer.mix(images, partners, 0.5))


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_one_encoding_equals_two(stylizer, alpha):
    images, partners = batch(4, 3, 37, 32), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        stylizer.mix(images, partners, alpha), stylizer(images, images[partners], alpha), atol=1e-5, rtol=1e-4
    )


def test_mix_encodes_once(stylizer, monkeypatch):
    calls = []
    encode = stylizer.encode
    monkeypatch.setattr(stylizer, 'encode', lambda images: calls.append(len(images)) or encode(images))
    stylizer.mix(batch(4, 3, 32, 32), torch.tensor([1, 2, 3, 0]), 0.5)
    assert calls == [4]


def test_alpha_zero_ignores_the_style(stylizer):
    images = batch(2, 3, 32, 32)
    first, second = (stylizer(images, batch(2, 3, 32, 32, seed=seed), 0.0) for seed in (1, 2))
    torch.testing.assert_close(first, second)


def test_autocast_is_close_to_float32(stylizer):
    images, partners = batch(2, 3, 32, 32), torch.tensor([1, 0])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = stylizer.mix(images, partners, 0.5)
    full = stylizer.mix(images, partners, 0.5)
    assert (half.float() - full).abs().mean() < 0.05 * full.std()


def test_created_frozen_and_in_eval_mode(stylizer):
    assert not stylizer.training
    assert not any(parameter.requires_grad for parameter in stylizer.parameters())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_refuses_pixels_that_are_no_numbers(stylizer, value):
    images = batch(3, 3, 32, 32)
    images[1, 2, 5, 6] = value
    for call in (
        lambda: stylizer.mix(images, torch.tensor([1, 2, 0])),
        lambda: stylizer(batch(3, 3, 32, 32), images),
        lambda: stylizer(images, batch(3, 3, 32, 32)),
    ):
        with pytest.raises(DebiasError, match='NaN or infinite pixels in image 1 of 3'):
            call()


@pytest.mark.parametrize(
    ('images', 'alpha', 'message'),
    [
        (torch.zeros(1, 3, 15, 32), 0.5, '15×32 pixels.*16×16'),
        (torch.zeros(1, 1, 32, 32), 0.5, r'\[1, 1, 32, 32\]'),
        (torch.zeros(3, 32, 32), 0.5, r'\[3, 32, 32\]'),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0.5, 'uint8'),
        (torch.zeros(1, 3, 32, 32), 1.5, 'alpha is 1.5'),
        (torch.zeros(1, 3, 32, 32), -0.1, 'alpha is -0.1'),
    ],
)
def test_refuses_wrong_input(stylizer, images, alpha, message):
    with pytest.raises(DebiasError, match=message):
        stylizer(images, images, alpha)


class TestAdainLite:
    """The shipped weights: what they are and what they do."""

    def test_size_and_cost(self):
        """At most 1.5 million parameters and 1.0 GMAC for one 224×224 image; most of it, counted layer by layer."""
        network = AdainLite()
        macs = []

        def count(module, inputs, output):
            if isinstance(module, nn.Conv2d):
                macs.append(output.numel() * module.weight[0].numel())
            elif isinstance(module, nn.Linear):
                macs.append(output.numel() * module.in_features)

        for module in network.modules():
            module.register_forward_hook(count)
        network.mix(batch(2, 3, 224, 224), torch.tensor([1, 0]))
        assert sum(parameter.numel() for parameter in network.parameters()) <= 1.5e6
        assert sum(macs) / 2 <= count_macs(network) <= 1.0e9  # Choosing and tiling patches comes on top.
        assert count_macs(network) < 1.05 * sum(macs) / 2

    def test_details_at_alpha_1_are_the_partners(self):
        """A partner of one colour gives no detail finer than 8 pixels, whatever the content."""
        content = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        partner = torch.tensor([0.2, 0.7, 0.4])[:, None, None].expand(2, 3, 64, 64)
        result = create_stylizer('adain_lite')(content, partner, 1.0)
        blocks = F.interpolate(F.avg_pool2d(result, 8), scale_factor=8, mode='bilinear')
        assert (result - blocks).abs().mean() < 0.2 * (content - content.mean((2, 3), keepdim=True)).abs().mean()
        torch.testing.assert_close(result.mean((2, 3)), partner.mean((2, 3)), atol=0.15, rtol=0)

    def test_patches_alone_tile_the_content(self):
        """With a decoder that draws nothing, the partner's patches are all there is."""
        network = AdainLite()
        nn.init.zeros_(network.to_pixels.weight)
        nn.init.zeros_(network.to_pixels.bias)
        content, partner = batch(1, 3, 37, 50), batch(1, 3, 4, 4).repeat(1, 1, 8, 8)
        with torch.no_grad():
            result = network(content, partner, 1.0)
        # Every patch of a repeated tile is the same, so that it does not matter which are chosen.
        tile = partner[..., :16, :16]
        tile = torch.cat([tile, tile.flip(-1)], -1)
        tile = torch.cat([tile, tile.flip(-2)], -2)
        torch.testing.assert_close(result, tile.repeat(1, 1, 2, 2)[..., :37, :50], atol=1e-5, rtol=0)

    def test_file_is_small(self):
        assert WEIGHTS.stat().st_size <= 3e6

    def drawings(self) -> torch.Tensor:
        from torchvision.transforms.functional import to_tensor

        data = ShapesTextures('train', img_size=128, num_samples=16)
        return torch.stack([to_tensor(data[index][0]) for index in range(16)])

    def test_reconstructs_drawings(self):
        images = self.drawings()
        rebuilt = create_stylizer('adain_lite')(images, images.roll(1, 0), 0.0).clamp(0, 1)
        psnr = -10 * F.mse_loss(rebuilt, images, reduction='none').mean((1, 2, 3)).log10()
        assert psnr.mean() > 24

    def test_transfers_colour_and_keeps_the_shape(self):
        """Mean colours move to the partner's; where the silhouette was, edges still are."""
        images = self.drawings()
        partners = images.roll(1, 0)
        stylised = create_stylizer('adain_lite')(images, partners, 1.0).clamp(0, 1)
        colour = [x.mean((2, 3)) for x in (images, partners, stylised)]
        assert (colour[2] - colour[1]).norm(dim=1).mean() < 0.5 * (colour[0] - colour[1]).norm(dim=1).mean()

        def edges(x):
            grey = F.avg_pool2d(x.mean(1, keepdim=True), 4)
            strength = (grey[..., 1:, 1:] - grey[..., :-1, 1:]).abs() + (grey[..., 1:, 1:] - grey[..., 1:, :-1]).abs()
            return strength.flatten(1)

        def correlation(a, b):
            a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
            return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))

        own = correlation(edges(stylised), edges(images)).mean()
        other = correlation(edges(stylised), edges(partners)).mean()
        assert own > other + 0.2

    @pytest.mark.parametrize('folder', ['imagenet_samples', 'clothing/validation'])
    def test_reconstructs_photographs(self, photographs, folder):
        from timm_debias.stylizer_training.data import Crops

        paths = sorted((photographs / folder).rglob('*.jpg'))[:24]
        images = Crops(paths, 128).sample(24, torch.Generator().manual_seed(0))
        rebuilt = create_stylizer('adain_lite')(images, images.roll(1, 0), 0.0).clamp(0, 1)
        psnr = -10 * F.mse_loss(rebuilt, images, reduction='none').mean((1, 2, 3)).log10()
        assert psnr.mean() > 26


class TestWeightFiles:
    def test_safetensors_conversion_is_exact(self, release, tmp_path):
        original = create_stylizer('adain_vgg19', release)
        path = tmp_path / 'adain_vgg19.safetensors'
        save_stylizer(original, path)
        for weights in (path, tmp_path):
            copy = create_stylizer('adain_vgg19', weights)
            assert all(torch.equal(a, b) for a, b in zip(original.parameters(), copy.parameters(), strict=True))

    def test_file_of_another_architecture(self, release, tmp_path):
        path = tmp_path / 'lite.safetensors'
        save_stylizer(create_stylizer('adain_lite'), path)
        with pytest.raises(DebiasError, match=r"lite.safetensors.*'adain_lite'.*'adain_vgg19'"):
            create_stylizer('adain_vgg19', path)

    @pytest.mark.parametrize('missing', ['vgg_normalised.pth', 'decoder.pth'])
    def test_missing_file_of_the_release(self, release, tmp_path, missing):
        for name in ('vgg_normalised.pth', 'decoder.pth'):
            if name != missing:
                (tmp_path / name).symlink_to(release / name)
        with pytest.raises(DebiasError, match=f'{missing} not found.*pytorch-AdaIN.*--debias-stylizer-weights'):
            create_stylizer('adain_vgg19', tmp_path)

    def test_no_network(self, tmp_path, monkeypatch):
        def fail(_):
            raise OSError('no network')

        monkeypatch.setattr('timm_debias.downloads._open', fail)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        with pytest.raises(DebiasError) as caught:
            create_stylizer('adain_vgg19')
        for part in ('vgg_normalised.pth', 'decoder.pth', 'pytorch-AdaIN/releases', '--debias-stylizer-weights'):
            assert part in str(caught.value)
        assert not list(tmp_path.rglob('*.pth'))

    def test_download_is_kept(self, release, tmp_path, monkeypatch, web):
        for name in ('vgg_normalised.pth', 'decoder.pth'):
            web.files[f'/{name}'] = (release / name).read_bytes()
        assert RELEASE == 'https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0'
        monkeypatch.setattr('timm_debias.stylizers.adain_vgg19.RELEASE', web.url)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        create_stylizer('adain_vgg19')
        create_stylizer('adain_vgg19')
        assert len(web.requests) == 2

    @pytest.mark.parametrize('change', ['shape', 'missing', 'extra'])
    def test_file_of_another_layout(self, release, tmp_path, change):
        state = random_state(DECODER, 1)
        if change == 'shape':
            state['1.weight'] = state['1.weight'][:, :8]
        elif change == 'missing':
            del state['1.weight']
        else:
            state['99.weight'] = torch.zeros(1)
        (tmp_path / 'vgg_normalised.pth').symlink_to(release / 'vgg_normalised.pth')
        torch.save(state, tmp_path / 'decoder.pth')
        key = '99.weight' if change == 'extra' else '1.weight'
        with pytest.raises(DebiasError, match=f"decoder.pth: '{key}'"):
            create_stylizer('adain_vgg19', tmp_path)

    @pytest.mark.parametrize('content', [b'', b'torn', b'PK\x03\x04'])
    def test_torn_files(self, release, tmp_path, content):
        (tmp_path / 'vgg_normalised.pth').symlink_to(release / 'vgg_normalised.pth')
        (tmp_path / 'decoder.pth').write_bytes(content)
        with pytest.raises(DebiasError, match=r'decoder\.pth'):
            create_stylizer('adain_vgg19', tmp_path)
        (tmp_path / 'a.safetensors').write_bytes(content)
        with pytest.raises(DebiasError, match=r'a\.safetensors'):
            create_stylizer('adain_lite', tmp_path / 'a.safetensors')

    def test_nothing_but_tensors_is_unpickled(self, release, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (open, (str(tmp_path / 'boom'), 'w'))

        (tmp_path / 'vgg_normalised.pth').symlink_to(release / 'vgg_normalised.pth')
        torch.save({'1.weight': Bomb()}, tmp_path / 'decoder.pth')
        with pytest.raises(DebiasError, match=r'decoder\.pth'):
            create_stylizer('adain_vgg19', tmp_path)
        assert not (tmp_path / 'boom').exists()


class TestRegistry:
    def test_names(self):
        assert list_stylizers() == ['adain_lite', 'adain_vgg19', 'band_statistics', 'fourier_amplitude']

    def test_unknown_name(self):
        with pytest.raises(DebiasError, match=r"unknown stylizer 'adain_light'. Did you mean 'adain_lite'"):
            create_stylizer('adain_light')

    def test_registering(self, monkeypatch, colour_stylizer):
        monkeypatch.setattr(registry, '_factories', dict(registry._factories))

        @register_stylizer
        def colour(weights=None):
            """Gives colours only."""
            return colour_stylizer

        assert 'colour' in list_stylizers()
        assert create_stylizer('colour') is colour_stylizer
        assert registry.describe_stylizers()['colour'] == 'Gives colours only.'
        with pytest.raises(DebiasError, match="'colour' is registered already"):
            register_stylizer(colour)
