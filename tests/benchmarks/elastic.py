"""Elastic deformation in images per core second, beside MONAI, TorchIO and a direct torch recipe.

Run on one thread: `OMP_NUM_THREADS=1 python tests/benchmarks/elastic.py`. Packages that are missing are left out.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from _timing import compare, machine

from course_lib.images.augment import bias_field, coarse_noise, elastic

TARGETS = {64: 13_000, 128: 3_000}  # images per core second
BATCH = 16


def recipe(images, control_points=7, amplitude=7.5):
    """The batched recipe: a coarse field, bicubic interpolation, `grid_sample`."""
    batch, _, height, width = images.shape
    field = (torch.rand(batch, 2, control_points, control_points) * 2 - 1) * (2 * amplitude / height)
    field[:, :, [0, 1, -1, -2]] = 0
    field[..., [0, 1, -1, -2]] = 0
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    grid = torch.stack((x, y), -1)[None] + field
    return F.grid_sample(images, grid, align_corners=True, padding_mode="border")


def peers(image) -> dict:
    """The peers' transforms of one image `(1, S, S)` at a time, as far as they are installed."""
    size = image.shape[-1]
    found = {}
    try:
        from monai.transforms import Rand2DElastic, RandSmoothDeform

        spacing = (size / 6, size / 6)
        monai = Rand2DElastic(spacing=spacing, magnitude_range=(1, 2), prob=1.0, padding_mode="border")
        smooth = RandSmoothDeform(spatial_size=(size, size), rand_size=(7, 7), prob=1.0, def_range=7.5 / size)
        found["MONAI Rand2DElastic"] = lambda: monai(image)
        found["MONAI RandSmoothDeform"] = lambda: smooth(image)
    except ImportError:
        print("MONAI is not installed: left out.")
    try:
        import torchio

        bend = torchio.RandomElasticDeformation(
            num_control_points=(7, 7, 5), max_displacement=(7.5, 7.5, 0), locked_borders=2
        )
        volume = image[..., None]
        found["TorchIO RandomElasticDeformation"] = lambda: bend(torchio.Subject(i=torchio.ScalarImage(tensor=volume)))
    except ImportError:
        print("TorchIO is not installed: left out.")
    return found


def main() -> None:
    """Print the table for 64 x 64 and 128 x 128."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(machine())
    for size, target in TARGETS.items():
        images = torch.rand(BATCH, 1, size, size)
        masks = images > 0.8
        ours = {
            "ours: elastic": lambda images=images: elastic(images, amplitude=7.5),
            "ours: elastic with masks": lambda images=images, masks=masks: elastic(images, masks, amplitude=7.5),
            "torch recipe": lambda images=images: recipe(images),
            "ours: bias field": lambda images=images: bias_field(images),
            "ours: coarse noise": lambda images=images: coarse_noise(images),
        }
        others = peers(images[0])
        seconds = compare({**ours, **others}, rounds=10, seconds=0.1)
        for name, value in seconds.items():
            rate = (BATCH if name in ours else 1) / value
            print(f"{size:4d} {name:36s} {rate:10,.0f} images / core s")
        rate = BATCH / seconds["ours: elastic"]
        print(f"{size:4d} target {target:,}: {'reached' if rate >= target else 'MISSED'}\n")


if __name__ == "__main__":
    main()
