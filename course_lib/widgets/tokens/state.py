"""The token explorer's state: a slice, a model of its tokens, a threshold; what is marked, healed, and left over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.token_model import TokenModel
from course_lib.errors import BadInput
from course_lib.images.slices import SliceSet
from course_lib.metrics.curves import rank_metrics
from course_lib.metrics.scores import HEALTHY
from course_lib.widgets.forward import asking
from course_lib.widgets.tokens.odds import Odds, odds_at

NOTHING = 0.0  # the threshold below which no probability lies
LEAST = 1e-5  # the lowest threshold that is offered but for `NOTHING`
MOST = 0.3  # share of the healthy validation tokens that the highest threshold marks
CERTAIN = 0.9  # no higher threshold is offered: it would mark what the model is sure of
_KEPT = 64  # slices that are remembered, and healings


@dataclass(frozen=True)
class Judged:
    """What a model says of one slice before any threshold.

    Attributes:
        image: x, (1, 1, H, W).
        tokens: s, (1, h, w).
        surprise: -log p of each token, (1, h, w), nats.
        brain: (1, h, w) bool, tokens with brain in their square: only these are judged.
        lesion: (1, h, w) bool, those of them that touch the lesion.
        rebuilt: Dec(s), (H, W) float32, 0 outside the brain.
    """

    image: Tensor
    tokens: Tensor
    surprise: Tensor
    brain: Tensor
    lesion: Tensor
    rebuilt: np.ndarray


@dataclass(frozen=True)
class Healed:
    """What a healing leaves.

    Attributes:
        tokens: s', (1, h, w).
        image: x' = Dec(s'), (H, W) float32, 0 outside the brain.
        anomaly: |x - x'| blur(M), (H, W) float32, 0 outside the brain.
    """

    tokens: Tensor
    image: np.ndarray
    anomaly: np.ndarray


@dataclass(frozen=True)
class Reading:
    """One slice at one threshold; shares and means are NaN where there is nothing to count.

    Attributes:
        tau: tokens less probable than this are marked.
        surprise: (h, w) float32, -log p in nats.
        brain, lesion, marked, changed: (h, w) bool: tokens with brain, those that touch the lesion, those marked,
            those that the healing changed. A masked model also refills the neighbours of what is marked.
        rebuilt, healed, anomaly: (H, W) float32, Dec(s), x' and the map, 0 outside the brain.
        share: of the brain's tokens that are marked.
        precision: share of the marked tokens that touch the lesion.
        recall: share of the lesion's tokens that are marked.
        inside, outside: mean |x - x'| over the lesion and over the rest of the brain.
        ap: average precision of this one slice's map over its brain pixels.
        healthy: share of healthy validation tokens that this threshold marks.
    """

    tau: float
    surprise: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray
    marked: np.ndarray
    changed: np.ndarray
    rebuilt: np.ndarray
    healed: np.ndarray
    anomaly: np.ndarray
    share: float
    precision: float
    recall: float
    inside: float
    outside: float
    ap: float
    healthy: float


class TokenState:
    """Slices, trained models of their tokens, and a threshold tau that each model keeps for itself.

    It computes what `TokenModel.restore` and `anomaly_map` do, in steps that are remembered: a slice is judged once
    for each model, and a threshold that marks the same tokens is not healed again.

    Args:
        models: trained and calibrated `TokenModel`s by name.
        slices: to look at, with or without lesions.
        validation: healthy slices that trained none of the models. Share of their tokens: `Reading.healthy`.

    Attributes:
        model: which one judges.
        family, subject, height: whose slice is shown, and which of that person's slices, from 0.
        draw: None heals by the most probable tokens; a number from 0 draws them, each number otherwise.
        place: (row, column) of the token whose alternatives are read.

    Raises:
        BadInput: no model, one that is no `TokenModel`, slices of another shape than the models were made for,
            validation slices that are not healthy.
    """

    def __init__(self, models: Mapping[str, TokenModel], slices: SliceSet, validation: SliceSet):
        _check(models, slices, validation)
        self.models, self.slices, self.validation = dict(models), slices, validation
        self._rows = slices.table.groupby("subject", sort=False).indices
        self._judged: dict[tuple, Judged] = {}
        self._healings: dict[tuple, Healed] = {}
        self._latest: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._healthy: dict[str, Tensor] = {}
        self._odds: dict[tuple, Odds] = {}
        self._tau = {name: self.calibrated(name) for name in models}
        self.model, self.draw, self.place = next(iter(models)), None, (0, 0)
        ill = [f for f in slices.families if f != HEALTHY]
        self.choose_family((ill or slices.families)[0])
        self.read_most_surprising()

    # ---- settings ---------------------------------------------------------------------------------------------------

    def choose_model(self, name: str) -> None:
        """Change the model; each keeps the threshold that it was given."""
        self._known(name)
        self.model = name
        self.read(*self.place)  # the grids of two models may differ

    def choose_family(self, family: str) -> None:
        """Change the family; its slice with the largest lesion is shown, of healthy ones a middle slice."""
        self.choose_row(self.slices.example(family, 1.0))

    def choose_subject(self, subject: str) -> None:
        """Change the person; the slice with the largest lesion, else the middle one, is shown."""
        if subject not in self._rows:
            raise BadInput(f"there is no subject {subject!r}.", field="subject")
        rows = self._rows[subject]
        sizes = self.slices.table["lesion_px"].to_numpy()[rows]
        self.choose_row(rows[sizes.argmax() if sizes.any() else len(rows) // 2])

    def choose_height(self, height: int) -> None:
        """Change the slice; a number beyond the person's slices is moved to the nearest."""
        self.choose_row(self._rows[self.subject][int(np.clip(height, 0, self.heights - 1))])

    def choose_row(self, row: int) -> None:
        """Show this row of `slices`."""
        if not 0 <= row < len(self.slices):
            raise BadInput(f"there is no slice {row}.", field="slice", remedy=f"There are {len(self.slices)}.")
        self.row = int(row)
        self.subject, self.family = self.slices.table.loc[self.row, ["subject", "family"]]
        self.height = int(np.flatnonzero(self._rows[self.subject] == row)[0])

    def set_tau(self, tau: float) -> None:
        """Mark the tokens that are less probable than this; 0 marks nothing."""
        if not 0 <= tau < 1:
            raise BadInput(f"a probability of {tau} is not in [0, 1).", field="tau")
        self._tau[self.model] = float(tau)

    def calibrate(self) -> None:
        """Take the model's own threshold, which healthy validation slices gave it."""
        self.set_tau(self.calibrated(self.model))

    def heal_by(self, draw: int | None) -> None:
        """Heal by the most probable tokens (None), or draw them; each number from 0 draws otherwise."""
        if draw is not None and draw < 0:
            raise BadInput(f"there is no draw {draw}.", field="draw", remedy="Count from 0.")
        self.draw = draw

    def read(self, row: int, column: int) -> None:
        """Read the token at this place of the grid; beyond the grid it is moved to the nearest."""
        high, wide = self.grid
        self.place = int(np.clip(row, 0, high - 1)), int(np.clip(column, 0, wide - 1))

    def read_most_surprising(self) -> None:
        """Read the brain's most surprising token."""
        judged = self._judge()
        worst = judged.surprise.masked_fill(~judged.brain, -math.inf).argmax()
        self.read(*divmod(int(worst), self.grid[1]))

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def tau(self) -> float:
        """The present model's threshold."""
        return self._tau[self.model]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the present model's tokens."""
        return self.models[self.model].vqvae.grid

    @property
    def factor(self) -> int:
        """Pixels along each side of a token's square."""
        return self.models[self.model].vqvae.factor

    @property
    def subjects(self) -> list[str]:
        """The persons of the present family."""
        return list(dict.fromkeys(self.slices.table.loc[self.slices.table["family"] == self.family, "subject"]))

    @property
    def heights(self) -> int:
        """How many slices the person has."""
        return len(self._rows[self.subject])

    @property
    def z_mm(self) -> float:
        """The slice's height."""
        return float(self.slices.table["z_mm"].iloc[self.row])

    @property
    def image(self) -> np.ndarray:
        """The slice, (H, W)."""
        return self.slices.images[self.row]

    @property
    def mask(self) -> np.ndarray:
        """Its lesion, (H, W) bool."""
        return self.slices.masks[self.row]

    def calibrated(self, model: str) -> float:
        """The threshold that `TokenModel.calibrate` set."""
        self._known(model)
        return math.exp(float(self.models[model].log_tau))

    @property
    def tau_ends(self) -> tuple[float, float]:
        """From a threshold that marks hardly anything to one that marks `MOST` of the healthy validation tokens."""
        high = math.exp(-float(np.quantile(self._validation_surprise().numpy(), 1 - MOST)))
        return LEAST, min(max(high, 2 * LEAST, self.calibrated(self.model)), CERTAIN)

    def healthy_share(self, taus: np.ndarray) -> np.ndarray:
        """The share of healthy validation tokens that each threshold marks."""
        return _beyond(self._validation_surprise(), taus)

    def slice_share(self, taus: np.ndarray) -> dict[str, np.ndarray]:
        """The share of this slice's tokens that each threshold marks: of those in the `lesion`, and of the `rest`."""
        judged = self._judge()
        kinds = {"lesion": judged.lesion, "rest": judged.brain & ~judged.lesion}
        return {kind: _beyond(judged.surprise[where], taus) for kind, where in kinds.items() if where.any()}

    # ---- reading ----------------------------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """The slice at the present settings."""
        judged, marked = self._judge(), self._mark()
        healed = self._heal(judged, marked)
        brain, lesion = self.slices.brains[self.row], self.mask & self.slices.brains[self.row]
        left = np.abs(self.image - healed.image)  # |x - x'|, 0 outside the brain
        touching = int((marked & judged.lesion).sum())
        return Reading(
            tau=self.tau,
            surprise=judged.surprise[0].cpu().numpy(),
            brain=judged.brain[0].cpu().numpy(),
            lesion=judged.lesion[0].cpu().numpy(),
            marked=marked[0].cpu().numpy(),
            changed=(healed.tokens != judged.tokens)[0].cpu().numpy(),
            rebuilt=judged.rebuilt,
            healed=healed.image,
            anomaly=healed.anomaly,
            share=_part(int(marked.sum()), int(judged.brain.sum())),
            precision=_part(touching, int(marked.sum())),
            recall=_part(touching, int(judged.lesion.sum())),
            inside=_mean(left, lesion),
            outside=_mean(left, brain & ~lesion),
            ap=rank_metrics(healed.anomaly, lesion, brain).ap if lesion.any() else float("nan"),
            healthy=float(self.healthy_share(np.array([self.tau]))[0]),
        )

    def odds(self) -> Odds:
        """The token at `place` and what the model would rather have there; it does not depend on the threshold."""
        key = self.row, self.model, self.place
        if key not in self._odds:
            model, judged = self.models[self.model], self._judge()
            with asking(model):
                odds = odds_at(model, judged.tokens, self.place)
            _remember(self._odds, key, odds)
        return self._odds[key]

    def _judge(self) -> Judged:
        """What the model says of the slice; remembered."""
        key = self.row, self.model
        if key not in self._judged:
            model = self.models[self.model]
            with asking(model) as device:
                image = self.slices.batch([self.row]).to(device)  # (1, 1, H, W)
                mask = torch.from_numpy(np.array(self.mask, np.float32))[None, None].to(device)
                tokens, brain = model.vqvae.encode(image), model.with_brain(image)
                lesion = (F.max_pool2d(mask, model.vqvae.factor)[:, 0] > 0) & brain
                rebuilt = model.vqvae.decode(tokens) * (image > 0)
                judged = Judged(image, tokens, model.surprise(tokens), brain, lesion, rebuilt[0, 0].cpu().numpy())
            _remember(self._judged, key, judged)
        return self._judged[key]

    def _mark(self) -> Tensor:
        """M, (1, h, w) bool."""
        judged = self._judge()
        return (judged.surprise > limit(self.tau)) & judged.brain

    def _heal(self, judged: Judged, marked: Tensor) -> Healed:
        """The healing of what is marked; remembered by what is marked."""
        key = self.row, self.model, self.draw, marked.cpu().numpy().tobytes()
        if key not in self._healings:
            model = self.models[self.model]
            with asking(model) as device:
                tokens = self._walk(model, judged, marked, device)
                image = model.vqvae.decode(tokens)  # (1, 1, H, W)
                anomaly = (judged.image - image).abs() * model.spatial_mask(marked)[:, None]
                image, anomaly = ((x * (judged.image > 0))[0, 0].cpu().numpy() for x in (image, anomaly))
            _remember(self._healings, key, Healed(tokens, image, anomaly))
        return self._healings[key]

    def _walk(self, model: TokenModel, judged: Judged, marked: Tensor, device: torch.device) -> Tensor:
        """s', (1, h, w). A causal model begins where the marks differ from the latest ones: before, nothing changes."""
        chance = None
        if self.draw is not None:
            generator = torch.Generator().manual_seed(self.draw)
            chance = torch.rand(math.prod(model.vqvae.grid), generator=generator).to(device)
        key, tokens, left = (self.row, self.model, self.draw), judged.tokens, marked
        if isinstance(model, CausalTokens) and key in self._latest:
            before, healed = self._latest[key]
            differ = (before != marked).flatten(1)[:, model.pi][0]  # (L,), along the order
            first = int(differ.long().argmax()) if differ.any() else len(differ)
            same = (model.back < first).view(marked.shape)  # places that are read before
            tokens, left = torch.where(same, healed, tokens), marked & ~same
        healed = model.heal(tokens, left, chance)
        _remember(self._latest, key, (marked, healed))
        return healed

    def _validation_surprise(self) -> Tensor:
        """(M,) the surprises of the validation tokens with brain, ascending; judged when a model is first chosen."""
        if self.model not in self._healthy:
            model, found = self.models[self.model], []
            with asking(model) as device:
                for start in range(0, len(self.validation), 64):
                    rows = np.arange(start, min(start + 64, len(self.validation)))
                    images = self.validation.batch(rows).to(device)  # (B, 1, H, W)
                    found.append(model.surprise(model.vqvae.encode(images))[model.with_brain(images)].cpu())
            self._healthy[self.model] = torch.cat(found).sort().values
        return self._healthy[self.model]

    def _known(self, name: str) -> None:
        if name not in self.models:
            raise BadInput(f"there is no model {name!r}.", field="model", remedy=f"One of {list(self.models)}.")


