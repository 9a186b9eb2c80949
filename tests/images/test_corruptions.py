"""Corruptions: what each kind does, where, how often, and what the masks say."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from course_lib.errors import BadInput
from course_lib.images import corruptions
from course_lib.images.corruptions import FLOOR, KINDS, Corruption, random_shapes, shapes_of_bank, smooth_noise, visible
from course_lib.images.lesion_shapes import SHAPED, lesion_shapes

SHAPE = (96, 96)


def heads(count: int = 16, seed: int = 0) -> Tensor:
    """`(count, 1, 96, 96)`: ellipses with smooth anatomy and noise, 0 outside; each image has its own."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    phase = 6 * torch.rand(count, 1, 1, generator=generator)
    values = (
        0.5
        + 0.15 * torch.sin(9 * x + phase) * torch.cos(8 * y)
        + 0.08 * torch.randn(count, 96, 96, generator=generator)
    )
    return (values.clamp(0.02, 1) * ((x / 0.7) ** 2 + (y / 0.85) ** 2 < 1))[:, None]


def picture(kind: str, images: Tensor, seed: int = 0) -> Tensor:
    """What the kind would put where alpha is 1."""
    generator = torch.Generator().manual_seed(seed)
    return corruptions._PICTURES[kind](images, torch.arange(len(images)), generator)


