"""The exercises of lesson 3.3: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.soft_intro_vae import exponentiate


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.3")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.3.1", "3.3.2", "3.3.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


@pytest.mark.parametrize(
    "answer",
    [
        lambda error, kl, s, rec, neg: (-2 * s * (rec * error + neg * kl)).exp().mean(),
        lambda error, kl, s, rec, neg: exponentiate(rec * error, neg * kl, s).mean(),
        lambda error, kl, s, rec, neg: sum(torch.exp(-2 * s * rec * error) * torch.exp(-2 * s * neg * kl)) / len(kl),
    ],
)
def test_ways_to_the_push(cards, answer):
    assert cards.verdict("3.3.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda error, kl, s, rec, neg: exponentiate(rec * error, neg * kl, s), "one number for each image"),
        (lambda error, kl, s, rec, neg: (-2 * s * (rec * error + neg * kl)).mean().exp(), "silences the push"),
        (lambda error, kl, s, rec, neg: (-s * (rec * error + neg * kl)).exp().mean(), "2 in the exponent is missing"),
        (lambda error, kl, s, rec, neg: (-2 * (rec * error + neg * kl)).exp().mean(), "0 from the first step on"),
        (lambda error, kl, s, rec, neg: (2 * s * (rec * error + neg * kl)).exp().mean(), "sign is flipped"),
        (lambda error, kl, s, rec, neg: (-2 * s * neg * (rec * error + kl)).exp().mean(), "weighs the KL alone"),
        (lambda error, kl, s, rec, neg: exponentiate(rec * error, neg * kl, s).mean() / 4, "quarter belongs"),
        (lambda error, kl, s, rec, neg: kl.mean(), "Then the mean"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_pushes_are_named(cards, answer, message):
    assert message in cards.verdict("3.3.1", answer)


@pytest.mark.parametrize("answer", [512, 420.0, "600", torch.tensor(650.0)])
def test_weights_of_the_right_scale(cards, answer):
    assert cards.verdict("3.3.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0, "above 0"),
        (-512, "above 0"),
        (1, "hardly outweighs the pull"),
        (1.01, "hardly outweighs the pull"),
        (2048, "That is the lesson's"),
        (1024, "too weak a push"),
        (256, "decoder cannot follow"),
        ("many", "could not use this answer"),
    ],
)
def test_wrong_scales_are_named(cards, answer, message):
    assert message in cards.verdict("3.3.2", answer)


def kept(encode, decode, x, e):
    """The right loss, with detached fakes."""
    r, f = decode(encode(x)), decode(e)
    return (x - r).square().mean() + sum(fake(encode, decode, t.detach()) for t in (r, f)) / 4


def fake(encode, decode, t):
    """exp(-squared error) of a fake, mean over the batch."""
    return (-(t - decode(encode(t))).square()).exp().mean()


def without_history(encode, decode, x, e):
    """The right loss, with fakes that were made without gradients."""
    with torch.no_grad():
        r, f = decode(encode(x)), decode(e)
    pull = torch.nn.functional.mse_loss(decode(encode(x)), x)
    return pull + 0.25 * fake(encode, decode, r) + 0.25 * fake(encode, decode, f)


def moving(encode, decode, x, e):
    """Fakes that keep their history."""
    r, f = decode(encode(x)), decode(e)
    return (x - r).square().mean() + 0.25 * (fake(encode, decode, r) + fake(encode, decode, f))


def switched_off(encode, decode, x, e):
    """No gradient at all."""
    with torch.no_grad():
        return kept(encode, decode, x, e)


def no_pull(encode, decode, x, e):
    """The reconstruction of the pull is constant, too."""
    r, f = decode(encode(x)).detach(), decode(e).detach()
    return (x - r).square().mean() + 0.25 * (fake(encode, decode, r) + fake(encode, decode, f))


def weighted(push, reduce=torch.mean):
    """The right loss with another weight of the push, or sums for means."""

    def loss(encode, decode, x, e):
        r, f = decode(encode(x)), decode(e)
        parts = [(-(t - decode(encode(t))).square()).exp() for t in (r.detach(), f.detach())]
        return reduce((x - r).square()) + push * (reduce(parts[0]) + reduce(parts[1]))

    return loss


@pytest.mark.parametrize("answer", [kept, without_history, weighted(0.25)])
def test_ways_to_hold_fakes_constant(cards, answer):
    assert cards.verdict("3.3.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (moving, "enters the encoder with its history"),
        (switched_off, "No gradient reaches E"),
        (no_pull, "never learns to rebuild x"),
        (weighted(-0.25), "sign of the push"),
        (weighted(1.0), "quarter is missing"),
        (weighted(0.25, torch.sum), "not sums"),
        (lambda encode, decode, x, e: (x - decode(encode(x))).square(), "Return one number"),
        (lambda encode, decode, x, e: (x - decode(encode(x))).square().mean(), "and f alike"),
        (lambda x: x, "could not use this answer"),
    ],
)
def test_wrong_losses_are_named(cards, answer, message):
    assert message in cards.verdict("3.3.3", answer)
