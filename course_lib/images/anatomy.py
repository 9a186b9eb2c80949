"""Healthy FLAIR-like brains, made from the MNI ICBM152 anatomy that nilearn ships.

A subject is the template seen through a random smooth deformation, with tissue intensities, texture, a bias field
and Rician noise of its own:

    image(x) = | b(x) * f(T(y(x))) + n_1 + i n_2 |

T is the template's tissue maps, y the subject's deformation, f the intensities, b the bias field, n the noise.
The grid is the template's at 2 mm: 98 x 116 x 94 voxels, RAS+, voxel centres on even millimetres.

Template: Fonov V, et al. NeuroImage 54:313-327 (2011). Noise: Gudbjartsson H, Patz S. MRM 34:910-914 (1995).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy import ndimage

from course_lib.images.fields import sample, smooth_noise

SHAPE = (98, 116, 94)
SPACING_MM = 2.0
COARSE = 2  # deformation and shading live on every second voxel
COARSE_SHAPE = tuple(n // COARSE + 1 for n in SHAPE)

_AXES = {"left_right": "left to right", "back_front": "back to front", "down_up": "bottom to top"}
MEANINGS = {  # name of a drawn parameter -> what it is, unit
    **{f"rotation_{a}_deg": (f"rotation about {a}", "degrees") for a in "xyz"},
    **{f"scale_{name}": (f"size against the template, {text}", "1") for name, text in _AXES.items()},
    **{f"shift_{name}_mm": (f"shift against the template, {text}", "mm") for name, text in _AXES.items()},
    "wide_bend_mm": ("s.d. of the random deformation at 40 mm, per axis", "mm"),
    "fine_bend_mm": ("s.d. of the random deformation at 14 mm, per axis", "mm"),
    "ventricle_growth_mm": ("displacement of the ventricles' wall against the template", "mm"),
    "wm_level": ("intensity of white matter before normalisation", "arbitrary"),
    "gm_level": ("intensity of grey matter before normalisation", "arbitrary"),
    "csf_level": ("intensity of cerebrospinal fluid before normalisation", "arbitrary"),
    "sulcal_width": ("strength of the sulci", "1"),
    "cap_brightness": ("brightness of the white matter around the ventricles, above its level", "arbitrary"),
    "texture_strength": ("share of the template's own texture", "1"),
    "shading_sd": ("s.d. of the smooth random part of the tissue's intensity", "arbitrary"),
    "bias_sd": ("s.d. of the logarithm of the bias field", "1"),
    "noise_sd": ("s.d. of the noise before the magnitude is taken", "arbitrary"),
}


@dataclass(frozen=True)
class Anatomy:
    """The template on the 2 mm grid, with what the generator derives from it.

    t1, gm, wm, csf: float32 (98, 116, 94), 0..1. brain, ventricles (the lateral ones): bool.
    depth_mm: distance to the brain's surface, positive inside. ventricle_mm: distance to the ventricles, negative
    inside. texture: what T1 shows beyond the tissue maps (nuclei, tracts), mean 0. affine: voxel -> MNI mm, RAS+.
    """

    t1: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    brain: np.ndarray
    ventricles: np.ndarray
    depth_mm: np.ndarray
    ventricle_mm: np.ndarray
    texture: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Subject:
    """One healthy brain before normalisation; arrays are (98, 116, 94) on the template's grid.

    image: float32, magnitude with bias and noise, 0 outside the brain. clean: the same without bias and noise.
    brain: bool. tissue: "gm", "wm", "csf" (0..1, summing to 1 in the brain) and "ventricle_mm" (distance to the
    ventricles; 60 outside the brain). bias: float32, about 1. parameters: what was drawn, for participants.tsv.
    noise: float32 (2, voxels of the brain), real and imaginary.
    """

    image: np.ndarray
    clean: np.ndarray
    brain: np.ndarray
    tissue: dict[str, np.ndarray]
    bias: np.ndarray
    parameters: dict[str, float]
    affine: np.ndarray
    noise: np.ndarray

    def again(self, clean: np.ndarray) -> np.ndarray:
        """Image `clean` with the bias and noise of this subject: where `clean` is unchanged, so is the image."""
        return acquire(clean, self.brain, self.bias, self.noise)

    @cached_property
    def unit(self) -> float:
        """One robust standard deviation of the brain's intensities: the unit in which lesions are stated."""
        values = self.image[self.brain]
        return float(1.4826 * np.median(np.abs(values - np.median(values))))


