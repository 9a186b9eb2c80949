# %% [markdown]
# # Assignment 3: A constrained latent of your choice
#
# **Pick a constraint on the code, write its loss, and send each gradient where it belongs.**
#
# Part 3 of the course has half a dozen ways to keep a code from saying everything. They share a bound, a
# reparameterisation and a KL; they differ in one term, and in whom that term may move. You write the shared parts and
# the term of *one* method. The training loop is given and calls what you wrote.
#
# | | | |
# |---|---|---|
# | time | 150 minutes of yours, seconds of the computer's | |
# | needs | lesson 2.3, and the lesson of your method: 2.3, 3.1, 3.3 or 3.4 | |
#
# | part | task | points |
# |---|---|---|
# | 1 | draw a code | 3 |
# | 2 | what a code costs | 3 |
# | 3 | the bound | 4 |
# | 4 | the term of your method | 4 |
# | 5 | whom it moves | 4 |
# | 6 | one score of two | 3 |
# | 7 | the result | 3 |
# | 8 | two answers in words | 6 |
# | | together | 30 |
#
# Replace each `raise NotImplementedError("your turn: ...")` by your code and leave the names as they are. The cell
# after it checks you, and says what it misses. Some checks come with the marks only. Whatever gives the right numbers
# is right.
#
# *For research and teaching only, not for diagnosis.*

# %% nbgrader={"schema_version": 3, "grade_id": "a3-data", "grade": false, "solution": false, "locked": true, "task": false}
import matplotlib.pyplot as plt
import numpy as np
import torch
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics
from torch import nn
from torch.nn import functional as F

train_people = small_people({"healthy": 40}, split="train", seed=4)
validation_people = small_people({"healthy": 24}, split="val", seed=4)
test_people = small_people({"healthy": 12, "bright": 8, "dark": 8}, split="test", seed=4)
test_ill = test_people.masks.any((1, 2))
kept = test_ill | (test_people.table["family"] == "healthy").to_numpy()  # a spared slice of an ill person is neither


