"""The memory bank: its coreset and search against brute force, its features, its map, and a network that stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

from course_lib.detectors.autoencoder import DenseAE
from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.memory_bank import MemoryBank, coreset, nearest, project, top_mean
from course_lib.detectors.synthetic import SyntheticAnomalies
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (32, 32)


@pytest.fixture(scope="module")
def network() -> DenoisingAE:
    """A network with weights of its own; what it was trained for does not matter here."""
    torch.manual_seed(7)
    return DenoisingAE(SHAPE).eval()


def bank_of(network, brains: Tensor, **settings) -> MemoryBank:
    detector = MemoryBank(SHAPE, network, **({"size": 60, "candidates": 900} | settings))
    fit(detector, brains, progress=False)
    return detector


def clusters(count: int = 400, channels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(12, channels, generator=generator)
    return centres[torch.randint(12, (count,), generator=generator)] + torch.randn(count, channels, generator=generator)


def radius(points: Tensor, chosen: Tensor) -> float:
    """The largest distance of a point to its nearest chosen one."""
    return float(cdist(points.double(), points[chosen].double()).min(1).max())


# ---- coreset --------------------------------------------------------------------------------------------------------


def brute_force_greedy(points: Tensor, size: int, first: int) -> list[int]:
    """The same choice in double precision, with all distances written out."""
    distance, chosen = cdist(points.double(), points.double()), [first]
    while len(chosen) < size:
        gaps = distance[:, chosen].min(1)
        gaps[chosen] = -1
        chosen.append(int(gaps.argmax()))
    return chosen


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_the_coreset_is_the_greedy_one(offset):
    points = clusters() + offset
    chosen = coreset(points, 40, torch.Generator().manual_seed(3))
    assert chosen.tolist() == brute_force_greedy(points, 40, int(chosen[0]))


def test_the_start_is_random_and_a_seed_gives_one_coreset():
    points = clusters()
    one, two = (coreset(points, 5, torch.Generator().manual_seed(3)).tolist() for _ in range(2))
    assert one == two
    assert len({int(coreset(points, 1, torch.Generator().manual_seed(k))) for k in range(10)}) > 5
    torch.manual_seed(3)
    assert coreset(points, 5).tolist() == one  # the global generator, when none is given


def test_the_covering_radius_falls_and_beats_a_random_subset():
    points = clusters()
    chosen = coreset(points, 100, torch.Generator().manual_seed(0))
    radii = [radius(points, chosen[:k]) for k in (1, 5, 20, 50, 100)]
    assert all(b < a for a, b in zip(radii, radii[1:], strict=False))
    draws = [torch.randperm(len(points), generator=torch.Generator().manual_seed(k))[:50] for k in range(20)]
    assert radii[3] < min(radius(points, draw) for draw in draws)


def test_it_is_within_twice_the_best_radius():
    """Small enough to try all choices of 3 of 12."""
    from itertools import combinations

    points = clusters(12, 2)
    best = min(radius(points, torch.tensor(choice)) for choice in combinations(range(12), 3))
    for seed in range(12):
        assert radius(points, coreset(points, 3, torch.Generator().manual_seed(seed))) <= 2 * best + 1e-6


def test_no_point_is_chosen_twice_also_among_doubles():
    points = torch.cat([clusters(30), clusters(30)])
    chosen = coreset(points, 60, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(60))
    assert len(coreset(points, 1000)) == 60
    assert len(set(chosen[:30].tolist()) & set((chosen[:30] + 30).tolist())) == 0  # a twin adds nothing, so comes late


def test_a_projection_keeps_squared_distances_on_average():
    points = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    before = cdist(points, points)[0, 1:] ** 2
    after = [cdist(small, small)[0, 1:] ** 2 for k in range(60) for small in [project(points, 16, _seeded(k))]]
    ratio = torch.tensor(sum(after) / 60 / before)
    assert (ratio - 1).abs().max() < 0.25 and abs(float(ratio.mean()) - 1) < 0.05
    assert project(points, 300) is points


def _seeded(k: int) -> torch.Generator:
    return torch.Generator().manual_seed(k)


# ---- search ---------------------------------------------------------------------------------------------------------


def test_distances_are_those_of_brute_force():
    patches, bank = clusters(700, 9) + 20, clusters(150, 9) + 20
    expected = torch.from_numpy(cdist(patches.double(), bank.double()).min(1))
    torch.testing.assert_close(nearest(patches, bank).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nearest(bank, bank), torch.zeros(150), rtol=0, atol=1e-2)


def test_the_top_mean():
    values = torch.arange(100.0).view(1, 10, 10)
    everywhere = torch.ones(1, 10, 10, dtype=torch.bool)
    assert top_mean(values, everywhere, 0.05).item() == 97  # 95 to 99
    assert top_mean(values, values < 50, 0.01).item() == 49  # one pixel of 50, rounded up
    assert top_mean(values, ~everywhere, 0.01).item() == 0


# ---- features -------------------------------------------------------------------------------------------------------


def test_features_are_the_levels_of_the_way_down_averaged_and_on_one_grid(network, brains):
    kept = []
    hooks = [
        level.register_forward_hook(lambda *given: kept.append(given[2].detach())) for level in network.network.down
    ]
    with torch.no_grad():
        network(brains[:4])
    for hook in hooks:
        hook.remove()
    parts = []
    for x in kept[1:]:  # levels 1, 2, 3: 16 x 16, 8 x 8, 4 x 4
        padded = F.pad(x, (1, 1, 1, 1), value=float("nan"))
        around = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).nanmean(4)
        if around.shape[-1] == 16:
            around = around.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
        elif around.shape[-1] == 4:
            around = F.interpolate(around, size=(8, 8), mode="bilinear")
        parts.append(around)
    found = MemoryBank(SHAPE, network, levels=(1, 2, 3)).features(brains[:4])
    torch.testing.assert_close(found, torch.cat(parts, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(MemoryBank(SHAPE, network, levels=(2,)).features(brains[:4]), parts[1])


def test_channels_are_standardised_over_healthy_patches(network, brains):
    detector = bank_of(network, brains, size=900)
    channels = detector.bank[:, :48]
    torch.testing.assert_close(channels.mean(0), torch.zeros(48), rtol=0, atol=1e-4)
    torch.testing.assert_close(channels.std(0, correction=0), torch.ones(48), rtol=0, atol=1e-3)


def test_only_places_in_the_brain_are_kept_and_none_twice(network, brains):
    images = brains[:5]
    inside = F.avg_pool2d((images > 0).float(), 4)[:, 0] >= 0.5
    everything = bank_of(network, images, size=5000, candidates=5000)
    assert everything.filled == inside.sum() and (everything.bank[everything.filled :] == 0).all()
    with torch.no_grad():
        expected = everything.features(images).permute(0, 2, 3, 1)[inside]
    expected = (expected - expected.mean(0)) / expected.std(0, correction=0)
    stored = everything.bank[: everything.filled]
    assert cdist(expected, stored).min(1).max() < 1e-3 and cdist(stored, expected).min(1).max() < 1e-3


def test_no_weight_of_position_is_none_and_a_large_one_keeps_places_apart(network, brains):
    without, none = bank_of(network, brains), bank_of(network, brains, position=0.0)
    assert torch.equal(without.bank, none.bank) and none.bank.shape[1] == 48
    far = bank_of(network, brains, position=100.0, size=900)
    assert far.bank.shape[1] == 50
    image = brains[:1]
    with torch.no_grad():
        patches = far.features(image)[0, 48:] / (100 * 48**0.5)  # (2, 8, 8)
    torch.testing.assert_close(patches[0, :, 0], torch.linspace(-1, 1, 8))
    torch.testing.assert_close(patches[1, 0], torch.linspace(-1, 1, 8))
    without, near = (bank_of(network, brains[:9], position=w, size=5000, candidates=5000) for w in (0.0, 1.0))
    free, bound = (one.distance(brains[50:60])[0] for one in (without, near))
    assert (bound >= free - 1e-5).all() and (bound > free + 1e-3).any()  # the nearest look may be elsewhere


# ---- the detector ---------------------------------------------------------------------------------------------------


def test_a_stored_patch_is_no_distance_away_and_the_distance_is_per_channel(network, brains):
    detector = bank_of(network, brains[:3], size=5000, candidates=5000)
    found, inside = detector.distance(brains[:3])
    assert found.max() < 0.02 and found.shape == (3, 8, 8) and (found[~inside] == 0).all()
    with torch.no_grad():
        patches = (detector.features(brains[50:52]).permute(0, 2, 3, 1) - detector.mean) / detector.sd
    expected = cdist(patches.flatten(0, 2), detector.bank[: detector.filled]).min(1).reshape(2, 8, 8) / 48**0.5
    found, inside = detector.distance(brains[50:52])
    torch.testing.assert_close(found[inside].double(), torch.from_numpy(expected)[inside], rtol=1e-4, atol=1e-4)


def test_a_constant_distance_makes_a_constant_map(network, brains, monkeypatch):
    detector = bank_of(network, brains)
    monkeypatch.setattr(
        "course_lib.detectors.memory_bank.nearest", lambda patches, bank: torch.full((len(patches),), 3.0)
    )
    anomaly = detector.anomaly_map(brains[:4])
    brain = brains[:4, 0] > 0
    torch.testing.assert_close(anomaly[brain], torch.full_like(anomaly[brain], 3 / 48**0.5))  # up to the rim
    assert (anomaly[~brain] == 0).all()


def test_the_score_is_the_mean_of_the_highest_hundredth(network, brains):
    detector = bank_of(network, brains)
    anomaly, scores = detector.anomaly_map(brains[:6]), detector.anomaly_score(brains[:6])
    for one, image, score in zip(anomaly, brains[:6, 0], scores, strict=True):
        ranked = one[image > 0].sort(descending=True).values
        torch.testing.assert_close(score, ranked[: -(-len(ranked) // 100)].mean())


def test_the_network_stays_as_it_is_and_in_evaluation_mode(brains):
    network = SyntheticAnomalies(SHAPE)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    detector = MemoryBank(SHAPE, network, size=20, candidates=100).train()
    assert detector.training and not any(module.training for module in network.modules())
    fit(detector, brains, progress=False)
    detector.train()
    detector.anomaly_score(brains[:2])
    assert not any(module.training for module in network.modules())
    assert detector.network is network and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_random_bank_differs_and_covers_less(network, brains):
    greedy, random = (bank_of(network, brains, select=how) for how in ("greedy", "random"))
    everything = bank_of(network, brains, size=900).bank
    assert cdist(everything, greedy.bank).min(1).max() < cdist(everything, random.bank).min(1).max()


def test_a_bank_that_has_seen_a_lesion_no_longer_finds_it(network, brains, unseen):
    ill = unseen.clone()
    ill[:, :, 12:18, 14:20] = 1.3
    sound, spoilt = (bank_of(network, x, size=900) for x in (brains, torch.cat([brains[:60], ill])))
    inside = (slice(None), slice(12, 18), slice(14, 20))
    assert sound.anomaly_map(ill)[inside].mean() > 3 * spoilt.anomaly_map(ill)[inside].mean()


def test_the_store_knows_which_network_is_inside(brains, tmp_path):
    options = {"steps": 3, "batch_size": 8, "progress": False, "folder": tmp_path}
    networks = [load_or_train(DenoisingAE(SHAPE), brains, seed=seed, **options)[0] for seed in (0, 1)]
    before = len(list(tmp_path.iterdir()))

    def stored(network):
        return load_or_train(MemoryBank(SHAPE, network, size=40, candidates=300), brains, seed=5, **options)[0]

    one, again, other = stored(networks[0]), stored(networks[0]), stored(networks[1])
    assert len(list(tmp_path.iterdir())) == before + 2
    assert one is not again and torch.equal(one.bank, again.bank)
    assert torch.equal(one.anomaly_map(brains), again.anomaly_map(brains))
    assert not torch.equal(one.bank, other.bank) and not again.network.training


def test_wrong_arguments_are_refused(network):
    with pytest.raises(BadInput, match="DenseAE has no U-Net"):
        MemoryBank(SHAPE, DenseAE(SHAPE))
    with pytest.raises(BadInput, match=r"levels \(4,\) of 4"):
        MemoryBank(SHAPE, network, levels=(4,))
    with pytest.raises(BadInput, match="'best'"):
        MemoryBank(SHAPE, network, select="best")
    with pytest.raises(ValueError, match="a bank of 50 from 40"):
        MemoryBank(SHAPE, network, size=50, candidates=40)
    with pytest.raises(BadInput, match="no brain"):
        MemoryBank(SHAPE, network).fit(torch.zeros(2, 1, *SHAPE))
