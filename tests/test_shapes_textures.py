"""The embedded data set: pairing and balance of labels, what is drawn, determinism, and timm's loader."""

import dataclasses
import json
import math
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import create_loader

from timm_debias.data import shapes_textures
from timm_debias.data.shapes_textures import (
    CLASSES,
    KEPT_BYTES,
    SHAPE_NAMES,
    SPLIT_SIZES,
    TEXTURE_NAMES,
    Difficulty,
    ShapesTextures,
    draw_scene,
    sample_scene,
)
from timm_debias.data.silhouettes import SHAPES, Pose, draw_silhouette
from timm_debias.data.textures import BLOBS_LATTICE, TEXTURES, Weave, draw_texture, smooth_noise
from timm_debias.errors import DebiasError

MEAN_COLOURS = {
    ('train', 0): (168.99, 169.85, 137.33),
    ('train', 5): (150.21, 144.5, 186.27),
    ('validation', 3): (189.71, 137.12, 173.07),
    ('conflict', 9): (187.1, 137.94, 153.21),
}
"""Mean colours of some images at 32 pixels, as they were when the data set was calibrated."""
CALIBRATE = Path(__file__).parents[1] / 'benchmarks' / 'calibrate_shapes_textures.py'


def axes(img_size: int) -> tuple[np.ndarray, np.ndarray, float]:
    centres = ((np.arange(img_size) + 0.5) * 2 / img_size - 1).astype(np.float32)
    return centres[None, :], centres[:, None], 2 / img_size


def mask(shape: str, pose: Pose, img_size: int = 224) -> np.ndarray:
    return draw_silhouette(shape, pose, *axes(img_size))


def weave(period: float = 0.5, angle: float = 0.0, phase: tuple[float, float] = (0.0, 0.0)) -> Weave:
    lattice = np.random.default_rng(0).random((BLOBS_LATTICE, BLOBS_LATTICE), dtype=np.float32)
    return Weave(period, angle, phase, lattice)


class TestLabels:
    @pytest.mark.parametrize('split', ['train', 'validation', 'test'])
    def test_shape_k_comes_with_texture_k(self, split):
        dataset = ShapesTextures(split)
        assert len(dataset) == SPLIT_SIZES[split]
        for index in (0, 1, 9, len(dataset) - 1):
            scene, target = dataset.scene(index), dataset[index][1]
            assert f'{scene.shape}+{scene.texture}' == CLASSES[target]
        assert dataset.shape_labels == dataset.texture_labels

    def test_conflict_holds_all_pairs_equally_often_and_no_agreement(self):
        dataset = ShapesTextures('conflict')
        pairs = Counter(zip(dataset.shape_labels, dataset.texture_labels, strict=True))
        assert set(pairs) == {(shape, texture) for shape in range(8) for texture in range(8) if shape != texture}
        assert len(set(pairs.values())) == 1

    def test_conflict_targets_name_what_is_drawn(self):
        dataset = ShapesTextures('conflict', img_size=32, num_samples=60)
        for index in range(60):
            target, scene = dataset[index][1], dataset.scene(index)
            assert target.dtype == torch.int64
            assert target.tolist() == [SHAPE_NAMES.index(scene.shape), TEXTURE_NAMES.index(scene.texture)]

    @pytest.mark.parametrize('split', SPLIT_SIZES)
    @pytest.mark.parametrize('num_samples', [1, 8, 83, 200])
    def test_balance_at_any_number_of_samples(self, split, num_samples):
        dataset = ShapesTextures(split, num_samples=num_samples)
        assert len(dataset) == num_samples
        pairs = Counter(zip(dataset.shape_labels, dataset.texture_labels, strict=True))
        shapes = Counter(dataset.shape_labels)
        everything = 56 if split == 'conflict' else 8
        for counts, kinds in ((pairs, everything), (shapes, 8)):
            assert len(counts) == min(kinds, num_samples)
            assert max(counts.values()) - min(counts.values()) <= 1

    def test_names(self):
        dataset = ShapesTextures('conflict', num_samples=20)
        assert dataset.num_classes == len(dataset.classes) == len(set(dataset.classes)) == 8
        assert [dataset.classes[dataset.class_to_idx[name]] for name in CLASSES] == list(CLASSES)
        assert dataset.filename(12) == f'conflict/{SHAPE_NAMES[4]}+{TEXTURE_NAMES[6]}/00012'
        assert dataset.filename(12, basename=True) == '00012'
        assert len(set(dataset.filenames())) == 20


class TestErrors:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'split': 'validaton'}, "Did you mean 'validation'"),
            ({'img_size': 31}, '32 to 224'),
            ({'img_size': 225}, '32 to 224'),
            ({'num_samples': 0}, 'at least 1'),
            ({'num_samples': -5}, 'at least 1'),
            ({'seed': -1}, 'negative'),
        ],
    )
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(DebiasError, match=message):
            ShapesTextures(**arguments)

    @pytest.mark.parametrize('index', [-1, 10])
    def test_index_outside(self, index):
        with pytest.raises(IndexError):
            ShapesTextures(num_samples=10)[index]