def batch(images: np.ndarray) -> torch.Tensor:
    """Slices (N, H, W) as a tensor (N, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]


# %% [markdown]
# ## 1. Draw a code
#
# The encoder names a Gaussian by `mu` and by `logvar`, the logarithm of the *variance*. Given standard normal `noise`,
# all three `(B, J)`, return a draw such that gradients reach `mu` and `logvar`.


# %% nbgrader={"schema_version": 3, "grade_id": "a3-sample", "grade": false, "solution": true, "locked": false, "task": false}
def sample(mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """z = mu + sigma noise, (B, J)."""
    ### BEGIN SOLUTION
    return mu + torch.exp(0.5 * logvar) * noise
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a3-sample-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import torch

generator = torch.Generator().manual_seed(1)
mu, logvar, noise = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
mu.requires_grad_(), logvar.requires_grad_()
z, sigma = sample(mu, logvar, noise), logvar.detach().exp().sqrt()
gap = (z - mu).detach()
assert not torch.allclose(gap, logvar.detach().exp() * noise), "exp(logvar) is the variance: noise needs the s.d."
assert not torch.allclose(gap, logvar.detach() * noise), "You took the log-variance for the standard deviation itself."
assert torch.allclose(gap, sigma * noise), "Not mu + sigma noise, with sigma the root of exp(logvar)."
assert z.requires_grad, "You detached the draw: no gradient reaches the encoder."
weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
to_mu, to_logvar = torch.autograd.grad((z * weights).sum(), (mu, logvar), allow_unused=True)
assert to_mu is not None and torch.allclose(to_mu, weights), "You detached mu: its gradient has to pass unchanged."
assert to_logvar is not None and torch.allclose(to_logvar, 0.5 * sigma * noise * weights), (
    "You detached sigma: the gradient does not reach logvar, and the code's width is never trained."
)

### END HIDDEN TESTS
import torch

mu, logvar, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.25]]).log(), torch.tensor([[1.0, -2.0]])
z = sample(mu, logvar, noise).detach()
assert not torch.allclose(z, torch.tensor([[5.0, -0.5]])), "exp(logvar) is the variance: noise needs the s.d."
assert torch.allclose(z, torch.tensor([[3.0, -1.0]])), (
    "Variances of 4 and 1/4: the noise is doubled here, halved there."
)

# %% [markdown]
# ## 2. What a code costs
#
# $\text{KL}(N(\mu, \sigma^2) \,\|\, N(0, 1))$ summed over the code, in nats: one number for each image.


# %% nbgrader={"schema_version": 3, "grade_id": "a3-kl", "grade": false, "solution": true, "locked": false, "task": false}
def kl(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """The KL of each image, (B, J) and (B, J) to (B,)."""
    ### BEGIN SOLUTION
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a3-kl-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import torch
from torch.distributions import Normal, kl_divergence

generator = torch.Generator().manual_seed(2)


def codes(count):
    """Means and log-variances, (count, 6)."""
    return [torch.randn(count, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]


mu, logvar = codes(3)
terms = kl_divergence(Normal(mu, logvar.mul(0.5).exp()), Normal(0.0, 1.0))
got = kl(mu, logvar)
assert got.shape == (3,), f"One number for each image, (3,), and you return {tuple(got.shape)}."
assert not torch.allclose(got, -terms.sum(1)), "The sign is flipped: a KL is never negative."
assert not torch.allclose(got, terms.mean(1)), "You took the mean over the code; KL of independent numbers is a sum."
assert not torch.allclose(got, 2 * terms.sum(1)), "The half is missing."
as_variance = 0.5 * (mu.square() + logvar.abs() - logvar.abs().log() - 1).sum(1)
as_sd = kl_divergence(Normal(mu, logvar.exp()), Normal(0.0, 1.0)).sum(1)
assert not torch.allclose(got, as_variance), "You took the log-variance for the variance: exp is missing."
assert not torch.allclose(got, as_sd), "You took log sigma^2 for log sigma."
for count in (1, 4):
    mu, logvar = codes(count)
    terms = kl_divergence(Normal(mu, logvar.mul(0.5).exp()), Normal(0.0, 1.0))
    assert torch.allclose(kl(mu, logvar), terms.sum(1)), "Not the closed form: (mu^2 + sigma^2 - log sigma^2 - 1) / 2."
    gradients = torch.autograd.grad(kl(mu, logvar).sum(), (mu, logvar), allow_unused=True)
    right = torch.autograd.grad(terms.sum(), (mu, logvar))
    assert all(g is not None and torch.allclose(g, r) for g, r in zip(gradients, right, strict=True)), (
        "The value is right, but its gradient does not reach mu and logvar: something is detached."
    )

### END HIDDEN TESTS
import torch

mu, logvar = (
    torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0]]),
    torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.3862944]]),
)
got = kl(mu, logvar)
assert got.shape == (3,), f"One number for each image, (3,), and you return {tuple(got.shape)}."
assert not torch.allclose(got, torch.tensor([0.0, 1.25, 0.4034264])), "You took the mean over the code; it is a sum."
assert torch.allclose(got, torch.tensor([0.0, 2.5, 0.8068528]), atol=1e-5), (
    "N(0, 1) itself costs nothing; means of 1 and -2 cost 2.5 nats; a variance of 4 costs 0.807."
)

# %% [markdown]
# ## 3. The bound
#
# The negative ELBO of each image, in nats, with the likelihood $N(x; \hat{x}, v I)$ and a weight $\beta$ on the KL:
#
# $$\sum_p \frac{(x_p - \hat{x}_p)^2}{2 v} + \beta\, \text{KL} + \frac{HW}{2} \log(2 \pi v) .$$


# %% nbgrader={"schema_version": 3, "grade_id": "a3-elbo", "grade": false, "solution": true, "locked": false, "task": false}
def negative_elbo(
    images: torch.Tensor, rebuilt: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor, variance: float, beta: float
) -> torch.Tensor:
    """The negative ELBO of each image, (B,); images and rebuilt are (B, 1, H, W)."""
    ### BEGIN SOLUTION
    squares = (images - rebuilt).square().flatten(1)  # (B, HW)
    constant = 0.5 * squares.shape[1] * np.log(2 * np.pi * variance)
    return squares.sum(1) / (2 * variance) + beta * kl(mu, logvar) + constant
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a3-elbo-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
### BEGIN HIDDEN TESTS
import torch
from torch.distributions import Normal, kl_divergence

generator = torch.Generator().manual_seed(3)
for variance, beta in ((0.02, 1.0), (0.3, 4.0)):
    x, y = (torch.rand(4, 1, 6, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    mu, logvar = (torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    price = kl_divergence(Normal(mu, logvar.mul(0.5).exp()), Normal(0.0, 1.0)).sum(1)
    fit = -Normal(y, variance**0.5).log_prob(x).sum((1, 2, 3))
    got = negative_elbo(x, y, mu, logvar, variance, beta)
    assert got.shape == (4,), f"One number for each image, (4,), and you return {tuple(got.shape)}."
    assert not torch.allclose(got, fit), "You forgot the KL term: nothing keeps the code near the prior."
    assert not torch.allclose(got, -fit - beta * price), "The sign is flipped: this is the ELBO, and you minimise."
    assert not torch.allclose(got, fit - beta * price), "The sign of the KL is flipped: a costly code is rewarded."
    means, offset = (x - y).square().mean((1, 2, 3)), 21 * torch.tensor(2 * torch.pi * variance).log()
    sums = 42 * means
    assert not any(
        torch.allclose(got, m + beta * price + c) for m in (means, means / (2 * variance)) for c in (0, offset)
    ), "You took the mean over the pixels: beside a mean the KL weighs HW times as much. Sum the squares."
    assert not any(torch.allclose(got, sums + beta * price + c) for c in (0, offset)), "Divide the squares by 2 v."
    assert not torch.allclose(got, sums / (2 * variance) + beta * price), (
        "The constant (HW / 2) log(2 pi v) is missing."
    )
    assert beta == 1 or not torch.allclose(got, fit + price), "You do not use beta."
    assert torch.allclose(got, fit + beta * price), "Not the negative ELBO in nats."

### END HIDDEN TESTS
import torch

x, y = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)
got = negative_elbo(x, y, torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), 0.02, 2.0)
assert got.shape == (1,), f"One number for each image, (1,), and you return {tuple(got.shape)}."
assert abs(float(got) + 3.14829) > 1e-3, "You forgot the KL term: nothing keeps the code near the prior."
assert abs(float(got) + 1.85171) > 1e-3, "The sign is flipped: this is the ELBO, and you minimise."
assert abs(float(got) - 1.85171) < 1e-3, (
    f"Squares over 2 v make 1, twice a KL of 2.5 makes 5, the constant is -4.148: 1.852, not {float(got):.3f}."
)

# %% [markdown]
# ## 4. The term of your method
#
# Choose a method by its name: `method = "aae"`, say, in place of the first stub. Its helper is given: a discriminator,
# an encoder or an estimator, small enough to be written down. All four are worth the same points and ask for different
# things. `"vae"` has one loss and nothing to detach: its work is in the value, free nats for each code number and a
# warm-up, and part 5 looks whether its gradient is halved by the warm-up and gone where nats are free. The others have
# two losses, and part 5 looks whether a detach keeps each on its own side: `"aae"` two of labels, `"introvae"` two of
# the same KL, pushed by one side and pulled by the other, `"lsa"` one value sent two ways.
#
# `latent_term` returns a dictionary of losses, each a mean over the batch:
#
# - `"vae"` gets `mu, logvar, step` and returns `"encoder"`: $\min(1, \text{step} / 100) \sum_j \max(K_j, 0.05)$, with
#   $K_j$ the mean over the batch of the KL of code number $j$: a warm-up, and `0.05` nats that are free.
# - `"aae"` gets `codes, draws, W, w` and returns `"helper"`: the bce (on logits) of `judge` on draws with label 1 plus
#   that on codes with label 0; and `"encoder"`: the bce on codes with label 1.
# - `"introvae"` gets `fakes, M, S` and returns `"encoder"`: the mean of $\exp(-2\, \text{KL} / J)$ of the fakes'
#   `posterior`; and `"decoder"`: the mean of their KL. A KL is one number for each fake.
# - `"lsa"` gets `codes, A, c` and returns `"helper"` and `"encoder"`, both the surprise
#   $-\sum_j \log p(z_j \mid z_{<j})$ with the softmax of `chain`. The bin of a $z_j$ in (0, 1) is the integer part of
#   $z_j$ times the number of bins.
#
# Each loss moves one side only: `"helper"` the helper's weights (`W, w` or `A, c`) and never the codes; `"encoder"` the
# codes and never the helper's weights. In `"introvae"` the encoder *is* the helper: `"encoder"` moves `M, S` and not
# the fakes, `"decoder"` moves the fakes and not `M, S`. Values are checked in part 4, gradients in part 5.


# %% nbgrader={"schema_version": 3, "grade_id": "a3-helpers", "grade": false, "solution": false, "locked": true, "task": false}
def judge(codes, W, w):
    """The discriminator of "aae": codes (B, J), W (J, H), w (H,) to logits (B,)."""
    return torch.tanh(codes @ W) @ w


def posterior(fakes, M, S):
    """The encoder of "introvae": fakes (B, P), M and S (P, J) to mu and logvar (B, J)."""
    return fakes @ M, fakes @ S


def chain(codes, A, c):
    """The estimator of "lsa": codes (B, J), A (J, J, K), c (J, K) to logits (B, J, K); place j sees z_<j alone."""
    before = torch.tril(torch.ones(A.shape[:2], dtype=A.dtype), -1).T  # (J, J), 1 where i < j
    return torch.einsum("bi,ij,ijk->bjk", codes - 0.5, before, A) + c


# %% nbgrader={"schema_version": 3, "grade_id": "a3-term", "grade": false, "solution": true, "locked": false, "task": false}
# method = one of "vae", "aae", "introvae", "lsa"
### BEGIN SOLUTION
method = "vae"
### END SOLUTION


def latent_term(*given) -> dict[str, torch.Tensor]:
    """The losses of the chosen method, by name; what is given depends on it, see above."""
    ### BEGIN SOLUTION
    mu, logvar, step = given
    each = 0.5 * (mu.square() + logvar.exp() - logvar - 1).mean(0)  # (J,)
    return {"encoder": min(1.0, step / 100) * each.clamp(min=0.05).sum()}
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a3-term-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
### BEGIN HIDDEN TESTS
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

generator = torch.Generator().manual_seed(5)
chosen = str(method)
assert chosen in ("vae", "aae", "introvae", "lsa"), f"{chosen!r} is none of the four methods."


def normal(*shape):
    """Random numbers in double precision."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def price(mu, logvar):
    """KL of each number to N(0, 1)."""
    return kl_divergence(Normal(mu, logvar.mul(0.5).exp()), Normal(0.0, 1.0))