def limit(tau: float) -> float:
    """The surprise above which a token is marked, -log tau in nats: exactly what a `log_tau` of this tau holds."""
    return -float(np.float32(math.log(tau))) if tau > 0 else math.inf


def _beyond(surprise: Tensor, taus: np.ndarray) -> np.ndarray:
    """The share of surprises (M,) above the limit of each threshold."""
    ascending = np.sort(surprise.cpu().numpy())
    limits = np.array([limit(tau) for tau in taus], np.float32)
    return 1 - np.searchsorted(ascending, limits, "right") / len(ascending)


def _part(count: int, total: int) -> float:
    return count / total if total else float("nan")


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean(dtype=np.float64)) if where.any() else float("nan")


def _remember(kept: dict, key: tuple, value) -> None:
    """Put it last, and forget the oldest beyond `_KEPT`."""
    kept.pop(key, None)
    if len(kept) >= _KEPT:
        kept.pop(next(iter(kept)))
    kept[key] = value


def _check(models: Mapping[str, TokenModel], slices: SliceSet, validation: SliceSet) -> None:
    if not models:
        raise BadInput("there is no model to look at.", field="models")
    for name, part in (("slices", slices), ("validation", validation)):
        if not len(part):
            raise BadInput("there is no slice.", field=name)
    for name, model in models.items():
        if not isinstance(model, TokenModel):
            raise BadInput(
                f"{name} is a {type(model).__name__}, which judges no tokens.",
                field="models",
                remedy="Give CausalTokens or MaskedTokens; of an ensemble, its members.",
            )
        for field, part in (("slices", slices), ("validation", validation)):
            if part.image_shape != tuple(model.vqvae.image_shape):
                shapes = f"{part.image_shape}, {name} of {tuple(model.vqvae.image_shape)}"
                raise BadInput(f"the slices are of {shapes}.", field=field, remedy="Give slices of the models' shape.")
    if validation.masks.any() or set(validation.families) != {HEALTHY}:
        raise BadInput("a slice is not healthy.", field="validation", remedy="Give healthy validation slices.")
    if not validation.brains.any():
        raise BadInput("there is no brain in these slices.", field="validation")
