"""Seeds of places, and the state of all generators."""

import random

import numpy as np
import torch

from timm_debias.training.randomness import derive_seed, kept_random_state, random_state, seed_host, set_random_state

CPU = torch.device('cpu')


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


def test_seeds_of_places_differ():
    seeds = {derive_seed(seed, epoch, position) for seed in range(5) for epoch in range(5) for position in range(200)}
    assert len(seeds) == 5 * 5 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed(1, 'order') != derive_seed(1, 'workers')


def test_a_seed_fixes_what_is_drawn():
    seed_host(5)
    first = draw()
    seed_host(6)
    assert draw() != first
    seed_host(5)
    assert draw() == first


def test_state_survives_a_checkpoint(tmp_path):
    """Also between the two numbers that a Gaussian generator makes at a time."""
    seed_host(0)
    draw()
    torch.save(random_state(CPU), tmp_path / 'state')
    expected = [draw() for _ in range(700)]  # Beyond a block of the Mersenne twister.
    set_random_state(torch.load(tmp_path / 'state', weights_only=True), CPU)
    assert [draw() for _ in range(700)] == expected


def test_kept_state():
    seed_host(0)
    with kept_random_state():
        expected = draw()
        seed_host(9)
        draw()
    assert draw() == expected