for step in (20, 100, 700):
    if chosen == "vae":
        mu, logvar = normal(6, 5) * torch.tensor([2, 1, 0.5, 0.1, 0.02]), 0.1 * normal(6, 5)
        inputs, each = (mu, logvar, step), price(mu, logvar)
        warm = min(1, step / 100)
        right = {"encoder": warm * each.mean(0).clamp(min=0.05).sum()}
        wrong = {
            "You forgot the warm-up": each.mean(0).clamp(min=0.05).sum(),
            "You forgot the free nats: unused numbers are pressed to nothing": warm * each.sum(1).mean(),
            "The nats are free for each code number, not for each image's": warm * each.clamp(min=0.05).sum(1).mean(),
        }
    elif chosen == "aae":
        codes, draws, W, w = inputs = normal(6, 5), normal(6, 5), normal(5, 4), normal(4)
        real, fake = (torch.tanh(z @ W) @ w for z in (draws, codes))
        one, none = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
        bce = binary_cross_entropy_with_logits
        right = {"helper": bce(real, one) + bce(fake, none), "encoder": bce(fake, one)}
        wrong = {
            "The labels are swapped: draws from the prior are the real ones": bce(real, none) + bce(fake, one),
            "The encoder's sign is flipped: it wants its codes taken for draws": bce(fake, none),
        }
    elif chosen == "introvae":
        fakes, M, S = inputs = normal(6, 7), 0.3 * normal(7, 5), 0.3 * normal(7, 5)
        nats = price(fakes @ M, fakes @ S).sum(1)
        right = {"encoder": torch.exp(-2 * nats / 5).mean(), "decoder": nats.mean()}
        wrong = {
            "You took the exponential of the mean: the mean of the exponentials is asked": (-2 * nats.mean() / 5).exp(),
            "The encoder would pull fakes in: it has to push their KL up, exp(-2 KL / J)": torch.exp(
                2 * nats / 5
            ).mean(),
        }
    else:
        codes, A, c = inputs = torch.sigmoid(normal(6, 5)), normal(5, 5, 8), normal(5, 8)
        logits = torch.stack([torch.einsum("bi,ik->bk", codes[:, :j] - 0.5, A[:j, j]) + c[j] for j in range(5)], 1)
        nll = cross_entropy(logits.flatten(0, 1), (codes * 8).long().flatten(), reduction="sum") / 6
        right = {"encoder": nll, "helper": nll}
        wrong = {
            "You took the mean over the code: a chain of probabilities is a sum of logarithms": nll / 5,
            "The sign is flipped: the codes would become improbable": -nll,
        }
    found = latent_term(*inputs)
    names = {str(name) for name in found}
    assert names == set(right), f"{chosen}: return a dictionary with {sorted(right)}, not {sorted(names)}."
    for name, value in right.items():
        got = found[name].detach()
        assert got.shape == (), f"{name}: one number for the batch, not {tuple(got.shape)}."
        for message, other in wrong.items():
            equal = torch.allclose(got, other) and not any(torch.allclose(other, r) for r in right.values())
            assert not equal, f"{name}: {message}."
        assert torch.allclose(got, value), (
            f"{name}: {float(got):.4f} at step {step}, and the formula gives {float(value):.4f}."
        )
