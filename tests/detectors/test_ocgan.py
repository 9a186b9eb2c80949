"""OCGAN: the bounded code, what each part of a step moves and means, and that mining finds what it looks for."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.aae import bce
from course_lib.detectors.ocgan import OCGAN
from course_lib.errors import BadInput
from course_lib.store import load, save
from course_lib.training import fit

SHAPE = (32, 32)
SMALL = (8, 16, 16, 16)
LOSSES = ["classifier", "latent_discriminator", "visual_discriminator", "latent", "visual", "reconstruction"]


def small(**settings) -> OCGAN:
    torch.manual_seed(0)
    return OCGAN(SHAPE, **({"latent": 4, "channels": SMALL, "mining_from": 4} | settings))


def draw(images):
    """The images with noise, and points of the cube."""
    torch.manual_seed(1)
    return images + 0.1 * torch.randn_like(images), 2 * torch.rand(len(images), 4) - 1


def moved_by(model, step) -> set[str]:
    """The networks whose every parameter has a gradient other than 0 after `step()`; the others must have none."""
    model.zero_grad(set_to_none=True)
    step()
    reached = {}
    for name, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        reached.setdefault(name.partition(".")[0], set()).add(has)
    assert all(len(found) == 1 for found in reached.values()), "a network is reached in part"
    return {name for name, found in reached.items() if found == {True}}


def test_each_part_moves_its_own_networks_and_leaves_the_others_without_a_gradient(brains):
    model, images = small().train(), brains[:8]
    noisy, u = draw(images)
    of_classifier, of_discriminators, of_generator = model.configure_optimizers()
    assert moved_by(model, lambda: model.classifier_step(noisy, u, of_classifier)) == {"C"}
    assert moved_by(model, lambda: model.discriminator_step(images, noisy, u, of_discriminators)) == {"Dl", "Dv"}
    assert moved_by(model, lambda: model.mine(u)) == set()
    assert moved_by(model, lambda: model.generator_step(images, noisy, u, of_generator)) == {"En", "De"}


@pytest.mark.parametrize(
    ("term", "reached"), [("latent", {"En"}), ("visual", {"De"}), ("reconstruction", {"En", "De"})]
)
def test_each_term_of_the_generator_reaches_what_the_paper_says(term, reached, brains):
    model, images = small().train(), brains[:8]
    noisy, u = draw(images)
    generator = [*model.En.parameters(), *model.De.parameters()]
    loss = model.generator_losses(images, noisy, model.mine(u))[term]
    assert moved_by(model, lambda: loss.backward(inputs=generator)) == reached


def test_the_losses_are_their_formulas(brains):
    model, images = small().eval(), brains[:8]
    noisy, u = draw(images)
    codes = model.encode(noisy)
    still = [torch.optim.SGD(group.parameters(), lr=0.0) for group in (model.C, model.Dl, model.En)]
    discriminators = torch.optim.SGD([*model.Dl.parameters(), *model.Dv.parameters()], lr=0.0)

    def real(logits):
        return -logits.sigmoid().log().mean()

    def fake(logits):
        return -(1 - logits.sigmoid()).log().mean()

    expected = (real(model.C(model.decode(codes))) + fake(model.C(model.decode(u)))) / 2
    torch.testing.assert_close(model.classifier_step(noisy, u, still[0]), expected.detach())
    found = model.discriminator_step(images, noisy, u, discriminators)
    expected = (fake(model.Dl(codes)) + real(model.Dl(u))) / 2  # uniform points are real, codes are fake
    torch.testing.assert_close(found["latent_discriminator"], expected.detach())
    expected = (fake(model.Dv(model.decode(u))) + real(model.Dv(images))) / 2
    torch.testing.assert_close(found["visual_discriminator"], expected.detach())
    found = model.generator_step(images, noisy, u, still[2])
    torch.testing.assert_close(found["latent"], real(model.Dl(codes)).detach())
    torch.testing.assert_close(found["visual"], real(model.Dv(model.decode(u))).detach())
    clean = (model.decode(codes) - images).square().mean()  # the target has no noise
    torch.testing.assert_close(found["reconstruction"], clean.detach())


def test_the_generator_weighs_its_terms_as_stated(brains):
    model, images = small(weight=7.0, latent_weight=2.0, visual_weight=3.0).eval(), brains[:8]
    noisy, u = draw(images)
    losses = model.generator_losses(images, noisy, u)
    biases = [model.En[-1].bias, model.De[0].bias]
    before = [bias.detach().clone() for bias in biases]
    total = 2.0 * losses["latent"] + 3.0 * losses["visual"] + 7.0 * losses["reconstruction"]
    gradients = torch.autograd.grad(total, biases)
    model.generator_step(images, noisy, u, torch.optim.SGD([*model.En.parameters(), *model.De.parameters()], lr=1.0))
    for bias, old, gradient in zip(biases, before, gradients, strict=True):
        torch.testing.assert_close(bias.detach(), old - gradient, rtol=1e-4, atol=1e-6)


def test_an_adversary_of_weight_0_moves_nothing(brains):
    """With both out, the generator's step is that of a denoising auto-encoder with a bounded code."""
    images = brains[:8]
    after = []
    for ablated in (True, False):
        model = small(latent_weight=0.0, visual_weight=0.0).train() if ablated else small().train()
        noisy, u = draw(images)
        optimizer = torch.optim.SGD([*model.En.parameters(), *model.De.parameters()], lr=1e-3)
        if ablated:
            model.generator_step(images, noisy, u, optimizer)
        else:
            optimizer.zero_grad()
            (1000 * (model.decode(model.encode(noisy)) - images).square().mean()).backward()
            optimizer.step()
        after.append({name: value.clone() for name, value in model.named_parameters()})
    for name, value in after[0].items():
        torch.testing.assert_close(value, after[1][name], rtol=1e-4, atol=1e-6)


