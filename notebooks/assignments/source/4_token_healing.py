# %% [markdown]
# # Assignment 4: Token transformer healing
#
# **Turn a head into small integers, find the improbable ones, and let a transformer say what should have been there.**
#
# You write the parts of lessons 4.1 and 4.2 that go wrong most often: which side is detached, when the codebook moves,
# the shift by one, whose tokens set the threshold, and what is left alone when a grid is healed. The convolutions, the
# attention and the training loops are the course's.
#
# | | | |
# |---|---|---|
# | time | 150 minutes of yours, seconds of the computer's | |
# | needs | lessons 4.1 and 4.2 | |
#
# | part | task | points |
# |---|---|---|
# | 1 | the nearest code | 2 |
# | 2 | straight through, and the commitment | 4 |
# | 3 | a codebook that follows | 3 |
# | 4 | the shift by one | 2 |
# | 5 | surprise | 4 |
# | 6 | one threshold for all | 3 |
# | 7 | healing | 4 |
# | 8 | the map | 3 |
# | 9 | two answers in words | 5 |
# | | together | 30 |
#
# Replace each `raise NotImplementedError("your turn: ...")` by your code and leave the names as they are. The cell
# after it checks you, and says what it misses. Some checks come with the marks only. Whatever gives the right numbers
# is right.
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# ## The people and their tokens
#
# Small simulated people; a VQ-VAE of the course writes each slice of 32 × 32 pixels as 8 × 8 tokens out of 16 codes.

# %% nbgrader={"schema_version": 3, "grade_id": "a4-data", "grade": false, "solution": false, "locked": true, "task": false}
import matplotlib.pyplot as plt
import numpy as np
import torch
from course_lib.detectors.transformer import Transformer
from course_lib.detectors.vq_vae import VQVAE
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics
from course_lib.training import fit
from torch.nn import functional as F

train_people = small_people({"healthy": 40}, split="train", seed=6)
validation_people = small_people({"healthy": 20}, split="val", seed=6)
test_people = small_people({"bright": 8, "dark": 8}, split="test", seed=6)


def batch(images: np.ndarray) -> torch.Tensor:
    """Slices (N, H, W) as a tensor (N, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]


def new_transformer(seed: int, spread: float = 1.0) -> Transformer:
    """An untrained causal transformer of 16 codes and at most 64 places; a large spread gives it strong opinions."""
    torch.manual_seed(seed)
    network = Transformer(16, 64, causal=True, width=32, layers=2, heads=2).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(spread)
    return network


torch.manual_seed(0)
vqvae = VQVAE((32, 32), halvings=2, codes=16, dimensions=4, channels=(8, 16), residuals=0)
fit(vqvae, batch(train_people.images), steps=100, batch_size=16, progress=False)
train_tokens, validation_tokens, test_tokens = (
    vqvae.encode(batch(people.images)).flatten(1) for people in (train_people, validation_people, test_people)
)  # (N, 64) each, from 0 to 15


# %% [markdown]
# ## 1. The nearest code
#
# For each place of `z` the number of the code with the smallest sum of squared differences.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-nearest", "grade": false, "solution": true, "locked": false, "task": false}
def nearest(z: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The tokens: z (B, D, h, w) and codebook (K, D) to integers (B, h, w)."""
    ### BEGIN SOLUTION
    vectors = z.movedim(1, -1)  # (B, h, w, D)
    return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(-1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-nearest-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import numpy as np
import torch

for seed in range(3):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, 3, 4, 5, generator=generator)
    book = torch.randn(7, 3, generator=generator) * torch.linspace(0.3, 2, 7)[:, None]
    vectors, codes = z.movedim(1, -1).reshape(-1, 3).numpy().astype(float), book.numpy().astype(float)
    right = ((vectors[:, None] - codes) ** 2).sum(-1).argmin(1)
    found = nearest(z, book)
    assert tuple(found.shape) == (2, 4, 5), (
        f"One integer for each place, (2, 4, 5), and you return {tuple(found.shape)}."
    )
    flat = np.asarray(found).ravel()
    by_product = (vectors @ codes.T).argmax(1)
    assert not (flat == by_product).all(), (
        "The largest inner product favours long codes: the nearest has the least distance."
    )
    cut = ((z.reshape(-1, 3).numpy()[:, None] - codes) ** 2).sum(-1).argmin(1)
    assert not (flat == cut).all(), "z.reshape(-1, D) cuts through the channels: move them to the end first."
    assert not (flat == np.abs(vectors[:, None] - codes).sum(-1).argmin(1)).all(), (
        "Squared differences, not absolute ones."
    )
    assert (flat == right).all(), "For each place the code with the smallest sum of squared differences."