again = latent_term(*inputs)
assert all(torch.allclose(again[name], found[name]) for name in right), (
    "Another value at the second call with the same numbers."
)

### END HIDDEN TESTS
import torch

assert str(method) in ("vae", "aae", "introvae", "lsa"), f"{method!r} is none of the four methods."
one, none = torch.ones(1, 1), torch.zeros(1, 1)
cases = {  # what your method gets, and what it should return
    "vae": ((torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.zeros(2, 2), 50), {"encoder": 0.275}),
    "aae": ((torch.zeros(2, 1), torch.ones(2, 1), one, one[0]), {"helper": 1.0763132, "encoder": 0.6931472}),
    "introvae": ((torch.tensor([[1.0], [0.0]]), one, none), {"encoder": 0.6839397, "decoder": 0.25}),
    "lsa": (
        (torch.tensor([[0.1, 0.9]]), torch.zeros(2, 2, 4), torch.zeros(2, 4)),
        {"encoder": 2.7725887, "helper": 2.7725887},
    ),
}
inputs, right = cases[str(method)]
found = latent_term(*inputs)
names = {str(name) for name in found}
assert names == set(right), f"{method}: return a dictionary with {sorted(right)}, not {sorted(names)}."
for name, value in right.items():
    got = found[name].detach()
    assert got.shape == (), f"{name}: one number for the batch, not {tuple(got.shape)}."
    assert abs(float(got) - value) < 1e-4, f"{name}: {float(got):.4f}, and worked out by hand it is {value:.4f}."