def test_codes_stay_inside_the_cube(brains):
    model = small().eval()
    for images in (brains, 5 * brains, -brains, torch.zeros(2, 1, *SHAPE)):
        codes = model.encode(images)
        assert codes.shape == (len(images), 4) and (codes.abs() < 1).all()
    torch.testing.assert_close(model.encode(brains).atanh(), model.En(brains), rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encode(brains).dtype == torch.float32  # tanh in bfloat16 is 1 from 3.5 on


def test_mining_finds_worse_points_in_the_cube_and_changes_nothing_else(brains):
    model, images = small().train(), brains[:32]
    of_classifier = torch.optim.Adam(model.C.parameters(), lr=1e-3)
    u = 2 * torch.rand(32, 4) - 1
    for _ in range(20):
        model.classifier_step(images, u, of_classifier)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad(set_to_none=True)
    u_star = model.mine(u)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training and model.De.training and model.C.training
    assert not u_star.requires_grad and u_star.shape == u.shape and (u_star.abs() <= 1).all()
    assert (u_star - u).norm(dim=1).max() <= 5 * 0.1 + 1e-5 and (u_star - u).norm(dim=1).min() > 0.01
    model.eval()
    with torch.no_grad():
        old, new = model.C(model.decode(u)), model.C(model.decode(u_star))  # logits of being in class
    assert (new < old).float().mean() > 0.9 and new.mean() < old.mean()
    assert bce(new, 1) > bce(old, 1) and bce(new, 0) < bce(old, 0)


def test_a_step_of_mining_is_one_down_the_normalised_gradient_and_back_into_the_cube(brains):
    model = small(mining_steps=1, mining_rate=0.2).double().eval()
    u = (2 * torch.rand(5, 4) - 1).double()
    u[0] = 0.999
    expected = []
    for point in u:
        point = point.clone().requires_grad_()
        loss = -(1 - model.C(model.decode(point[None])).sigmoid()).log().sum()
        (gradient,) = torch.autograd.grad(loss, point)
        expected.append((point - 0.2 * gradient / gradient.norm()).clamp(-1, 1).detach())
    torch.testing.assert_close(model.mine(u), torch.stack(expected))
    torch.testing.assert_close(small(mining_steps=0).mine(u.float()), u.float())


def spied(model, called: list):
    """The model, whose parts write down their name and the points of the cube that they were given."""
    for name in ("classifier_step", "discriminator_step", "mine", "generator_step"):

        def spy(*inputs, name=name):
            points = next(x for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 2)
            called.append((name, points))
            return getattr(OCGAN, name)(model, *inputs)

        setattr(model, name, spy)
    return model


def test_the_parts_have_the_papers_order_and_mining_serves_the_generator_alone(brains):
    called = []
    model = spied(small(mining_from=1), called).train()
    optimizers = model.configure_optimizers()
    losses = model.training_step(brains[:8], optimizers)
    assert [name for name, _ in called] == ["classifier_step", "discriminator_step", "generator_step"]  # not yet
    assert all(torch.equal(points, called[0][1]) for _, points in called)
    assert list(losses) == LOSSES and not any(loss.requires_grad for loss in losses.values())
    called.clear()
    model.training_step(brains[:8], optimizers)
    assert [name for name, _ in called] == ["classifier_step", "discriminator_step", "mine", "generator_step"]
    (_, first), (_, second), (_, mined), (_, last) = called
    assert torch.equal(first, second) and torch.equal(first, mined) and not torch.equal(first, last)
    assert (first.abs() <= 1).all() and first.std() > 0.4  # uniform on (-1, 1): 0.58


def test_the_noise_has_the_stated_deviation_and_the_discriminator_sees_none(brains):
    seen = {}

    class Spy(OCGAN):
        def discriminator_step(self, images, noisy, u, optimizer):
            seen.update(images=images, noisy=noisy)
            return super().discriminator_step(images, noisy, u, optimizer)

    model = Spy(SHAPE, channels=SMALL, noise=0.25)
    model.training_step(brains[:32], model.configure_optimizers())
    assert torch.equal(seen["images"], brains[:32])
    assert (seen["noisy"] - brains[:32]).std().item() == pytest.approx(0.25, rel=0.02)


def test_the_score_is_the_mean_square_over_the_brain(brains):
    model = small().eval()
    rebuilt = model(brains).detach()
    expected = [((x - r)[x > 0] ** 2).mean() for x, r in zip(brains, rebuilt, strict=True)]
    torch.testing.assert_close(model.anomaly_score(brains), torch.stack(expected))
    assert model.anomaly_score(torch.zeros(1, 1, *SHAPE)).item() == 0


def test_one_batch_can_be_learned_by_heart_with_all_five_networks_at_work(brains):
    model = small(latent=8, mining_from=30)
    history = fit(model, brains[:8], steps=60, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.1 * history["reconstruction"].iloc[0]
    assert list(history.columns) == ["step", *LOSSES, "seconds"] and int(model.step) == 60


def test_uniform_points_are_real_and_codes_are_fake(brains):
    """Codes in a corner: Dl tells them from uniform points, and En then leads them out."""
    model, images = small(weight=0.0).train(), brains[:32]
    with torch.no_grad():
        model.En[-1].bias.fill_(1.0)
    noisy, u = draw(images)
    _, of_discriminators, of_generator = model.configure_optimizers()
    for _ in range(40):
        model.discriminator_step(images, noisy, 2 * torch.rand_like(u) - 1, of_discriminators)
    codes = model.encode(noisy).detach()
    before, far = model.Dl(codes).mean(), codes.mean(0).norm()
    assert model.Dl(u).mean() > before + 1
    for _ in range(20):
        model.generator_step(images, noisy, u, of_generator)
    codes = model.encode(noisy).detach()
    assert model.Dl(codes).mean() > before + 0.5 and codes.mean(0).norm() < far


def test_it_trains_under_autocast(brains):
    model = small(mining_from=2)
    optimizers = model.train().configure_optimizers()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model.training_step(brains[:16], optimizers) for _ in range(4)]
    assert all(loss.isfinite() and loss.dtype == torch.float32 for step in losses for loss in step.values())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.dim() > 1)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_it_survives_the_store_and_an_interruption_before_and_after_mining(brains, tmp_path):
    whole = small()
    history = fit(whole, brains, steps=8, batch_size=16, progress=False)
    for stop in (3, 6):
        resumed, path = small(), tmp_path / f"{stop}.pt"
        fit(small(), brains, steps=stop, batch_size=16, checkpoint=path, progress=False)
        fit(resumed, brains, steps=8, batch_size=16, checkpoint=path, progress=False)
        torch.testing.assert_close(resumed.anomaly_map(brains), whole.anomaly_map(brains), rtol=1e-4, atol=1e-4)
    save(whole, history, tmp_path, {})
    again = small()
    load(again, tmp_path)
    assert torch.equal(again.eval().anomaly_score(brains), whole.anomaly_score(brains))


def test_maps_obey_the_contract(brains, unseen):
    model = small()
    fit(model, brains, steps=8, batch_size=16, progress=False)
    anomaly = model.anomaly_map(unseen)
    assert anomaly.shape == (30, *SHAPE) and anomaly.isfinite().all() and (anomaly[unseen[:, 0] == 0] == 0).all()
    torch.testing.assert_close(model.anomaly_map(unseen[:1]), anomaly[:1], rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(model.anomaly_score(unseen), model.anomaly_score(unseen))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"image_shape": (96, 90)}, BadInput, "multiples of 16, not 96 x 90"),
        ({"depth": 5}, ValueError, "levels 1 to 4"),
        ({"noise": -0.1}, ValueError, "noise is -0.1"),
        ({"mining_steps": -1}, ValueError, "mining_steps is -1; it has to be 0 or more"),
    ],
)
def test_impossible_settings_are_refused(settings, error, text):
    with pytest.raises(error, match=text):
        OCGAN(**({"image_shape": SHAPE} | settings))
