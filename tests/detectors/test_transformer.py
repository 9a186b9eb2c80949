"""The transformer: what each place sees, the cache, and attention against the formula."""

from __future__ import annotations

import math

import pytest
import torch

from course_lib.detectors.transformer import Cache, Transformer

K, L = 7, 10


def made(causal: bool = True, **settings) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(K, L, causal, **{"width": 16, "layers": 2, "heads": 2, **settings}).eval()
    for parameter in model.parameters():  # at its start all answers are nearly the same
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def inputs():
    return torch.randint(K + 1, (3, L), generator=torch.Generator().manual_seed(1))


def test_a_causal_place_sees_itself_and_what_came_before(inputs):
    model = made()
    before = model(inputs)
    for t in range(L):
        changed = inputs.clone()
        changed[:, t] = (changed[:, t] + 1) % K
        moved = ((model(changed) - before).abs() > 1e-6).any(-1).any(0)  # (L,)
        assert not moved[:t].any() and moved[t:].all()


def test_a_two_way_place_sees_all(inputs):
    model = made(causal=False)
    changed = inputs.clone()
    changed[:, 4] = (changed[:, 4] + 1) % K
    assert ((model(changed) - model(inputs)).abs() > 1e-6).any(-1).all()


@pytest.mark.parametrize("start", [1, 4, L])
@torch.no_grad()
def test_the_cache_gives_what_a_whole_pass_gives(inputs, start):
    model = made()
    cache = Cache(model, len(inputs), L)
    parts = [model(inputs[:, :start], cache)]
    parts += [model(inputs[:, t : t + 1], cache) for t in range(start, L)]
    torch.testing.assert_close(torch.cat(parts, 1), model(inputs), rtol=1e-4, atol=1e-5)
    assert cache.filled == L


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_the_formula(inputs, causal):
    block = made(causal).blocks[0]
    features = torch.randn(2, L, 16)
    q, k, v = block.query_key_value(features).view(2, L, 3, 2, 8).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)  # (B, heads, L, L)
    if causal:
        scores = scores.masked_fill(torch.ones(L, L, dtype=torch.bool).triu(1), -math.inf)
    expected = block.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, L, 16))
    torch.testing.assert_close(block.attend(features, causal, None), expected)


def test_probabilities_are_over_the_codes_alone(inputs):
    logits = made()(inputs)
    assert logits.shape == (3, L, K)  # no answer is the start symbol or the mask
    torch.testing.assert_close(logits.log_softmax(-1).exp().sum(-1), torch.ones(3, L))


def test_logits_stay_in_float32_under_autocast(inputs):
    with torch.autocast("cpu", torch.bfloat16):
        assert made()(inputs).dtype == torch.float32