def alpha_and_result(kind: str, images: Tensor, monkeypatch) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes, the corrupted images and the masks of one run."""
    kept = []
    original = corruptions.random_shapes
    monkeypatch.setattr(corruptions, "random_shapes", lambda *given: kept.append(original(*given)) or kept[-1])
    corrupted, masks = Corruption((kind,), share=1.0)(images, torch.Generator().manual_seed(1))
    return kept[0], corrupted, masks


# ---- all kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_shape_changes_and_only_the_brain_is_in_the_mask(kind, monkeypatch):
    images = heads()
    alpha, corrupted, masks = alpha_and_result(kind, images, monkeypatch)
    assert corrupted.shape == images.shape and masks.shape == images.shape and masks.dtype == torch.bool
    assert torch.equal(corrupted[alpha == 0], images[alpha == 0])  # bit by bit
    assert torch.equal(corrupted > 0, images > 0)  # the brain stays the brain
    assert not masks[images == 0].any() and not masks[alpha < 0.5].any()
    assert masks.any() and corrupted.isfinite().all() and corrupted.max() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_holds_what_can_be_seen(kind, monkeypatch):
    images = heads()
    alpha, corrupted, masks = alpha_and_result(kind, images, monkeypatch)
    size = (corrupted - images).abs()
    padded = torch.nn.functional.pad(size, (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 5, 1).mean((4, 5))
    assert torch.equal(masks, (alpha >= 0.5) & (padded > 0.04))


def test_a_change_of_a_third_of_a_standard_deviation_is_the_border():
    change = torch.zeros(2, 1, 20, 20)
    change[0], change[1] = 0.041, -0.039
    assert visible(change)[0, 0, 2:-2, 2:-2].all() and not visible(change)[1].any()


def test_images_that_are_not_drawn_stay_as_they_are():
    images = heads(64)
    corrupted, masks = Corruption(share=0.5)(images, torch.Generator().manual_seed(0))
    untouched = (corrupted == images).all(3).all(2)[:, 0]
    assert 0.3 < untouched.float().mean() < 0.7
    assert not masks[untouched].any()
    assert torch.equal(Corruption(share=0.0)(images)[0], images)
    everyone = Corruption(share=1.0)(images, torch.Generator().manual_seed(0))[0]
    changed = (everyone != images).any(3).any(2)[:, 0]
    assert changed.float().mean() > 0.9  # a patch from where the other image has no brain changes nothing


def test_all_kinds_come_about_equally_often(monkeypatch):
    counts = dict.fromkeys(KINDS, 0)

    def counted(kind):
        def make(images, rows, generator):
            counts[kind] += len(rows)
            return images[rows]

        return make

    monkeypatch.setattr(corruptions, "_PICTURES", {kind: counted(kind) for kind in KINDS})
    Corruption(share=1.0)(torch.rand(2000, 1, 8, 8), torch.Generator().manual_seed(0))
    assert sum(counts.values()) == 2000 and all(330 < count < 470 for count in counts.values())


def test_seeds_reproduce_and_the_global_generator_is_used_without_one():
    images, corrupt = heads(), Corruption()
    one, two = (corrupt(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(corrupt(images, torch.Generator().manual_seed(4))[0], one[0])
    torch.manual_seed(3)
    assert torch.equal(corrupt(images)[0], one[0])


def test_autocast_changes_nothing():
    images, corrupt = heads(), Corruption()
    plain = corrupt(images, torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        same = corrupt(images, torch.Generator().manual_seed(3))
    assert torch.equal(plain[0], same[0]) and same[0].dtype == torch.float32


def test_one_image_and_an_image_without_a_brain_go_through():
    for bank in (None, lesion_shapes(("ms",), SHAPE, 3)):
        for kind in KINDS:
            corrupted, masks = Corruption((kind,), 1.0, bank)(torch.cat([heads(1), torch.zeros(1, 1, *SHAPE)]))
            assert corrupted.isfinite().all() and (corrupted[1] == 0).all() and not masks[1].any()
            assert Corruption((kind,), 1.0, bank)(heads(1))[0].isfinite().all()


def test_wrong_arguments_are_refused():
    with pytest.raises(BadInput, match="'swirl'"):
        Corruption(("patch", "swirl"))
    with pytest.raises(BadInput, match="nothing is no corruption"):
        Corruption(())
    with pytest.raises(ValueError, match="between 0 and 1"):
        Corruption(share=1.5)


def test_a_batch_takes_a_tenth_of_a_training_step():
    """About 7 ms of processor time; the bound is loose, as other programs share the machine."""
    images, corrupt, taken = heads(16), Corruption(), []
    for _ in range(8):
        started = time.process_time()
        corrupt(images)
        taken.append(time.process_time() - started)
    assert min(taken) < 0.05 * max(1, torch.get_num_threads())


# ---- each kind ------------------------------------------------------------------------------------------------------


def test_constant_is_one_grey():
    grey = picture("constant", heads())
    assert (grey.amax((1, 2, 3)) == grey.amin((1, 2, 3))).all()
    assert grey.min() >= 0.05 and grey.max() <= 1.2 and grey.std() > 0.1


def test_constant_is_constant_within_a_hard_shape(monkeypatch):
    images = heads()
    alpha, corrupted, _ = alpha_and_result("constant", images, monkeypatch)
    hard = [(image, a == 1) for image, a in zip(corrupted, alpha, strict=True) if (a == 1).any()]
    assert len(hard) > 8 and all(image[inner].unique().numel() == 1 for image, inner in hard)


def test_gain_multiplies():
    images = heads()
    ratio = picture("gain", images)[images > 0.1] / images[images > 0.1]
    each = (picture("gain", images) / images.clamp(min=FLOOR))[:, 0, 40:56, 40:56].flatten(1)
    torch.testing.assert_close(each, each[:, :1].expand_as(each))  # one number for each image
    assert ((ratio.log().abs() > 0.299) & (ratio.log().abs() < 0.901)).all()
    assert (each[:, 0] > 1).any() and (each[:, 0] < 1).any()


def test_blur_lowers_the_local_variance_and_keeps_the_mean():
    images = heads()
    smooth, inner = picture("blur", images), (slice(None), 0, slice(30, 66), slice(30, 66))
    steps = [x[inner].diff(dim=-1).square().mean((1, 2)) for x in (images, smooth)]
    assert (steps[1] < 0.5 * steps[0]).all()
    torch.testing.assert_close(smooth[inner].mean((1, 2)), images[inner].mean((1, 2)), rtol=0, atol=0.03)


def test_blur_takes_nothing_in_from_outside_the_brain():
    flat = 0.5 * (heads() > 0).float()
    torch.testing.assert_close(picture("blur", flat)[flat > 0], flat[flat > 0])


def test_texture_adds_grain_of_mean_zero():
    flat = torch.full((400, 1, 64, 64), 1.5)
    grain = picture("texture", flat) - 1.5
    assert grain.mean().abs() < 0.005
    sd = grain.std((1, 2, 3))
    assert sd.min() > 0.07 and sd.max() < 0.32 and sd.mean().item() == pytest.approx(0.175, abs=0.01)


def test_patch_shows_another_image_moved():
    plain = torch.arange(1, 5).float()[:, None, None, None].expand(4, 1, 32, 32).contiguous()  # image i is i + 1
    foreign = picture("patch", plain)
    own, change = plain[:, 0, 0, 0], (foreign - plain)[:, 0, 0, 0]
    assert (foreign.flatten(1).std(1) < 1e-6).all()
    assert (change.abs() > 0.39).all()  # never its own
    targets = own[:, None] + change[:, None] / torch.tensor([0.4, 1.0])  # the factor lies between these
    for low_high, mine in zip(targets, own, strict=True):
        low, high = sorted(low_high.tolist())
        assert any(low - 1e-4 <= k <= high + 1e-4 and k != mine for k in (1, 2, 3, 4))


def test_patch_keeps_the_own_tissue_where_the_other_has_none():
    images = heads(2)
    images[1, :, :, :48] = 0
    foreign = picture("patch", images)
    assert (foreign[images > 0] > 0).all()
    alone = picture("patch", heads(1))
    assert not torch.equal(alone, heads(1))  # a batch of one: another place of the same image


def test_patch_comes_from_another_place():
    """With a ramp as the only image, what arrives is the ramp moved by one shift, within a quarter of the side."""
    ramp = (1 + torch.arange(64.0)).expand(1, 1, 64, 64).contiguous()
    moved = {float((picture("patch", ramp, seed) - ramp)[0, 0, 0, 32]) for seed in range(20)}
    assert len(moved) > 10 and all(abs(shift) <= 16 for shift in moved)


# ---- shapes ---------------------------------------------------------------------------------------------------------


def test_noise_has_unit_variance_and_the_stated_correlation():
    for length, spacing in ((1.0, 1.0), (3.0, 2.0), (12.0, 2.0)):
        field = smooth_noise(torch.full((600, 1, 1, 1), length), (40, 40), spacing, torch.Generator().manual_seed(0))
        assert field.shape == (600, 1, 40, 40)
        assert field.mean().abs() < 0.05 and field.std().item() == pytest.approx(1, abs=0.04)
        for gap in (1, round(length), round(2 * length)):
            found = (field[..., gap:] * field[..., :-gap]).mean().item()
            assert found == pytest.approx(math.exp(-(gap**2) / (2 * length**2)), abs=0.07)


def test_shapes_are_of_many_sizes_in_the_brain_and_never_missing():
    brain = heads(300) > 0
    alpha = random_shapes(brain, torch.Generator().manual_seed(0))
    assert alpha.min() == 0 and alpha.max() == 1 and (alpha[~brain] == 0).all()
    area = (alpha >= 0.5).sum((1, 2, 3)) / brain.sum((1, 2, 3))
    assert (area > 0).all() and area.max() < 0.6
    assert area.quantile(0.1) < 0.01 and area.quantile(0.9) > 0.06
    everywhere = (alpha >= 0.5).float().mean(0)[0][brain[0, 0]]
    assert everywhere.min() > 0  # no place of the brain is spared


def test_lesion_shapes_are_centred_and_the_same_each_time():
    bank = lesion_shapes(("ms", "stroke"), SHAPE, 6)
    assert bank.shape == (12, *SHAPE) and set(bank.unique().tolist()) == {0.0, 1.0}
    for mask in bank[6:]:
        assert all(abs(float(axis.float().mean()) - 48) <= 1 for axis in mask.nonzero(as_tuple=True))
    lesion_shapes.cache_clear()
    assert torch.equal(lesion_shapes(("ms", "stroke"), SHAPE, 6), bank)
    with pytest.raises(BadInput, match="atrophy"):
        lesion_shapes(("atrophy",), SHAPE)
    assert set(SHAPED) == {"ms", "stroke", "tumour", "texture", "resection"}


def test_shapes_of_a_bank_keep_their_form_and_lie_on_a_brain_place():
    bank = torch.zeros(1, 40, 40)
    bank[0, 18:22, 16:24] = 1  # 4 x 8
    bank[0, 18, 16] = 0  # with a corner missing
    brain = torch.ones(50, 1, 40, 40, dtype=torch.bool)
    brain[:, :, :, :4] = False
    alpha = shapes_of_bank(brain, bank, torch.Generator().manual_seed(0))
    whole = alpha.sum((1, 2, 3)) == 31
    assert whole.float().mean() > 0.5 and (alpha[~brain] == 0).all()
    corners = set()
    for mask in alpha[whole, 0]:
        rows, columns = mask.nonzero(as_tuple=True)
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.shape == (4, 8)
        corners.add(tuple((box == 0).nonzero()[0].tolist()))
    assert corners == {(0, 0), (0, 7), (3, 0), (3, 7)}  # mirrored both ways