@lru_cache(maxsize=1)
def template() -> Anatomy:
    """The ICBM152 2009a anatomy from nilearn's wheel, on the 2 mm grid. Read once a process, offline."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn announces changes of defaults that we do not use
        from nilearn import datasets

        images = [
            load(resolution=2)
            for load in (
                datasets.load_mni152_template,
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
                datasets.load_mni152_brain_mask,
            )
        ]
    box = tuple(slice(0, n) for n in SHAPE)
    t1, gm, wm, mask = (np.ascontiguousarray(np.asarray(i.dataobj)[box]) for i in images)
    brain = mask > 0
    gm, wm = gm.clip(0, 1) * brain, wm.clip(0, 1) * brain
    csf = (1 - gm - wm).clip(0, 1) * brain
    depth = _signed_distance(brain)
    parts, _ = ndimage.label((csf > 0.5) & (depth > 22))
    ventricles = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])  # the lateral ventricles are the largest
    return Anatomy(
        t1=t1.astype(np.float32),
        gm=gm.astype(np.float32),
        wm=wm.astype(np.float32),
        csf=csf.astype(np.float32),
        brain=brain,
        ventricles=ventricles,
        depth_mm=depth,
        ventricle_mm=-_signed_distance(ventricles),
        texture=_texture(t1, gm, wm, csf, brain),
        affine=np.asarray(images[0].affine, dtype=np.float64),
    )


def healthy_subject(rng: np.random.Generator, *, noise: float | None = None) -> Subject:
    """Draw one healthy subject.

    Args:
        rng: random stream; the subject is a function of its state alone.
        noise: standard deviation of the noise before the magnitude (white matter is about 0.46);
            drawn from 0.020 to 0.035 when not given.

    Returns:
        The subject, not yet normalised (`course_lib.images.volumes.normalise`).
    """
    shape_stream, look_stream, noise_stream = rng.spawn(3)
    points, index = _candidates()
    y, drawn = deformation(shape_stream)
    fields = torch.cat([y, subject_fields(look_stream)])  # (7, x, y, z)
    fields = sample(fields, points, COARSE)  # (7, N)
    maps = sample(_template_channels(), fields[:3].T.contiguous())  # (5, N)
    inside = maps[2] > 0
    index, maps, fields = index[inside.numpy()], maps[:, inside], fields[3:, inside]

    levels = draw_levels(look_stream)
    gm, wm, csf = tissue_weights(maps, fields[0], levels["sulcal_width"])
    clean = intensities(gm, wm, csf, maps, fields, levels)
    bias = torch.exp(levels["bias_sd"] * fields[1])
    sigma = float(look_stream.uniform(0.020, 0.035)) if noise is None else float(noise)
    brain = np.zeros(SHAPE, dtype=bool)
    brain.reshape(-1)[index] = True

    def to_volume(values):
        return _scatter(values, index)

    clean, bias = to_volume(clean), to_volume(bias)
    tissue = {name: to_volume(values) for name, values in (("gm", gm), ("wm", wm), ("csf", csf))}
    tissue |= {"ventricle_mm": np.where(brain, to_volume(maps[3]), np.float32(60))}
    parameters = {**drawn, **levels, "noise_sd": sigma}
    noise = noise_stream.standard_normal((2, index.size), dtype=np.float32) * np.float32(sigma)
    image = acquire(clean, brain, bias, noise)
    return Subject(image, clean, brain, tissue, bias, parameters, template().affine, noise)


def deformation(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """Draw y(x): which template voxel a subject's voxel shows, on the coarse grid.

    y is the identity plus a small affine (rotation, scale, shift), noise at 40 mm and at 14 mm, and a field that
    widens or narrows the ventricles. Displacements are in mm; the affine's parts are limited to 2.5 s.d.

    Returns:
        (3, X, Y, Z) float32 on `COARSE_SHAPE`, in template voxels; the drawn parameters.
    """

    def normal(sd, size=None):
        return np.clip(rng.standard_normal(size), -2.5, 2.5) * sd

    angles, scales, shift = np.deg2rad(normal(1.5, 3)), 1 + normal(0.02, 3), normal(1.0, 3)
    wide, fine, ventricle = rng.uniform(1.5, 2.8), rng.uniform(0.7, 1.2), float(np.clip(normal(1.3) + 0.6, -1.2, 3.5))
    grid = _coarse_grid()
    centre = torch.tensor([(n - 1) / 2 for n in SHAPE])[:, None, None, None]
    matrix = torch.from_numpy((_rotation(angles) * scales).astype(np.float32))
    y = torch.einsum("ij,jxyz->ixyz", matrix, grid - centre) + centre
    y = y + torch.from_numpy(shift.astype(np.float32) / SPACING_MM)[:, None, None, None]
    step = COARSE * SPACING_MM
    y = y + wide / SPACING_MM * smooth_noise(rng, COARSE_SHAPE, 40 / step, 3)
    y = y + fine / SPACING_MM * smooth_noise(rng, COARSE_SHAPE, 14 / step, 3)
    outward = sample(_ventricle_field(), y.reshape(3, -1).T, COARSE).reshape(y.shape)
    y = y - ventricle / SPACING_MM * outward
    names = ("left_right", "back_front", "down_up")
    drawn = {f"rotation_{axis}_deg": float(np.rad2deg(a)) for axis, a in zip("xyz", angles, strict=True)}
    drawn |= {f"scale_{name}": float(1 / s) for name, s in zip(names, scales, strict=True)}
    drawn |= {f"shift_{name}_mm": float(-s) for name, s in zip(names, shift, strict=True)}
    drawn |= {"wide_bend_mm": float(wide), "fine_bend_mm": float(fine), "ventricle_growth_mm": ventricle}
    return y, drawn


def subject_fields(rng: np.random.Generator) -> torch.Tensor:
    """Four fields (4, X, Y, Z) on the coarse grid: folds (10 mm), bias (70 mm), tissue shading (24 mm and 7 mm)."""
    step = COARSE * SPACING_MM
    return torch.cat([smooth_noise(rng, COARSE_SHAPE, mm / step) for mm in (10, 70, 24, 7)])


def draw_levels(rng: np.random.Generator) -> dict[str, float]:
    """Draw a subject's tissue intensities and strengths; arbitrary units in which white matter is about 0.46."""

    def normal(mean, sd):
        return float(mean + np.clip(rng.standard_normal(), -2.5, 2.5) * sd)

    return {
        "wm_level": normal(0.46, 0.012),
        "gm_level": normal(0.585, 0.015),
        "csf_level": normal(0.12, 0.015),
        "sulcal_width": float(rng.uniform(0.4, 1.4)),
        "cap_brightness": float(rng.uniform(0.0, 0.10)),
        "texture_strength": float(rng.uniform(0.15, 0.35)),
        "shading_sd": float(rng.uniform(0.010, 0.020)),
        "bias_sd": float(rng.uniform(0.02, 0.07)),
    }