# %% [markdown]
# ## 5. Whom it moves
#
# Nothing to write: this checks the gradients of your term. Run it, and repair part 4 if it asks for it.

# %% nbgrader={"schema_version": 3, "grade_id": "a3-route-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 4}
import torch

generator = torch.Generator().manual_seed(6)
chosen = str(method)


def moving(*shape, squeeze=False, scale=1.0):
    """Random numbers that ask for a gradient."""
    values = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (torch.sigmoid(values) if squeeze else values).requires_grad_()


def moved(loss, *sides):
    """For each side whether the loss moves it."""
    if not loss.requires_grad:
        return [False] * len(sides)
    gradients = torch.autograd.grad(loss, sides, allow_unused=True, retain_graph=True)
    return [g is not None and bool(g.abs().max() > 1e-12) for g in gradients]


if chosen == "vae":
    mu, logvar = moving(40, 3, scale=torch.tensor([2.0, 1.0, 0.01])), moving(40, 3, scale=0.01)
    loss = latent_term(mu, logvar, 50)["encoder"]
    assert moved(loss, mu, logvar) == [True, True], "The gradient of the KL does not reach mu and logvar: detached."
    (to_mu,) = torch.autograd.grad(loss, mu)
    assert torch.allclose(to_mu[:, :2], 0.5 * mu.detach()[:, :2] / 40), (
        "The warm-up at step 50 is a half of the KL's gradient."
    )
    assert not to_mu[:, 2].any(), "The third number costs less than the free nats: it must not be pressed further."
