"""The codebook: nearest codes, moving averages by hand, restarts, and nothing at all in evaluation mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from course_lib.detectors.quantiser import EPSILON, Quantiser, perplexity


def made(codes: int = 6, dimensions: int = 3, **settings) -> Quantiser:
    torch.manual_seed(0)
    return Quantiser(codes, dimensions, **settings)


@pytest.fixture
def z():
    return torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(1))  # (B, D, h, w)


def test_each_vector_becomes_the_nearest_code(z):
    quantiser = made().eval()
    z_q, tokens, commitment = quantiser(z)
    vectors = z.movedim(1, -1)  # (B, h, w, D)
    distances = torch.cdist(vectors.reshape(-1, 3).double(), quantiser.codebook.double())
    assert torch.equal(tokens, distances.argmin(1).view(4, 5, 2))
    torch.testing.assert_close(z_q.movedim(1, -1), quantiser.codebook[tokens])
    torch.testing.assert_close(quantiser.lookup(tokens), z_q)
    torch.testing.assert_close(commitment, distances.min(1).values.square().mean().float() / 3)


def test_the_gradient_goes_straight_through_and_none_reaches_the_codebook(z):
    quantiser = made()
    z.requires_grad_()
    weights = torch.randn(4, 3, 5, 2)
    z_q, _, _ = quantiser(z)
    (z_q * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)
    assert not list(quantiser.parameters()) and not quantiser.codebook.requires_grad


def test_the_commitment_pulls_the_vectors_to_their_codes(z):
    quantiser = made().eval()
    z.requires_grad_()
    z_q, _, commitment = quantiser(z)
    commitment.backward()
    torch.testing.assert_close(z.grad, 2 * (z - z_q).detach() / z.numel())


def test_the_first_batch_becomes_the_codebook_with_counts_of_one(z):
    quantiser = made(codes=5)
    quantiser._start(z.movedim(1, -1).flatten(0, -2))
    vectors = z.movedim(1, -1).reshape(-1, 3)
    assert all(bool((vectors == code).all(1).any()) for code in quantiser.codebook)
    assert len(quantiser.codebook.unique(dim=0)) == 5  # no vector twice where there are enough
    assert quantiser.started and (quantiser.sizes == 1).all()
    torch.testing.assert_close(quantiser.sums, quantiser.codebook)


def test_the_moving_averages_are_those_of_the_equations(z):
    quantiser = made(codes=4, decay=0.8, restart=0.0)
    quantiser(z)  # starts, and follows once
    before = {name: value.clone() for name, value in quantiser.named_buffers()}
    other = z.flip(0) + 0.3
    vectors = other.movedim(1, -1).reshape(-1, 3)
    nearest = torch.cdist(vectors, before["codebook"]).argmin(1)
    quantiser(other)
    for k in range(4):
        mine = vectors[nearest == k]
        size = 0.8 * before["sizes"][k] + 0.2 * len(mine)
        total = 0.8 * before["sizes"].sum() + 0.2 * len(vectors)
        smoothed = (size + EPSILON) / (total + 4 * EPSILON) * total
        sums = 0.8 * before["sums"][k] + 0.2 * mine.sum(0)
        torch.testing.assert_close(quantiser.sizes[k], size)
        torch.testing.assert_close(quantiser.codebook[k], sums / smoothed)


def test_an_unused_code_is_not_thrown_away_at_the_first_step(z):
    """The trap of counts that start at 0: 1e-5 would divide its vector."""
    quantiser = made(codes=4, restart=0.0)
    quantiser._start(z.movedim(1, -1).flatten(0, -2))
    quantiser.codebook[0] = quantiser.sums[0] = 50.0  # nothing is near it
    quantiser(z)
    torch.testing.assert_close(quantiser.codebook[0], torch.full((3,), 50.0), rtol=1e-3, atol=0)


def test_a_dead_code_is_born_again_from_the_batch(z):
    quantiser = made(codes=4, decay=0.5, restart=0.6)
    quantiser._start(z.movedim(1, -1).flatten(0, -2))
    quantiser.codebook[2] = quantiser.sums[2] = 50.0
    quantiser(z)  # its count falls to 0.5
    vectors = z.movedim(1, -1).reshape(-1, 3)
    assert (vectors == quantiser.codebook[2]).all(1).any() and quantiser.sizes[2] == 1
    assert torch.equal(quantiser.sums[2], quantiser.codebook[2])


def test_all_codes_find_work_on_clusters():
    torch.manual_seed(0)
    quantiser = Quantiser(16, 2, decay=0.9)
    centres = torch.randn(16, 2) * 4
    for _ in range(150):
        z = centres[torch.randint(16, (200,))] + 0.05 * torch.randn(200, 2)
        _, tokens, _ = quantiser(z.view(1, 200, 1, 2).movedim(-1, 1))
    assert perplexity(tokens, 16) > 12
    assert torch.cdist(centres, quantiser.codebook).min(1).values.median() < 0.1


def test_evaluation_changes_no_bit(z):
    quantiser = made()
    quantiser(z)
    before = {name: value.clone() for name, value in quantiser.named_buffers()}
    quantiser.eval()
    for shift in range(3):
        quantiser(z + shift)
    assert all(torch.equal(value, before[name]) for name, value in quantiser.named_buffers())


def test_half_precision_does_not_move_the_tokens(z):
    quantiser = made().eval()
    with torch.autocast("cpu", torch.bfloat16):
        z_q, tokens, _ = quantiser(z)
    assert z_q.dtype == torch.float32 and torch.equal(tokens, quantiser(z)[1])


def test_perplexity_counts_codes_in_use():
    assert perplexity(torch.zeros(10, dtype=torch.long), 8) == pytest.approx(1)
    assert perplexity(torch.arange(8), 8) == pytest.approx(8)
    p = torch.tensor([0.5, 0.25, 0.25])
    tokens = torch.tensor([0, 0, 1, 2])
    assert perplexity(tokens, 8) == pytest.approx(float((-(p * p.log()).sum()).exp()))


def test_more_codes_than_vectors_share_them():
    quantiser = made(codes=30)
    quantiser(torch.randn(1, 3, 2, 2))
    assert quantiser.codebook.isfinite().all() and quantiser.codebook.shape == (30, 3)
    assert F.embedding(torch.tensor([29]), quantiser.codebook).isfinite().all()