def tissue_weights(maps: torch.Tensor, folds: torch.Tensor, width: float) -> tuple[torch.Tensor, ...]:
    """Grey matter, white matter and CSF at the subject's voxels; each (N,), summing to 1.

    The template is an average of 152 people, so its sulci are washed out. New ones are laid along the sheets where
    the `folds` field crosses zero, in cortex only; then the three maps are sharpened.
    """
    gm, wm, depth = maps[0], maps[1], maps[2]
    csf = (1 - gm - wm).clamp(0, 1)
    cortex = gm * torch.sigmoid((18 - depth) / 3)
    sheet = torch.exp(-((folds / 0.22) ** 2))
    csf = csf * (0.7 + 0.6 * width) + width * cortex * sheet * 0.45
    gm, wm, csf = (t.clamp_min(0) ** 1.5 for t in (gm, wm, csf))
    total = gm + wm + csf + 1e-6
    return gm / total, wm / total, (csf + 1e-6) / total


def intensities(gm, wm, csf, maps, fields, levels: dict[str, float]) -> torch.Tensor:
    """FLAIR-like intensity without bias and noise, (N,): tissue means, texture, shading, bright ventricular caps."""
    caps = wm * torch.exp(-maps[3].clamp_min(0) / 3.0)
    tissue = 1 - csf
    shading = levels["shading_sd"] * (fields[2] + 0.7 * fields[3])
    value = gm * levels["gm_level"] + wm * levels["wm_level"] + csf * levels["csf_level"]
    value = value + tissue * (levels["texture_strength"] * maps[4] + shading) + levels["cap_brightness"] * caps
    return value.clamp_min(0.02)


