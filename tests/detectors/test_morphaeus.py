"""MorphAEus: what its fields do to images, LNCC and R against their formulas, the schedule, and who gets gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from course_lib.detectors.deformation import FLAT, integrate, jacobian_determinant, lncc, roughness, warp
from course_lib.detectors.morphaeus import MorphAEus
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (32, 32)
SMALL = {"latent": 8, "channels": (4, 8, 8, 8), "width": 4, "start": 3, "ramp": 10, "squarings": 4}


def small(**settings) -> MorphAEus:
    torch.manual_seed(0)
    return MorphAEus(SHAPE, **(SMALL | settings))


def smooth_field(size: float, seed: int = 0, shape=(24, 30)) -> torch.Tensor:
    """A field `(2, 2, H, W)` of up to about `size` pixels, zero at the edge."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64)
    fine = torch.nn.functional.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)
    windows = (torch.sin(torch.linspace(0, torch.pi, n, dtype=torch.float64)) for n in shape)
    down, right = windows
    return size * fine / fine.abs().max() * down[:, None] * right


def smooth_image(shape=(24, 30)) -> torch.Tensor:
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    return (torch.sin(0.3 * x + 0.1 * y) + torch.cos(0.25 * y))[None, None].repeat(2, 1, 1, 1)


# ---- fields ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_velocity_moves_nothing(dtype):
    still = torch.zeros(2, 2, 24, 31, dtype=dtype)
    images = torch.rand(2, 3, 24, 31, dtype=dtype)
    assert torch.equal(integrate(still), still)
    tolerance = 4 * 31 * torch.finfo(dtype).eps  # of the coordinates' unit
    torch.testing.assert_close(warp(images, still), images, rtol=0, atol=tolerance)
    assert (jacobian_determinant(still) == 1).all()


@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, 3), (-1, 2)])
def test_a_constant_velocity_is_a_translation_down_and_right(rows, columns):
    images = torch.rand(1, 1, 12, 17, dtype=torch.float64)
    velocity = torch.tensor([rows, columns], dtype=torch.float64)[None, :, None, None].expand(1, 2, 12, 17)
    torch.testing.assert_close(integrate(velocity), velocity.contiguous())
    moved = warp(images, integrate(velocity))
    for i in range(4, 8):
        for j in range(4, 12):
            assert float(moved[0, 0, i, j]) == pytest.approx(float(images[0, 0, i + rows, j + columns]), abs=1e-12)


def test_the_warp_is_scipy_s_linear_interpolation_with_the_border_repeated():
    images, field = torch.rand(2, 1, 24, 30, dtype=torch.float64), smooth_field(9.0) + 1.7
    moved = warp(images, field).numpy()
    rows, columns = np.indices((24, 30))
    for k in range(2):
        places = [rows + field[k, 0].numpy(), columns + field[k, 1].numpy()]
        expected = map_coordinates(images[k, 0].numpy(), places, order=1, mode="nearest")
        np.testing.assert_allclose(moved[k, 0], expected, atol=1e-10)


def test_forward_and_backward_undo_each_other():
    velocity, images = smooth_field(2.0), smooth_image()
    there, back = integrate(velocity), integrate(-velocity)
    assert there.abs().max() > 1
    loop = back + warp(there, back)  # the displacement of exp(v) o exp(-v)
    assert loop.abs().max() < 0.06
    again = warp(warp(images, there), back)
    assert (again - images).abs().max() < 0.25 * (warp(images, there) - images).abs().max()


def test_squaring_is_the_flow_of_the_velocity():
    """Of a rotation, which is known, and which bilinear interpolation represents exactly."""
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    velocity = 0.2 * torch.stack([columns - 20, 20 - rows])[None].double()  # a rotation about the middle
    moved = integrate(velocity, 10)
    angle = 0.2
    expected = torch.stack(
        [
            (rows - 20) * (np.cos(angle) - 1) + (columns - 20) * np.sin(angle),
            (columns - 20) * (np.cos(angle) - 1) - (rows - 20) * np.sin(angle),
        ]
    ).double()
    middle = (slice(None), slice(10, 31), slice(10, 31))
    torch.testing.assert_close(moved[0][middle], expected[middle], rtol=0, atol=5e-3)


def test_an_integrated_field_does_not_fold_where_the_velocity_itself_would():
    velocity = smooth_field(12.0, seed=3)
    assert jacobian_determinant(velocity).min() < 0  # as a displacement it folds
    assert jacobian_determinant(integrate(velocity, 8)).min() > 0