elif chosen == "introvae":
    fakes, M, S = moving(6, 7), moving(7, 5, scale=0.3), moving(7, 5, scale=0.3)
    found = latent_term(fakes, M, S)
    of_fakes, of_M, of_S = moved(found["encoder"], fakes, M, S)
    assert of_M and of_S, "The encoder's loss does not move the encoder: the detach is on the wrong side."
    assert not of_fakes, "You forgot to detach the fakes: the encoder's loss moves the decoder against itself."
    of_fakes, of_M, of_S = moved(found["decoder"], fakes, M, S)
    assert of_fakes, "The decoder's loss does not move the fakes: the detach is on the wrong side."
    assert not of_M and not of_S, (
        "The decoder's loss moves the encoder's weights: detach them, else it lowers its guard."
    )
else:
    codes = moving(6, 5, squeeze=chosen == "lsa")
    weights = (moving(5, 4), moving(4)) if chosen == "aae" else (moving(5, 5, 8), moving(5, 8))
    draws = (moving(6, 5).detach(),) if chosen == "aae" else ()
    found = latent_term(codes, *draws, *weights)
    of_codes, *of_weights = moved(found["helper"], codes, *weights)
    assert all(of_weights), "The helper's loss does not move the helper: the detach is on the wrong side."
    assert not of_codes, "You forgot to detach the codes: the helper's loss moves the encoder."
    of_codes, *of_weights = moved(found["encoder"], codes, *weights)
    assert of_codes, "The encoder's loss does not move the codes: the detach is on the wrong side."
    assert not any(of_weights), "The encoder's loss moves the helper's weights: detach them, else it weakens its judge."

# %% [markdown]
# The training loop is given: a step minimises the negative ELBO (scaled), then the losses of your term, each on its own
# side.