### END HIDDEN TESTS
import torch

z = torch.tensor([[0.2, 0.8, 4.0], [0.1, 0.9, 4.0]]).view(1, 2, 1, 3)  # three places, two numbers at each
found = torch.as_tensor(nearest(z, torch.tensor([[0.0, 0.0], [1.0, 1.0], [10.0, 10.0]])))
assert tuple(found.shape) == (1, 1, 3), f"One integer for each place, (1, 1, 3), and you return {tuple(found.shape)}."
assert found.flatten().tolist() != [2, 2, 2], "The largest inner product favours long codes: the nearest is another."
assert found.flatten().tolist() == [0, 1, 1], "(0.2, 0.1) is nearest to code 0, (0.8, 0.9) and (4, 4) to code 1."

# %% [markdown]
# ## 2. Straight through, and the commitment
#
# Return `z_q`, whose value is the nearest code and whose gradient goes to `z` as if nothing had happened; and the
# commitment, the mean of $(z - \text{sg}[e])^2$ over all numbers, which pulls the *encoder* to its codes. The codebook
# gets no gradient from either: it follows by averages, in part 3.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-quantise", "grade": false, "solution": true, "locked": false, "task": false}
def quantise(z: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z_q (B, D, h, w) and the commitment, a scalar."""
    ### BEGIN SOLUTION
    codes = codebook[nearest(z, codebook)].movedim(-1, 1).detach()  # (B, D, h, w)
    return z + (codes - z).detach(), (z - codes).square().mean()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-quantise-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
### BEGIN HIDDEN TESTS
import torch


def moved(value, *sides):
    """The gradients of a number with respect to each side, zeros where there is none."""
    none = [torch.zeros_like(side) for side in sides]
    if not value.requires_grad:
        return none
    found = torch.autograd.grad(value, sides, allow_unused=True, retain_graph=True)
    return [zero if g is None else g for g, zero in zip(found, none, strict=True)]


for seed in range(2):
    generator = torch.Generator().manual_seed(10 + seed)
    z, weights = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    book = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    vectors = z.movedim(1, -1).reshape(-1, 3)
    codes = book[torch.cdist(vectors, book).argmin(1)].view(2, 4, 4, 3).movedim(-1, 1)
    z.requires_grad_(), book.requires_grad_()
    z_q, commitment = quantise(z, book)
    assert torch.allclose(z_q.detach(), codes), "The value of z_q is the nearest code of each place."
    assert torch.allclose(commitment.detach(), (z.detach() - codes).square().mean()), (
        "The commitment is a mean of squares."
    )
    to_z, to_book = moved((z_q * weights).sum(), z, book)
    assert to_z.any(), "No gradient reaches z: the nearest code is a choice, and a choice has none. Straight through!"
    assert torch.allclose(to_z, weights), "The gradient of z_q with respect to z is 1: z + (codes - z).detach()."
    assert not to_book.any(), "z_q moves the codebook: it must not get a gradient."
    to_z, to_book = moved(commitment, z, book)
    assert not (to_book.any() and not to_z.any()), (
        "The detach is on the wrong side: your commitment moves the codebook and leaves the encoder where it is."
    )
    assert not to_book.any(), "You forgot to detach the codes: the commitment moves the codebook as well."
    assert torch.allclose(to_z, 2 * (z.detach() - codes) / z.numel()), "The commitment does not pull z to its codes."

### END HIDDEN TESTS
import torch

z = torch.tensor([[0.2, 0.8, 4.0], [0.1, 0.9, 4.0]]).view(1, 2, 1, 3).requires_grad_()
z_q, commitment = quantise(z, torch.tensor([[0.0, 0.0], [1.0, 1.0], [10.0, 10.0]]))
assert torch.allclose(z_q.detach(), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]).view(1, 2, 1, 3)), "z_q is the codes."
assert abs(float(commitment.detach()) - 18.1 / 6) < 1e-4, "The commitment is the mean of the six squared distances."
assert z_q.requires_grad, (
    "No gradient reaches z: the nearest code is a choice, and a choice has none. Straight through!"
)

# %% [markdown]
# ## 3. A codebook that follows
#
# With $n_k$ the number of vectors of `z` that are nearest to code $k$ and $S_k$ their sum, each *training* batch gives
#
# $$N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \qquad m_k \leftarrow \gamma m_k + (1 - \gamma) S_k, \qquad
# e_k = m_k / N_k .$$
#
# `sizes` is $N$, `sums` is $m$, `decay` is $\gamma$. Return the three as they are afterwards. In evaluation mode
# nothing changes.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-codebook", "grade": false, "solution": true, "locked": false, "task": false}
def update(
    codebook: torch.Tensor, sizes: torch.Tensor, sums: torch.Tensor, z: torch.Tensor, decay: float, training: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The codebook (K, D), sizes (K,) and sums (K, D) after a batch z (B, D, h, w)."""
    ### BEGIN SOLUTION
    if not training:
        return codebook, sizes, sums
    hot = F.one_hot(nearest(z, codebook).flatten(), len(codebook)).to(z.dtype)  # (N, K)
    sizes = decay * sizes + (1 - decay) * hot.sum(0)
    sums = decay * sums + (1 - decay) * hot.T @ z.movedim(1, -1).reshape(len(hot), -1)
    return sums / sizes[:, None], sizes, sums
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-codebook-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import torch

generator = torch.Generator().manual_seed(20)
book = torch.randn(6, 3, generator=generator, dtype=torch.float64)
book[5] = 50.0  # a code that nothing is near to
sizes = torch.rand(6, generator=generator, dtype=torch.float64) + 1
state = book, sizes, book * sizes[:, None]
for decay in (0.9, 0.5, 0.99):
    z = torch.randn(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    still = update(*(part.clone() for part in state), z, decay, False)
    assert all(torch.equal(a, b) for a, b in zip(still, state, strict=True)), (
        "You update the codebook in evaluation mode: the test people then move the codes that judge them."
    )
    vectors = z.movedim(1, -1).reshape(-1, 3)
    owner = torch.cdist(vectors, state[0]).argmin(1)
    n = torch.bincount(owner, minlength=6).double()
    S = torch.stack([vectors[owner == k].sum(0) for k in range(6)])
    N, m = decay * state[1] + (1 - decay) * n, decay * state[2] + (1 - decay) * S
    found = update(*(part.clone() for part in state), z, decay, True)
    assert torch.isfinite(found[0][5]).all(), (
        "A code that no vector is nearest to became NaN: do not divide by its 0 vectors."
    )
    swapped = (1 - decay) * state[1] + decay * n
    assert decay == 0.5 or not torch.allclose(found[1], swapped), (
        "gamma is on the wrong side: it weighs what was there before."
    )
    assert not torch.allclose(found[1], n), "There is no average over batches: gamma N + (1 - gamma) n."
    assert torch.allclose(found[1], N), "sizes is not gamma N + (1 - gamma) n."
    assert torch.allclose(found[2], m), "sums is not gamma m + (1 - gamma) S."
    assert torch.allclose(found[0][5], state[0][5]), "A code that no vector is nearest to stays where it is."
    assert torch.allclose(found[0], m / N[:, None]), "A code is m / N, both after this batch."
    state = m / N[:, None], N, m

### END HIDDEN TESTS
import torch

state = torch.tensor([[0.0], [1.0]]), torch.ones(2), torch.tensor([[0.0], [1.0]])
z = torch.tensor([0.2, 0.4]).view(1, 1, 1, 2)  # both are nearest to code 0
book, sizes, sums = update(*(part.clone() for part in state), z, 0.5, True)
assert torch.isfinite(book).all(), "A code that no vector is nearest to became NaN: do not divide by its 0 vectors."
assert torch.allclose(sizes, torch.tensor([1.5, 0.5])), "N: half of what was there and half of the two new ones, 1.5."
assert torch.allclose(book, torch.tensor([[0.2], [1.0]])), "Code 0 goes to 0.3 / 1.5; code 1 stays where it is."

# %% [markdown]
# ## 4. The shift by one
#
# A causal transformer names token $t$ from what came before. Return what goes into it and what it is to name, both `(B,
# L)`; `start` is the start symbol.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-shift", "grade": false, "solution": true, "locked": false, "task": false}
def inputs_and_targets(tokens: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and the target of a causal transformer for tokens (B, L)."""
    ### BEGIN SOLUTION
    return F.pad(tokens[:, :-1], (1, 0), value=start), tokens
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-shift-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 2}
### BEGIN HIDDEN TESTS
import torch

for tokens in (torch.tensor([[3, 1, 4, 1], [2, 7, 1, 8]]), torch.tensor([[5, 9, 2, 6, 5, 3, 5]])):
    inputs, target = (torch.as_tensor(part) for part in inputs_and_targets(tokens, 16))
    right = torch.cat([torch.full((len(tokens), 1), 16), tokens[:, :-1]], 1)
    assert inputs.shape == target.shape == tokens.shape, (
        "Both have L places: the start symbol comes, the last token goes."
    )
    assert not torch.equal(inputs, tokens), "Place t sees the token that it is to name: the network copies."
    assert not (torch.equal(inputs, right) and torch.equal(target[:, :-1], tokens[:, 1:])), (
        "Shifted twice, input and target: place t would name the token after the next."
    )
    assert not torch.equal(inputs, tokens.roll(1, 1)), (
        "The last token came round to the first place: put the start there."
    )
    assert torch.equal(inputs, right), "Input: the start symbol, then all tokens but the last."
    assert torch.equal(target, tokens), "Target: all tokens as they are."

### END HIDDEN TESTS
import torch

inputs, target = (torch.as_tensor(part).tolist() for part in inputs_and_targets(torch.tensor([[3, 1, 4]]), 16))
assert inputs != [[3, 1, 4]], "Place t sees the token that it is to name: the network copies."
assert inputs == [[16, 3, 1]] and target == [[3, 1, 4]], (
    f"The first place knows the start alone; yours: {inputs}, {target}."
)

# %% nbgrader={"schema_version": 3, "grade_id": "a4-training", "grade": false, "solution": false, "locked": true, "task": false}
network = new_transformer(0)
optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
for _ in range(120):
    rows = train_tokens[torch.randperm(len(train_tokens))[:16]]
    inputs, target = inputs_and_targets(rows, network.codes)
    loss = F.cross_entropy(network(inputs).flatten(0, 1), target.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{loss.item():.2f} nats a token; knowing nothing costs {np.log(16):.2f}")

# %% [markdown]
# ## 5. Surprise
#
# $-\log p(s_t | s_{<t})$ of each token, in nats, without gradients. `network(inputs)` gives logits `(B, L, K)`;
# `network.codes` is the start symbol. A token may change the surprise of those after it, and its own, but never of
# those before.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-surprise", "grade": false, "solution": true, "locked": false, "task": false}
def surprise(network: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """The surprise of each token, (B, L) to (B, L), in nats."""
    ### BEGIN SOLUTION
    inputs, target = inputs_and_targets(tokens, network.codes)
    with torch.no_grad():
        return -network(inputs).log_softmax(-1).gather(-1, target[..., None])[..., 0]
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-surprise-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
import torch

model = new_transformer(3, 6.0)
tokens = torch.randint(16, (3, 20), generator=torch.Generator().manual_seed(0))
got = torch.as_tensor(surprise(model, tokens)).detach()
assert tuple(got.shape) == (3, 20), f"One number for each token, (3, 20), and you return {tuple(got.shape)}."
changed = tokens.clone()
changed[:, 8] = (tokens[:, 8] + 5) % 16
move = (torch.as_tensor(surprise(model, changed)).detach() - got).abs().max(0).values
assert move[:8].max() < 1e-4, (
    "A token changes the surprise of one before it: something is off by one, and the network reads its own answer."
)
assert move[8] > 1e-4, "The changed token's own surprise does not change: which token do you look up at place t?"
### BEGIN HIDDEN TESTS
logits = model(torch.cat([torch.full((3, 1), 16), tokens[:, :-1]], 1)).detach()
right = -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
assert not torch.allclose(got, -right, atol=1e-4), "The sign is flipped: an improbable token is surprising."
assert not torch.allclose(got, right.neg().exp(), atol=1e-4), "That is the probability. Surprise is -log p, in nats."
assert not torch.allclose(got, -logits.gather(-1, tokens[..., None])[..., 0], atol=1e-4), (
    "Logits are no log-probabilities."
)
seen = -model(tokens).detach().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
assert not torch.allclose(got, seen, atol=1e-4), "Place t sees token t itself: shift the input by one."
assert torch.allclose(got, right, atol=1e-4), "Not -log p(s_t | s_<t): the start symbol is network.codes."
### END HIDDEN TESTS

# %% [markdown]
# ## 6. One threshold for all
#
# `healthy` and `new` are surprises, `(N, L)` and `(M, L)`; `healthy_brain` and `new_brain` say which tokens have brain
# in their square. Mark tokens of the new people by *one* number for all places and images, such that a share `share` of
# the healthy validation tokens with brain would be marked. Tokens without brain are never marked.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-mark", "grade": false, "solution": true, "locked": false, "task": false}
def mark(
    healthy: np.ndarray, healthy_brain: np.ndarray, new: np.ndarray, new_brain: np.ndarray, share: float
) -> np.ndarray:
    """The marks of the new people, (M, L) bool."""
    ### BEGIN SOLUTION
    return (new > np.quantile(healthy[healthy_brain], 1 - share)) & new_brain
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-mark-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
from functools import partial

import numpy as np


def agree(found, new, new_brain, threshold):
    """Whether these are the marks of this threshold, but for a few at the border."""
    border = (np.abs(new - threshold) < 0.05).sum()
    return (found != ((new > threshold) & new_brain)).sum() <= 2 + 2 * border


rng = np.random.default_rng(0)
for share in (0.05, 0.02):
    healthy, new = rng.exponential(1, (80, 40)), rng.exponential(1, (8, 40))
    new[:3] *= 4
    brain, new_brain = rng.random(healthy.shape) < 0.5, rng.random(new.shape) < 0.6
    healthy[~brain] *= 0.1
    found = np.asarray(mark(healthy, brain, new, new_brain, share))
    assert found.shape == new.shape and found.dtype == bool, "One boolean for each token of the new people."
    limit = np.quantile(healthy[brain], 1 - share)
    same = partial(agree, found, new, new_brain)
    per_image = np.stack([np.quantile(n[b], 1 - share) for n, b in zip(new, new_brain, strict=True)])[:, None]
    assert not (found & ~new_brain).any(), "You marked tokens without brain: there is nothing to heal."
    assert same(limit) or not same(per_image), "A quantile of each image marks something in everybody, healthy or not."
    assert same(limit) or not same(np.quantile(new[new_brain], 1 - share)), (
        "The threshold comes from the people you test: the ill ones raise it for all."
    )
    assert same(limit) or not same(np.quantile(healthy[brain], share)), "The wrong tail: you mark nearly everything."
    assert same(limit) or (found != ((new < limit) & new_brain)).any(), "You marked the probable ones."
    assert same(limit) or not same(np.quantile(healthy, 1 - share)), (
        "Tokens of the background set your threshold: they are never surprising, and it is too low for the brain."
    )
    assert same(limit), "One number: the quantile 1 - share of all healthy validation tokens with brain."

### END HIDDEN TESTS
import numpy as np

healthy, new = np.arange(100.0).reshape(10, 10), np.array([[5.0, 96.5, 99.5]])
found = np.asarray(mark(healthy, np.ones((10, 10), bool), new, np.array([[True, True, False]]), 0.05))
assert found.shape == new.shape and found.dtype == bool, "One boolean for each token of the new people."
assert not found[0, 2], "You marked a token without brain: there is nothing to heal."
assert found.tolist() == [[False, True, False]], (
    "The highest 5 % of 0 .. 99 begin at 94 or 95: 96.5 is marked, 5 is not."
)

# %% [markdown]
# ## 7. Healing
#
# Walk from the first token to the last. Where `marked`, put the *most probable* token given the prefix that is already
# healed; leave all others as they are.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-heal", "grade": false, "solution": true, "locked": false, "task": false}
def heal(network: Transformer, tokens: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """The healed tokens, (B, L); marked is (B, L) bool."""
    ### BEGIN SOLUTION
    healed = tokens.clone()
    with torch.no_grad():
        for t in torch.nonzero(marked.any(0))[:, 0].tolist():
            prefix = F.pad(healed[:, :t], (1, 0), value=network.codes)
            best = network(prefix)[:, -1].argmax(-1)
            healed[:, t] = torch.where(marked[:, t], best, healed[:, t])
    return healed
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-heal-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
import torch

model = new_transformer(5, 6.0)
generator = torch.Generator().manual_seed(1)
tokens = torch.randint(16, (4, 12), generator=generator)
marked = torch.rand(4, 12, generator=generator) < 0.4
marked[0] = False
got = torch.as_tensor(heal(model, tokens, marked))
assert got.shape == tokens.shape, "The healed grid has the shape of the old one."
assert torch.equal(got[~marked], tokens[~marked]), (
    "You healed tokens that are not marked: healed everywhere, the patient's own anatomy is gone, too."
)
assert not torch.equal(got, tokens), "Nothing is healed."
### BEGIN HIDDEN TESTS
given = torch.full((4, 1), 16)
logits = model(torch.cat([given, tokens[:, :-1]], 1)).detach()
right = tokens.clone()
for t in range(12):
    best = model(torch.cat([given, right[:, :t]], 1)).detach()[:, -1].argmax(-1)
    right[:, t] = torch.where(marked[:, t], best, right[:, t])
at_once = torch.where(marked, logits.argmax(-1), tokens)
assert torch.equal(at_once, right) or not torch.equal(got, at_once), (
    "You looked back at the old prefix: a token behind a lesion must see the healed tokens, not the lesion."
)
late = torch.where(marked, model(tokens).detach().argmax(-1), tokens)
assert not torch.equal(got, late), "Off by one: the token at place t must not see itself or what follows."
again = torch.as_tensor(heal(model, tokens, marked))
assert torch.equal(got, again), "Another result at the second call: take the most probable token, do not draw."
assert torch.equal(got, right), "Each marked token is the most probable one given the healed prefix, the start first."
### END HIDDEN TESTS

# %% [markdown]
# ## 8. The map
#
# Residual times likelihood: $|x - x'|$, with $x$ the image and $x'$ the picture of the *healed* grid, times the
# surprise of the token that a pixel lies in where that token is marked, and 0 where it is not. 0 outside the brain.
# `rebuilt` is the picture of the grid as it was.


# %% nbgrader={"schema_version": 3, "grade_id": "a4-map", "grade": false, "solution": true, "locked": false, "task": false}
def anomaly_map(
    images: np.ndarray, rebuilt: np.ndarray, healed: np.ndarray, surprise: np.ndarray, marked: np.ndarray
) -> np.ndarray:
    """The map, (N, H, W), from pictures (N, H, W), and from surprise and marks on the grid (N, h, w)."""
    ### BEGIN SOLUTION
    factor = images.shape[1] // surprise.shape[1]
    weight = np.kron(surprise * marked, np.ones((1, factor, factor)))  # (N, H, W)
    return np.abs(images - healed) * weight * (images > 0)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a4-map-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import numpy as np

rng = np.random.default_rng(4)
for side in (4, 8):
    x, y, h = rng.random((3, 2, 16, 16))
    x *= np.hypot(*(np.indices((16, 16)) - 7.5)) < 7
    s, m = rng.exponential(2, (2, side, side)), rng.random((2, side, side)) < 0.5
    got = np.asarray(anomaly_map(x, y, h, s, m), float)
    assert got.shape == x.shape, "A number for each pixel."
    pixel = [(i * side // 16, j * side // 16) for i in range(16) for j in range(16)]
    weights = np.array([[s[k][p] * m[k][p] for p in pixel] for k in range(2)]).reshape(x.shape)
    right = np.abs(x - h) * weights * (x > 0)
    assert not np.allclose(got, np.abs(x - y) * weights * (x > 0)), (
        "The residual of the wrong pair: |x - x_hat| still holds what the decoder cannot paint, and no healing."
    )
    assert not np.allclose(got, np.abs(y - h) * weights * (x > 0)), (
        "The residual of the wrong pair: image and healed picture, not the two reconstructions."
    )
    assert not (got[x == 0] > 0).any(), "There is anomaly outside the brain."
    tiled = np.array([np.tile(a * b, (16 // side, 16 // side)) for a, b in zip(s, m, strict=True)])
    assert not np.allclose(got, np.abs(x - h) * tiled * (x > 0)), (
        "You tiled the grid: each token covers a square of pixels."
    )
    everywhere = np.array([[s[k][p] for p in pixel] for k in range(2)]).reshape(x.shape)
    assert not np.allclose(got, np.abs(x - h) * everywhere * (x > 0)), "Unmarked tokens have no part in the map."
    assert np.allclose(got, right), (
        "|image - healed picture| times the surprise of the pixel's marked token, in the brain."
    )

### END HIDDEN TESTS
import numpy as np

x = np.full((1, 4, 4), 0.5)
x[0, :, 2] = 0  # no brain there
on_grid = np.array([[[2.0, 3.0], [4.0, 5.0]]]), np.array([[[True, False], [False, True]]])
got = np.asarray(anomaly_map(x, np.full((1, 4, 4), 0.9), np.full((1, 4, 4), 0.3), *on_grid), float)
assert got.shape == x.shape, "A number for each pixel."
assert not np.isclose(got[0, 0, 0], 0.8), "The residual of the wrong pair: compare the image with the *healed* picture."
assert np.isclose(got[0, 0, 0], 0.4) and np.isclose(got[0, 3, 3], 1.0), "|0.5 - 0.3| times a surprise of 2, and of 5."
assert got[0, 0, 3] == 0 and got[0, 3, 2] == 0, "0 where the token is not marked, and outside the brain."

# %% [markdown]
# Put together, with a share of 2 % of healthy tokens, and each rung on its own:

# %%
grids = {name: tokens.view(-1, 8, 8) for name, tokens in (("as it was", test_tokens),)}
new, old = (np.asarray(surprise(network, tokens)) for tokens in (test_tokens, validation_tokens))
has_brain = [
    F.max_pool2d((batch(people.images) > 0).float(), 4).flatten(1).numpy() > 0
    for people in (test_people, validation_people)
]
marks = mark(old, has_brain[1], new, has_brain[0], 0.02)
grids["healed"] = torch.as_tensor(heal(network, test_tokens, torch.as_tensor(marks))).view(-1, 8, 8)
pictures = {name: vqvae.decode(tokens)[:, 0].numpy() for name, tokens in grids.items()}
on_grid = new.reshape(-1, 8, 8), marks.reshape(-1, 8, 8)
maps = {
    "residual": np.abs(test_people.images - pictures["as it was"]),
    "surprise": np.kron(on_grid[0], np.ones((1, 4, 4))),
    "healed, x surprise": anomaly_map(test_people.images, pictures["as it was"], pictures["healed"], *on_grid),
}
for family in test_people.families:
    own = (test_people.table["family"] == family).to_numpy()
    ap = {k: rank_metrics(m[own], test_people.masks[own], test_people.brains[own]).ap for k, m in maps.items()}
    print(family, {name: round(value, 3) for name, value in ap.items()})

# %%
row = int(np.argmax(test_people.masks.sum((1, 2)) * (test_people.table["family"] == "dark").to_numpy()))
shown = {"image": test_people.images[row]} | {name: picture[row] for name, picture in pictures.items()}
fig, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
for ax, (name, picture) in zip(axes, (shown | {name: m[row] for name, m in maps.items()}).items(), strict=True):
    ax.imshow(picture * test_people.brains[row], cmap="magma" if name in maps else "gray", vmin=0)
    ax.contour(test_people.masks[row], [0.5], colors="#56B4E9", linewidths=0.8)
    ax.set_title(name, fontsize=8)
    ax.axis("off")

# %% [markdown]
# ## 9. In words
#
# **a.** You read the grid in one order. Which tokens around a lesion are unjustly surprising, which lesion tokens are
# missed, and what do eight orders change? What do they cost?

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a4-words-orders", "grade": true, "solution": true, "locked": false, "task": false, "points": 3}
# A token is judged by what came before it alone. Healthy tokens just after a lesion have an odd prefix and are
# surprising; the last tokens of a large lesion have a prefix that is already lesion, and look expected. Other orders
# come from other sides: a token that is odd from all sides is odd, and one that was behind the lesion once is in front
# of it the next time. An average over eight orders evens this out, at eight trainings and eight walks.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: healthy tokens after (below, right of) the lesion are surprising; the reason.
# - 1 point: tokens within a lesion may be expected; because of a prefix of lesion.
# - 1 point: orders average this out; the price.
#
# === END MARK SCHEME ===

# %% [markdown]
# **b.** A colleague marks the most surprising 2 % of the tokens of *each image*. What happens in a healthy person, and
# why does the course take one number from validation people?

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a4-words-quantile", "grade": true, "solution": true, "locked": false, "task": false, "points": 2}
# In a healthy person 2 % of the tokens are marked and healed as well, so everybody has a spot, and a person with a
# large lesion has too few. One number from healthy validation people marks 2 % of healthy tokens on average, none in a
# clean head and many in an ill one, and no test person has a say in it.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: false marks in every healthy person (or too few in a very ill one).
# - 1 point: a fixed number from healthy validation people means the same for all; it does not use the test people.
#
# === END MARK SCHEME ===