def test_the_jacobian_and_the_roughness_of_a_linear_field_are_known():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    matrix = torch.tensor([[0.1, -0.3], [0.2, 0.05]])
    field = torch.einsum("ij,jhw->ihw", matrix, torch.stack([rows, columns]))[None]
    determinant = torch.linalg.det(torch.eye(2) + matrix)
    torch.testing.assert_close(jacobian_determinant(field), determinant.expand(1, 7, 9), rtol=0, atol=1e-5)
    expected = 0.5 * (matrix.square().sum(1) / 2).sum()  # mean over both components of (dv/dx)^2 + (dv/dy)^2
    torch.testing.assert_close(roughness(field), expected)
    assert roughness(torch.full((1, 2, 9, 11), 3.0)) == 0


# ---- local correlation ----------------------------------------------------------------------------------------------


def test_lncc_is_its_formula_box_by_box():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 11, 12, dtype=torch.float64), torch.rand(2, 1, 11, 12, dtype=torch.float64)
    squares = []
    for k in range(2):
        for i in range(11):
            for j in range(12):
                box = (k, 0, slice(max(i - 2, 0), i + 3), slice(max(j - 2, 0), j + 3))
                covariance = np.cov(a[box].flatten(), b[box].flatten(), bias=True)
                squares.append(covariance[0, 1] ** 2 / (covariance[0, 0] * covariance[1, 1] + FLAT))
    assert float(lncc(a, b, window=5)) == pytest.approx(1 - np.mean(squares), abs=1e-9)
    inside = torch.zeros(2, 1, 11, 12, dtype=torch.bool)
    inside[1, 0, 4:7, 3:9] = True
    chosen = np.array(squares).reshape(2, 11, 12)[1, 4:7, 3:9]
    assert float(lncc(a, b, inside, window=5)) == pytest.approx(1 - chosen.mean(), abs=1e-9)


def test_lncc_ignores_brightness_and_contrast_even_inverted_and_knows_noise(brains):
    a, inside = brains[:8], brains[:8] > 0
    for b in (3 * a + 1, -2 * a + 5):
        assert abs(float(lncc(a, b, inside))) < 1e-3
    torch.manual_seed(0)
    assert lncc(a, torch.rand_like(a), inside) > 0.9
    torch.testing.assert_close(lncc(a, a.flip(0)), lncc(a.flip(0), a))


def test_lncc_of_flat_regions_is_one_with_finite_gradients():
    flat, other = torch.full((1, 1, 16, 16), 0.5).requires_grad_(), torch.rand(1, 1, 16, 16).requires_grad_()
    for a, b in ((flat, other), (flat, flat * 1)):
        loss = lncc(a, b)
        assert loss.item() == pytest.approx(1, abs=1e-4)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [flat]))
    assert lncc(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)) == 1


# ---- the detector ---------------------------------------------------------------------------------------------------


def test_the_losses_are_their_formulas(brains):
    model, images = small(), brains[:6]
    model.step.fill_(5)
    with torch.no_grad():
        model.deformer.to_velocity.weight.normal_(std=0.2)
    losses = model.train().training_losses(images)
    prior, velocity = model.prior_and_velocity(images)
    morphed, moved = warp(prior, integrate(velocity, 4)), warp(images, integrate(-velocity, 4))
    assert (morphed - prior).abs().max() > 0.01
    brain = images > 0
    torch.testing.assert_close(losses["reconstruction"], (images - prior).square().mean())
    expected = 0.1 / 2 * (lncc(images, morphed, brain) + lncc(prior, moved, brain))
    torch.testing.assert_close(losses["lncc"], expected)
    torch.testing.assert_close(losses["roughness"], 0.1 * 3.0 * 5 / 10 * roughness(velocity))


def test_the_weight_of_smoothness_grows_with_the_steps_to_its_top():
    model, course = small(ramp=100, beta_max=3.0), []
    for step in (0, 1, 10, 50, 100, 400):
        model.step.fill_(step)
        course.append(model.beta())
    assert course == pytest.approx([1e-3, 0.03, 0.3, 1.5, 3.0, 3.0])