class TestDeterminism:
    @pytest.mark.parametrize(('split', 'index'), MEAN_COLOURS)
    def test_images_are_the_calibrated_ones(self, split, index):
        """The figures in docs/shapes_textures.md hold for these images: whoever changes them calibrates again."""
        image = np.asarray(ShapesTextures(split, img_size=32)[index][0], dtype=float)
        np.testing.assert_allclose(image.mean((0, 1)), MEAN_COLOURS[split, index], atol=0.1)

    def test_image_depends_on_seed_split_and_index_alone(self):
        def image(split='train', seed=0, index=4, num_samples=50):
            return np.asarray(ShapesTextures(split, seed=seed, num_samples=num_samples)[index][0])

        np.testing.assert_array_equal(image(), image(num_samples=5))
        for other in (image(split='validation'), image(split='test'), image(seed=1), image(index=12)):
            assert (image() != other).mean() > 0.5

    @pytest.mark.parametrize(('num_samples', 'draws'), [(2, 1), (2 * KEPT_BYTES // (3 * 32 * 32), 2)])
    def test_small_data_sets_are_drawn_once(self, num_samples, draws, monkeypatch):
        dataset, drawn = ShapesTextures(img_size=32, num_samples=num_samples), []
        monkeypatch.setattr(shapes_textures, 'draw_scene', lambda *scene: drawn.append(scene) or draw_scene(*scene))
        first = dataset[1][0]
        before = np.array(first)
        first.paste((255, 0, 0), (0, 0, 32, 32))  # Whoever gets an image may paint on it.
        np.testing.assert_array_equal(np.array(dataset[1][0]), before)
        assert len(drawn) == draws

    @pytest.mark.parametrize(('small', 'times'), [(32, 7), (64, 3), (112, 2)])
    def test_same_picture_at_every_size(self, small, times):
        for index in range(8):
            coarse = np.asarray(ShapesTextures(img_size=small)[index][0], dtype=float)
            fine = np.asarray(ShapesTextures(img_size=small * times)[index][0], dtype=float)
            other = np.asarray(ShapesTextures(img_size=small)[index + 8][0], dtype=float)
            shrunk = fine.reshape(small, times, small, times, 3).mean(axis=(1, 3))
            error, far = np.abs(shrunk - coarse).mean(), np.abs(shrunk - other).mean()
            assert error < far / 8


class TestDrawing:
    @pytest.mark.parametrize('shape', SHAPES)
    @pytest.mark.parametrize('stretch', [0.8, 1.25])
    def test_silhouette_covers_its_area(self, shape, stretch):
        covered = mask(shape, Pose(0.0, 0.0, 0.3, 0.2, stretch)).mean()
        assert covered == pytest.approx(0.2, rel=0.02)

    @pytest.mark.parametrize('shape', SHAPES)
    def test_position_keeps_the_silhouette_whole(self, shape):
        for x, y in ((-1, -1), (-1, 1), (1, 1)):
            assert mask(shape, Pose(x, y, 1.0, 0.2, 1.0)).mean() == pytest.approx(0.2, rel=0.02)

    def test_data_set_covers_a_quarter_to_half_of_the_image(self):
        dataset = ShapesTextures(num_samples=200)
        scenes = [dataset.scene(index) for index in range(200)]
        covered = [mask(scene.shape, scene.pose, 64).mean() for scene in scenes]
        assert min(covered) > 0.22
        assert max(covered) < 0.6

    def test_disc_and_ring_are_round(self):
        x, y, _ = axes(224)
        radius = np.hypot(x, y)
        disc = radius < math.sqrt(4 * 0.3 / math.pi)
        assert np.abs(mask('disc', Pose(0, 0, 0, 0.3, 1.0)) - disc).mean() < 0.005
        outer = math.sqrt(4 * 0.3 / (math.pi * 0.75))
        ring = (radius < outer) & (radius > outer / 2)
        assert np.abs(mask('ring', Pose(0, 0, 0, 0.3, 1.0)) - ring).mean() < 0.01

    @pytest.mark.parametrize(('shape', 'turns'), [('triangle', 3), ('square', 4), ('cross', 4), ('star', 5)])
    def test_rotational_symmetry(self, shape, turns):
        def turned(angle):
            return mask(shape, Pose(0.0, 0.0, angle, 0.2, 1.0))

        np.testing.assert_allclose(turned(0.2), turned(0.2 + 2 * math.pi / turns), atol=1e-3)
        assert np.abs(turned(0.2) - turned(0.2 + math.pi / turns)).mean() > 0.02

    def test_silhouettes_differ(self):
        masks = [mask(shape, Pose(0.0, 0.0, 0.0, 0.3, 1.0)) for shape in SHAPES]
        for index, one in enumerate(masks):
            for other in masks[:index]:
                assert np.abs(one - other).mean() > 0.04

    @pytest.mark.parametrize(
        ('texture', 'coverage'), [('stripes', 0.5), ('checks', 0.5), ('dots', math.pi * 0.36**2), ('basket', 0.5)]
    )
    def test_ink_covers_its_share(self, texture, coverage):
        x, y, pixel = axes(224)
        ink = draw_texture(texture, weave(0.1, 0.4), x, y, pixel)
        assert ink.mean() == pytest.approx(coverage, abs=0.02)

    @pytest.mark.parametrize('texture', [name for name in TEXTURES if name != 'blobs'])
    def test_texture_repeats_after_its_period(self, texture):
        x, y, pixel = axes(64)
        first, again, between = (
            draw_texture(texture, weave(phase=(shift, 0.0)), x, y, pixel) for shift in (0.125, 1.125, 0.375)
        )
        np.testing.assert_allclose(first, again, atol=1e-3)
        assert np.abs(first - between).mean() > 0.02

    def test_textures_differ(self):
        x, y, pixel = axes(64)
        inks = [draw_texture(texture, weave(0.3), x, y, pixel) for texture in TEXTURES]
        for index, one in enumerate(inks):
            for other in inks[:index]:
                assert np.abs(one - other).mean() > 0.15

    def test_texture_changes_the_inside_only(self):
        dots, stripes = (
            sample_scene('square', texture, np.random.default_rng(1), Difficulty(texture_contrast=(0.3, 0.3)))
            for texture in ('dots', 'stripes')
        )
        changed = (draw_scene(dots, 96) != draw_scene(stripes, 96)).any(axis=2)
        inside = mask('square', dots.pose, 96)
        assert not changed[inside == 0].any()
        assert 0.2 < changed[inside == 1].mean() < 0.8

    def test_noise_at_its_own_size_is_the_lattice(self):
        lattice = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
        np.testing.assert_allclose(smooth_noise(lattice, 32), lattice, atol=1e-6)
        halved = lattice.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(smooth_noise(lattice, 16), halved, atol=1e-6)

    def test_grain_has_its_standard_deviation(self):
        calm = dataclasses.replace(Difficulty(), grain=(0.0, 0.0))
        noisy = dataclasses.replace(Difficulty(), grain=(0.05, 0.05))
        images = [
            draw_scene(sample_scene('disc', 'dots', np.random.default_rng(2), how), 64).astype(float)
            for how in (calm, noisy)
        ]
        assert (images[1] - images[0]).std() / 255 == pytest.approx(0.05, rel=0.05)

    def test_colours_do_not_tell_the_class(self):
        """A quadratic classifier of the mean colour, fitted to 1,000 images, stays at chance on 800 others."""

        def features(split, count):
            dataset = ShapesTextures(split, img_size=32, num_samples=count)
            colours = np.stack([np.asarray(dataset[index][0]).mean(axis=(0, 1)) / 255 for index in range(count)])
            products = colours[:, [0, 0, 0, 1, 1, 2]] * colours[:, [0, 1, 2, 1, 2, 2]]
            return np.hstack([np.ones((count, 1)), colours, products]), np.array(dataset.shape_labels)

        inputs, labels = features('train', 1000)
        weights = np.linalg.lstsq(inputs, np.eye(8)[labels], rcond=None)[0]
        inputs, labels = features('validation', 800)
        assert ((inputs @ weights).argmax(axis=1) == labels).mean() < 0.125 + 4 * math.sqrt(0.125 * 0.875 / 800)


class TestLoader:
    @pytest.mark.parametrize('use_prefetcher', [False, True])
    @pytest.mark.parametrize(('split', 'workers'), [('train', 0), ('conflict', 2)])
    def test_timm_loader(self, split, workers, use_prefetcher):
        dataset = ShapesTextures(split, img_size=48, num_samples=24)
        loader = create_loader(
            dataset,
            input_size=(3, 48, 48),
            batch_size=8,
            is_training=split == 'train',
            use_prefetcher=use_prefetcher,
            num_workers=workers,
            device=torch.device('cpu'),
            persistent_workers=False,
        )
        targets = []
        for images, target in loader:
            assert images.shape == (8, 3, 48, 48)
            assert images.dtype == torch.float32
            assert target.dtype == torch.int64
            targets += target.tolist()
        if split == 'train':
            assert Counter(targets) == Counter(dataset.shape_labels)
        else:
            assert targets == [list(pair) for pair in zip(dataset.shape_labels, dataset.texture_labels, strict=True)]

    def test_transforms(self):
        dataset = ShapesTextures('conflict', num_samples=3, transform=lambda image: image.size, target_transform=list)
        assert dataset[2] == ((64, 64), [2, 3])


def test_calibration_command(monkeypatch, capsys):
    arguments = '--model test_resnet --img-size 32 --epochs 1 --train-samples 32 --seeds 4'
    monkeypatch.setattr(sys, 'argv', [str(CALIBRATE), *arguments.split(), '--difficulty', '{"grain": [0, 0]}'])
    runpy.run_path(str(CALIBRATE), run_name='__main__')
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report['difficulty']['grain'] == [0, 0]
    run = report['runs'][0]
    assert run['seed'] == 4
    assert run['shape'] + run['texture'] + run['neither'] == pytest.approx(100)
    assert 0 < run['validation'] < 100