def acquire(clean: np.ndarray, brain: np.ndarray, bias: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The scanner's magnitude image |b * clean + n_1 + i n_2|; 0 outside the brain.

    Args:
        clean, bias: float32 (X, Y, Z). brain: bool (X, Y, Z).
        noise: n_1 and n_2, float32 (2, voxels of the brain).
    """
    image = np.zeros(clean.shape, dtype=np.float32)
    image[brain] = np.hypot(clean[brain] * bias[brain] + noise[0], noise[1])
    return image


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    inside = ndimage.distance_transform_edt(mask, sampling=SPACING_MM)
    outside = ndimage.distance_transform_edt(~mask, sampling=SPACING_MM)
    return (np.maximum(inside - SPACING_MM / 2, 0) - np.maximum(outside - SPACING_MM / 2, 0)).astype(np.float32)


def _texture(t1, gm, wm, csf, brain) -> np.ndarray:
    """T1 minus its best fit by the tissue maps; shows thalamus, pallidum, tracts. Mean 0, limited to +-0.15."""
    design = np.stack([m[brain] for m in (gm, wm, csf)], axis=1)
    fit, *_ = np.linalg.lstsq(design, t1[brain], rcond=None)
    texture = np.zeros(t1.shape, dtype=np.float32)
    texture[brain] = (t1[brain] - design @ fit).clip(-0.15, 0.15)
    return texture


@lru_cache(maxsize=1)
def _template_channels() -> torch.Tensor:
    """(5, X, Y, Z): gm, wm, depth_mm, ventricle_mm, texture."""
    a = template()
    return torch.from_numpy(np.stack([a.gm, a.wm, a.depth_mm, a.ventricle_mm, a.texture]))


@lru_cache(maxsize=1)
def _ventricle_field() -> torch.Tensor:
    """Directions away from the ventricles, of length 1 at their wall and fading over 14 mm; (3, x, y, z), coarse."""
    distance = ndimage.gaussian_filter(template().ventricle_mm, 1.0)
    padded = np.pad(distance, [(0, n * COARSE - s) for n, s in zip(COARSE_SHAPE, SHAPE, strict=True)], mode="edge")
    direction = np.stack(np.gradient(padded, SPACING_MM))
    field = direction * np.exp(-np.maximum(padded, 0) / 14.0)
    return torch.from_numpy(np.ascontiguousarray(field[:, ::COARSE, ::COARSE, ::COARSE], dtype=np.float32))


@lru_cache(maxsize=1)
def _coarse_grid() -> torch.Tensor:
    axes = [torch.arange(n, dtype=torch.float32) * COARSE for n in COARSE_SHAPE]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (3, x, y, z) in voxels


@lru_cache(maxsize=1)
def _candidates() -> tuple[torch.Tensor, np.ndarray]:
    """Voxels that can be brain in some subject (within 10 mm of the template's): points (N, 3), flat indices."""
    near = template().depth_mm > -10
    return torch.from_numpy(np.argwhere(near).astype(np.float32)), np.flatnonzero(near)


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _scatter(values: torch.Tensor, index: np.ndarray) -> np.ndarray:
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume.reshape(-1)[index] = values.numpy()
    return volume