# %% nbgrader={"schema_version": 3, "grade_id": "a3-training", "grade": false, "solution": false, "locked": true, "task": false}
class Model(nn.Module):
    """Encoder, decoder and the helpers' weights, for 32 x 32 pixels and 6 code numbers."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 12))
        wide = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 1024))
        self.decoder = nn.Sequential(*wide, nn.Unflatten(1, (1, 32, 32)))
        shapes = {"aae": [(6, 16), (16,)], "introvae": [(1024, 6), (1024, 6)], "lsa": [(6, 6, 10), (6, 10)]}
        self.helper = nn.ParameterList(nn.Parameter(0.05 * torch.randn(s)) for s in shapes.get(method, []))

    def forward(self, images):
        """mu and logvar, (B, 6) each."""
        mu, logvar = self.encoder(images).chunk(2, 1)
        return mu, logvar.clamp(-8, 4)


def term_losses(model, mu, logvar, step):
    """The losses of the chosen term for one batch."""
    if method == "vae":
        return latent_term(mu, logvar, step)
    if method == "aae":
        return latent_term(mu, torch.randn_like(mu), *model.helper)
    if method == "introvae":
        return latent_term(model.decoder(torch.randn_like(mu)).flatten(1), *model.helper)
    return latent_term(torch.sigmoid(mu), *model.helper)


torch.manual_seed(0)
model = Model()
optimizer, history = torch.optim.Adam(model.parameters(), lr=3e-3), []
x = batch(train_people.images)
for step in range(150):
    rows = x[torch.randperm(len(x))[:32]]
    mu, logvar = model(rows)
    rebuilt = model.decoder(sample(mu, logvar, torch.randn_like(mu)))
    bound = negative_elbo(rows, rebuilt, mu, logvar, 0.02, 0.1 if method == "vae" else 1.0).mean()
    loss = bound / 1000 + 0.001 * sum(term_losses(model, mu, logvar, step).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(float(bound.detach()))
model = model.eval()

# %%
fig, ax = plt.subplots(figsize=(5, 2.2), layout="constrained")
ax.plot(history, color="0.2")
_ = ax.set(xlabel="step", ylabel="negative ELBO (nats)")

# %% [markdown]
# ## 6. One score of two
#
# An image has an error (how badly it is rebuilt) and a surprise (how odd its code is), in units of their own. Bring
# each to the scale of *healthy validation* people: subtract their mean, divide by their standard deviation. The score
# is the sum. All four arguments are arrays.


# %% nbgrader={"schema_version": 3, "grade_id": "a3-score", "grade": false, "solution": true, "locked": false, "task": false}
def score(
    errors: np.ndarray, surprises: np.ndarray, healthy_errors: np.ndarray, healthy_surprises: np.ndarray
) -> np.ndarray:
    """The score of each image, (N,), from its error and its surprise; healthy ones (M,) give the scales."""
    ### BEGIN SOLUTION
    return (errors - healthy_errors.mean()) / healthy_errors.std() + (
        surprises - healthy_surprises.mean()
    ) / healthy_surprises.std()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "a3-score-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
### BEGIN HIDDEN TESTS
import numpy as np

rng = np.random.default_rng(8)
calm = rng.gamma(3, 2, 400), rng.normal(-40, 5, 400)
new = rng.gamma(4, 3, 30), rng.normal(-30, 9, 30)


def standard(values, scale):
    """Distances from the mean of `scale` in its standard deviations."""
    return (values - scale.mean()) / scale.std()


right = sum(standard(v, s) for v, s in zip(new, calm, strict=True))
got = np.asarray(score(*new, *calm), float)
assert got.shape == (30,), "One score for each image."
assert not np.allclose(got, -right, atol=0.05), "The sign is flipped: high has to be anomalous."
assert not np.allclose(got, sum(new)), "You added two units: the larger numbers alone would decide."
assert not np.allclose(got, sum(standard(v, v) for v in new), atol=0.05), (
    "You normalised over the test set: the score of one person then depends on who else is tested."
)
alone = np.array([float(np.asarray(score(new[0][k : k + 1], new[1][k : k + 1], *calm)).ravel()[0]) for k in range(5)])
assert np.allclose(alone, got[:5], equal_nan=True), (
    "The score of an image depends on the others that are scored with it."
)
assert not np.allclose(got, standard(new[0], calm[0]), atol=0.05), "The surprise of the code is not in it."
assert not np.allclose(got, standard(new[1], calm[1]), atol=0.05), "The error of the image is not in it."
assert np.allclose(got, right, atol=0.05), (
    "Not the sum of both, each in healthy standard deviations from the healthy mean."
)

### END HIDDEN TESTS
import numpy as np

calm = np.tile([0.0, 2.0], 200), np.tile([0.0, 4.0], 200)  # means 1 and 2, standard deviations 1 and 2
got = np.asarray(score(np.array([3.0, 1.0]), np.array([4.0, 2.0]), *calm), float)
assert got.shape == (2,), "One score for each image."
assert not np.allclose(got, [7, 3]), "You added two units: the larger numbers alone would decide."
assert not np.allclose(got, [-3, 0], atol=0.05), "The sign is flipped: high has to be anomalous."
assert np.allclose(got, [3, 0], atol=0.05), "An error 2 s.d. above the healthy mean and a surprise 1 s.d. above it: 3."


# %% nbgrader={"schema_version": 3, "grade_id": "a3-scores", "grade": false, "solution": false, "locked": true, "task": false}
@torch.no_grad()
def terms(people) -> tuple[np.ndarray, np.ndarray]:
    """Error and surprise of each slice: its largest local residual; its code's KL, or that code's distance from 0."""
    images = batch(people.images)
    mu, logvar = model(images)
    residual = F.avg_pool2d((images - model.decoder(mu)) * (images > 0), 5, 1).abs()  # grain cancels, lesions do not
    error = residual.flatten(1).max(1).values
    surprise = kl(mu, logvar) if method in ("vae", "introvae") else mu.square().sum(1)
    return error.numpy(), surprise.numpy()


healthy_terms, test_terms = terms(validation_people), terms(test_people)
validation_scores = np.asarray(score(*healthy_terms, *healthy_terms))  # (N,), healthy people alone
test_scores = np.asarray(score(*test_terms, *healthy_terms))[kept]
test_labels = test_ill[kept]  # True: the slice has a lesion

# %% [markdown]
# ## 7. The result
#
# Fill `result` from `validation_scores`, `test_scores` and `test_labels`: `"auroc"` of slices with a lesion against
# slices of healthy people; `"threshold"` at which 5 % of the healthy validation slices are flagged (scores at or
# above); `"sensitivity"` and `"specificity"` of the test slices at that threshold.

# %% nbgrader={"schema_version": 3, "grade_id": "a3-result", "grade": false, "solution": true, "locked": false, "task": false}
### BEGIN SOLUTION
threshold = float(np.quantile(validation_scores, 0.95))
flagged = test_scores >= threshold
pairs = test_scores[test_labels][:, None] - test_scores[~test_labels]
result = {
    "auroc": float((pairs > 0).mean() + 0.5 * (pairs == 0).mean()),
    "threshold": threshold,
    "sensitivity": float(flagged[test_labels].mean()),
    "specificity": float(1 - flagged[~test_labels].mean()),
}
### END SOLUTION
print(method, result)

# %% nbgrader={"schema_version": 3, "grade_id": "a3-result-test", "grade": true, "solution": false, "locked": true, "task": false, "points": 3}
import numpy as np
from course_lib.images.small_people import small_people
from course_lib.metrics.curves import rank_metrics

people = small_people({"healthy": 12, "bright": 8, "dark": 8}, split="test", seed=4)
ill = people.masks.any((1, 2))
ill = ill[ill | (people.table["family"] == "healthy").to_numpy()]
scores, calm = np.asarray(test_scores, float), np.asarray(validation_scores, float)
auroc, t = rank_metrics(scores, ill).auroc, float(result["threshold"])
assert not np.isclose(result["auroc"], 1 - auroc) or np.isclose(auroc, 0.5), (
    "The AUROC of the wrong class: lesions are 1."
)
assert np.isclose(result["auroc"], auroc, atol=1e-3), f"Your scores have an AUROC of {auroc:.3f}."
assert abs((calm >= t).mean() - 0.05) <= 1.1 / len(calm) or abs((scores >= t).mean() - 0.05) > 1.1 / len(scores), (
    "You chose the threshold on the people you test; it has to come from healthy validation people."
)
assert abs((calm >= t).mean() - 0.05) <= 1.1 / len(calm), "5 % of the healthy validation slices lie at or above it."
### BEGIN HIDDEN TESTS
flagged = scores >= t
shares = {"sensitivity": flagged[ill].mean(), "specificity": (~flagged)[~ill].mean()}
for name, share in shares.items():
    assert np.isclose(result[name], share, atol=1e-6), (
        f"{name} at your threshold is {share:.3f}: a share of its own class."
    )
### END HIDDEN TESTS

# %% [markdown]
# What each of the two terms is worth alone, and their sum:

# %% nbgrader={"schema_version": 3, "grade_id": "a3-alone", "grade": false, "solution": false, "locked": true, "task": false}
alone = {name: values[kept] for name, values in zip(("error", "surprise"), test_terms, strict=True)}
for name, values in (alone | {"sum": test_scores}).items():
    print(f"AUROC of the {name}: {rank_metrics(values, test_labels).auroc:.3f}")

# %% [markdown]
# ## 8. In words
#
# **a.** What does your constraint forbid the code to do, and how would that make a lesion show? Which of your numbers
# speak for it, and which do not?

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a3-words-choice", "grade": true, "solution": true, "locked": false, "task": false, "points": 4}
# The VAE makes each number of the code pay for what it says: a code that is far from the prior costs nats, so healthy
# heads are crowded around the origin, and a decoder trained there has no words for a lesion. A lesion could then show
# twice, in the residual and in a code that is dearer than healthy ones. In the run the AUROC is about 0.83. The error
# alone has 0.85 and the surprise alone 0.48, no better than a coin: the price of the code does not show lesions here,
# and adding it costs a little. So all that speaks for the constraint is the residual, and I have not measured that
# without the KL. A fair test would train the same network with beta 0 and compare on the same people.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: says what the term forbids (a single posterior far from the prior; an aggregate unlike it; unlikely fakes;
#   an unpredictable code).
# - 1 point: a mechanism from there to a lesion that shows, in picture or code.
# - 1 point: uses own numbers; says which of the two terms they speak for.
# - 1 point: says what they do not show: no run without the term, one seed, simulated people (one of them is enough).
#
# === END MARK SCHEME ===

# %% [markdown]
# **b.** What goes wrong in training if the `detach` of your term is left out (for `"vae"`: if a detach is put in)?
# Would the losses tell you?

# %% [markdown] nbgrader={"schema_version": 3, "grade_id": "a3-words-detach", "grade": true, "solution": true, "locked": false, "task": false, "points": 2}
# If mu and logvar are detached in the KL, the loss still shows the KL and the negative ELBO still falls, by the
# reconstruction alone: an ordinary auto-encoder with noise, whose code spreads as it likes. The curve looks healthy.
# Only a look at the gradients, or at the KL of the single numbers, tells.
#
# === BEGIN MARK SCHEME ===
#
# Half a point for each part of a line, where it has two.
#
# - 1 point: which side moves that should not (or does not move that should).
# - 1 point: that the losses may look fine; what to look at instead.
#
# === END MARK SCHEME ===
