"""VQ-VAE and token transformer beside MONAI's, at equal sizes, in processor seconds on one thread.

Sizes: codebook 256 x 64, channels (64, 128), one residual block a level, 64 x 64 pixels in batches of 32, hence
256 tokens; transformer of 4 layers, width 128, 4 heads. Measured are a training step of the VQ-VAE (ours whole, with
batch selection, clipping and history; exact and fast), its quantiser alone, drawing whole grids, and, without a peer,
how training, judging, healing and drawing grow with the number of tokens. MONAI is optional:

    pip install --no-deps --target PEERS monai && PYTHONPATH=PEERS python tests/benchmarks/tokens.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _timing import compare, machine

from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.quantiser import Quantiser
from course_lib.detectors.vq_vae import VQVAE
from course_lib.training import _Run

K, D, CHANNELS, BATCH, PIXELS, GRIDS = 256, 64, (64, 128), 32, 64, 4
TARGETS = {"quantiser": 0.55, "step, exact": 1.0, "step, fast": 0.6}  # of MONAI's processor time
FASTEST, TOKENS_A_SECOND = 15, 2500  # times MONAI's sampler; tokens a processor second


def images(count: int) -> torch.Tensor:
    """Noise, `(count, 1, 64, 64)`."""
    return torch.rand(count, 1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))


def vqvae(pixels: int = PIXELS) -> VQVAE:
    """Ours, of the sizes above."""
    torch.manual_seed(0)
    return VQVAE((pixels, pixels), halvings=2, codes=K, dimensions=D, channels=CHANNELS)


def our_step(fast: bool):
    """A whole step of the course's loop."""
    run = _Run(vqvae(), images(2 * BATCH), batch_size=BATCH, seed=0, device=torch.device("cpu"), fast=fast)

    def step():
        with torch.random.fork_rng():
            run.advance()

    return step


def their_vqvae():
    """MONAI's VQ-VAE of the same architecture, and a step with it as its users write it; None if it is absent."""
    try:
        from monai.networks.nets import VQVAE as Theirs
    except ImportError:
        return None
    torch.manual_seed(0)
    return Theirs(
        2,
        1,
        1,
        channels=CHANNELS,
        num_res_layers=1,
        num_res_channels=CHANNELS,
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=K,
        embedding_dim=D,
        ddp_sync=False,
    )


def their_step(model):
    """One step of Adam on L1 and the commitment."""
    optimizer, batch = torch.optim.Adam(model.parameters(), 1e-3), images(BATCH)
    model.train()

    def step():
        optimizer.zero_grad(set_to_none=True)
        rebuilt, commitment = model(batch)
        (F.l1_loss(rebuilt, batch) + commitment).backward()
        optimizer.step()

    return step


def their_sampler(model):
    """MONAI's inferer, which works out the whole prefix anew for every token."""
    from monai.inferers import VQVAETransformerInferer
    from monai.networks.nets import DecoderOnlyTransformer
    from monai.utils import OrderingType
    from monai.utils.ordering import Ordering

    side = PIXELS // 4
    transformer = DecoderOnlyTransformer(
        num_tokens=K + 1, max_seq_len=side**2, attn_layers_dim=128, attn_layers_depth=4, attn_layers_heads=4
    ).eval()
    order = Ordering(OrderingType.RASTER_SCAN.value, 2, (1, side, side))
    start, inferer = torch.full((GRIDS, 1), K), VQVAETransformerInferer()
    model.eval()
    return lambda: inferer.sample((side, side), start, model, transformer, order, verbose=False)


def our_model(side: int = PIXELS // 4) -> CausalTokens:
    """Our transformer over side x side tokens."""
    torch.manual_seed(0)
    return CausalTokens(vqvae(4 * side), width=128, layers=4).eval()


def report(name: str, ours: float, theirs: float, target: float) -> None:
    """A line of the table of ratios."""
    ratio = ours / theirs
    missed = f"   MISSED: {target}" if ratio > target else ""
    print(f"{name:14s} ours {1e3 * ours:8.2f} ms   MONAI {1e3 * theirs:8.2f} ms   x {ratio:.2f}{missed}", flush=True)


def beside(theirs) -> None:
    """Quantiser, training step and sampler beside MONAI's."""
    z = torch.randn(BATCH, D, PIXELS // 4, PIXELS // 4)
    ours = Quantiser(K, D).train()
    theirs.quantizer.train()
    with torch.no_grad():
        taken = compare({"ours": lambda: ours(z), "theirs": lambda: theirs.quantizer(z)})
    report("quantiser", taken["ours"], taken["theirs"], TARGETS["quantiser"])
    steps = {"exact": our_step(False), "fast": our_step(True), "theirs": their_step(theirs)}
    taken = compare(steps, rounds=4, seconds=1.0)
    for way in ("exact", "fast"):
        report(f"step, {way}", taken[way], taken["theirs"], TARGETS[f"step, {way}"])
    model = our_model()
    taken = compare({"ours": lambda: model.sample(GRIDS), "theirs": their_sampler(theirs)}, rounds=2, seconds=0.1)
    report("sampling", taken["ours"], taken["theirs"], 1 / FASTEST)


def alone() -> None:
    """Tokens a second, and growth with the number of tokens."""
    model = our_model()
    for grids in (1, GRIDS, 16):
        taken = compare({"draw": lambda grids=grids: model.sample(grids)}, rounds=3, seconds=0.5)["draw"]
        speed = grids * (PIXELS // 4) ** 2 / taken
        missed = f"   MISSED: {TOKENS_A_SECOND}" if grids == GRIDS and speed < TOKENS_A_SECOND else ""
        print(f"{grids:2d} grids at a time: {speed:6.0f} tokens a processor second{missed}", flush=True)
    print(f"{'tokens':>8s}{'train':>10s}{'judge':>10s}{'heal':>10s}{'draw':>10s}   ms a grid, batches of 16")
    for side in (8, 12, 16, 24):
        print(f"{side**2:8d}" + "".join(f"{1e3 * value / 16:10.2f}" for value in grow(side)), flush=True)


def grow(side: int) -> list[float]:
    """Seconds for 16 grids of side x side: a training step on tokens, judging, healing 2 % marked, drawing."""
    model = our_model(side)
    tokens = torch.randint(K, (16, side, side))
    marked = torch.rand(tokens.shape) < 0.02
    (optimizer,), sequence = model.configure_optimizers(), model.read(tokens)

    def train():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model.logits(sequence).flatten(0, 1), sequence.flatten()).backward()
        optimizer.step()

    work = {"train": train, "judge": lambda: model.surprise(tokens), "heal": lambda: model.heal(tokens, marked)}
    work["draw"] = lambda: model.sample(16)
    return list(compare(work, rounds=2, seconds=0.2).values())


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(machine())
    peer = their_vqvae()
    if peer is None:
        print("MONAI is not installed: no ratios.")
    else:
        beside(peer)
    alone()