def test_the_deformer_is_still_before_the_start_and_everything_learns_from_lncc_after_it(brains):
    model = small(start=2)
    before = {name: value.clone() for name, value in model.deformer.state_dict().items()}
    history = fit(model, brains, steps=2, batch_size=16, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.deformer.state_dict().items())
    assert (history["lncc"] == 0).all()
    losses = model.train().training_losses(brains[:16])
    losses["lncc"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("convolution.bias"):  # batch normalisation takes it away again
            assert parameter.grad.abs().sum() > 0, name
    fit(model, brains, steps=1, batch_size=16, progress=False)
    assert not torch.equal(before["to_velocity.weight"], model.deformer.to_velocity.weight)
    assert int(model.step) == 3


def test_it_begins_as_its_prior(brains):
    model = small().eval()
    with torch.no_grad():
        assert model.displacement(brains[:4]).abs().max() < 1e-3
        torch.testing.assert_close(model(brains[:4]), model.prior(brains[:4]), rtol=0, atol=1e-4)


def test_under_autocast_fields_and_losses_are_float32(brains):
    model = small(start=0).train()
    with torch.autocast("cpu", torch.bfloat16):
        prior, velocity = model.prior_and_velocity(brains[:4])
        losses = model.training_losses(brains[:4])
    assert prior.dtype == velocity.dtype == torch.float32
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_one_batch_can_be_learned_by_heart_and_the_warp_helps(brains):
    model, images = small(latent=4, start=80, ramp=1000, beta_max=1.0, width=8), brains[:8]
    bent = warp(images, smooth_field(1.5, shape=SHAPE).float()[:1].expand(8, -1, -1, -1))
    history = fit(model, bent, steps=200, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.15 * images.var()
    assert history["lncc"].iloc[-10:].mean() < 0.6 * history["lncc"].iloc[80:90].mean()
    with torch.no_grad():
        brain = bent > 0
        assert lncc(bent, model(bent), brain) < lncc(bent, model.prior(bent), brain)
        assert model.displacement(bent).abs().max() > 0.05
        assert jacobian_determinant(model.displacement(bent)).min() > 0


def test_maps_are_residuals_in_the_brain_and_a_lesion_stands_out(brains, unseen):
    model = small(start=60, ramp=120)
    fit(model, brains, steps=80, batch_size=16, progress=False)
    ill = unseen.clone()
    ill[:, :, 12:18, 14:20] = 1.3
    for function in (model.anomaly_map, model.prior_map):
        anomaly = function(ill)
        assert anomaly.isfinite().all() and (anomaly[ill[:, 0] == 0] == 0).all()
        assert (anomaly[:, 12:18, 14:20].mean((1, 2)) > 2 * function(unseen)[:, 12:18, 14:20].mean((1, 2))).all()
    torch.testing.assert_close(model.anomaly_map(ill), (ill - model(ill)).abs()[:, 0].detach() * (ill[:, 0] > 0))
    assert (model.anomaly_score(ill) > model.anomaly_score(unseen)).all()
    torch.testing.assert_close(model.anomaly_map(ill[:1]), model.anomaly_map(ill)[:1], rtol=1e-4, atol=1e-5)


def test_a_stored_one_scores_the_same_and_knows_its_step(brains, tmp_path):
    options = {"steps": 6, "batch_size": 16, "progress": False, "folder": tmp_path}
    trained, _ = load_or_train(small(), brains, **options)
    loaded, _ = load_or_train(small(), brains, **options)
    assert loaded is not trained and int(loaded.step) == 6
    assert loaded.beta() == trained.beta() == pytest.approx(1.8)
    assert torch.equal(loaded.anomaly_map(brains), trained.anomaly_map(brains))


def test_killed_and_resumed_is_as_never_killed(brains, tmp_path):
    straight = small()
    fit(straight, brains, steps=6, batch_size=8, progress=False)
    for stop in (2, 4):  # before and after the deformer's start
        file = tmp_path / f"{stop}.pt"
        fit(small(), brains, steps=stop, batch_size=8, progress=False, checkpoint=file)
        model = small()
        fit(model, brains, steps=6, batch_size=8, progress=False, checkpoint=file)
        assert all(
            torch.equal(a, b) for a, b in zip(straight.state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_bad_arguments_are_refused():
    with pytest.raises(BadInput, match="multiples of 32, not 96 x 90"):
        MorphAEus((96, 90))
    with pytest.raises(ValueError, match="deformer needs 3"):
        MorphAEus(SHAPE, channels=(4, 8))
    with pytest.raises(ValueError, match="ramp >= 1"):
        MorphAEus(SHAPE, ramp=0)
    with pytest.raises(ValueError, match="squarings is -1"):
        integrate(torch.zeros(1, 2, 4, 4), -1)
    with pytest.raises(ValueError, match="no centre"):
        lncc(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), window=4)
