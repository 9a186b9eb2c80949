"""Affine registration of a scan to the MNI template, by SimpleITK (optional: `pip install learning-normal[scans]`).

The affine T maps a template point x to the scan's point T(x). It maximises Mattes' mutual information between the
template and the scan seen through T, over the template's brain alone:

    T* = argmax_T  sum p(a, b) log [p(a, b) / (p(a) p(b))],   a = template(x), b = scan(T(x)), x in the brain

so the contrast may differ (FLAIR against the template's T1) and a scalp that only the scan has does not count. Two
resolutions (8 and 4 mm), first rigid with one scale (7 parameters), then affine (12). Every template voxel of a
resolution is used and one thread sums them, so the result is the same in every run.

Sources: Mattes D, et al. IEEE TMI 22:120-128 (2003), https://doi.org/10.1109/TMI.2003.809072; Lowekamp BC, et al. The
design of SimpleITK. Frontiers in Neuroinformatics 7:45 (2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from course_lib.errors import BadInput
from course_lib.images.anatomy import template
from course_lib.images.brain import head_mask

INSTALL = "pip install 'learning-normal[scans]'"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts mm to the left and to the back
RIM_MM = 4.0  # of the template's surroundings that the metric sees besides the brain
SHRINK, SMOOTH_MM = (4, 2), (4.0, 2.0)  # from coarse to fine: 8 mm, then 4 mm
PAD_MM = 60.0  # of background around the scan
SCALES = (0.7, 1.45)  # a head this much smaller or larger than the template is not believed
AGREES = 0.05  # mutual information (nats) below which the result is not believed


@dataclass(frozen=True)
class Registration:
    """Where a scan lies in MNI space.

    to_mni: 4 x 4, the scan's mm (RAS+) -> MNI mm. information: mutual information reached, nats. scales: the three
    principal stretches of `to_mni`. moved_mm: the farthest that a corner of the template's brain moves.
    """

    to_mni: np.ndarray
    information: float
    scales: tuple[float, float, float]
    moved_mm: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{s:.2f}" for s in self.scales)
        return (
            f"affine to MNI (12 parameters, mutual information {self.information:.2f} nats): stretched by {sizes}, "
            f"brain moved by up to {self.moved_mm:.0f} mm"
        )


def import_simpleitk():
    """The module SimpleITK, set to one thread.

    Raises:
        BadInput: it is not installed, with the command that installs it.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise BadInput(
            "SimpleITK is not installed.",
            field="SimpleITK",
            remedy=f"Run `{INSTALL}` (or `pip install SimpleITK pydicom`), or go on with --no-register.",
        ) from error
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in one order: the same bits in every run
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def has_simpleitk() -> bool:
    """Whether SimpleITK can be imported."""
    try:
        import_simpleitk()
    except BadInput:
        return False
    return True


def register(data: np.ndarray, affine: np.ndarray, *, brain: np.ndarray | None = None) -> Registration:
    """Find the affine from a scan to MNI space.

    Args:
        data: (X, Y, Z) float, RAS+; 2 to 3 mm voxels are enough.
        affine: 4 x 4, voxel -> mm.
        brain: bool, the scan's brain if it is known: what lies outside it is set to 0, and the search starts from
            the brain's place. Without it the scan may be a whole head: the search starts below the head's top.

    Returns:
        A `Registration`.

    Raises:
        BadInput: SimpleITK is missing; the search fails or ends in something that is no head.
    """
    sitk = import_simpleitk()
    atlas = template()
    seen = data if brain is None else np.where(brain, data, 0)
    fixed, moving = _image(sitk, atlas.t1, atlas.affine), _image(sitk, *_padded(_windowed(seen), affine))
    reach = atlas.depth_mm > -RIM_MM  # a rim beyond the brain lets its outline count
    mask = _image(sitk, reach.astype(np.uint8), atlas.affine)
    start = sitk.Similarity3DTransform()
    start.SetCenter(_to_lps(_middle(atlas.brain, atlas.affine)))
    place = _middle(brain, affine) if brain is not None else _head_middle(data, affine)
    start.SetTranslation((np.asarray(_to_lps(place)) - start.GetCenter()).tolist())
    try:
        first, _ = _search(sitk, fixed, moving, mask, start, step=2.0)
        whole = sitk.AffineTransform(3)
        whole.SetMatrix(first.GetMatrix())
        whole.SetTranslation(first.GetTranslation())
        whole.SetCenter(first.GetCenter())
        best, information = _search(sitk, fixed, moving, mask, whole, step=0.5)
    except RuntimeError as error:  # ITK's one exception; its last line says why
        raise BadInput(f"registration failed ({str(error).strip().splitlines()[-1]}).", remedy=_REMEDY) from error
    return _checked(_matrix(best), information)


_REMEDY = "Give a brain mask (--brains), or go on with --no-register."


def _search(sitk, fixed, moving, mask, start, *, step: float):
    """Improve `start` from coarse to fine, by at most `step` mm at once; returns it and the mutual information."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.NONE)  # every voxel: nothing is drawn
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step, minStep=0.005, numberOfIterations=120, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-5
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start, -method.GetMetricValue()


def _checked(to_scan: np.ndarray, information: float) -> Registration:
    to_mni = np.linalg.inv(to_scan)
    scales = tuple(float(s) for s in np.linalg.svd(to_mni[:3, :3], compute_uv=False))
    turned = np.degrees(np.arccos(np.clip((np.trace(_rotation(to_mni)) - 1) / 2, -1, 1)))
    if not (SCALES[0] < min(scales) and max(scales) < SCALES[1]) or turned > 60 or information < AGREES:
        raise BadInput(
            f"registration ended in something that is no head (stretch {min(scales):.2f} to {max(scales):.2f}, "
            f"turn {turned:.0f} degrees, mutual information {information:.2f} nats).",
            field="registration",
            remedy=_REMEDY,
        )
    corners = _corners(template().brain, template().affine)
    moved = np.linalg.norm((to_scan @ corners - corners)[:3], axis=0).max()
    return Registration(to_mni, float(information), scales, float(moved))


def _rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return u @ vt


def _corners(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    ends = [(n.min(), n.max()) for n in np.nonzero(mask)]
    grid = np.array(np.meshgrid(*ends)).reshape(3, -1)
    return affine @ np.vstack([grid, np.ones(grid.shape[1])])


def _windowed(data: np.ndarray) -> np.ndarray:
    """Cut the brightest 0.5 % of the foreground: vessels and fat would take most of the histogram's bins."""
    bright = data[data > 0]
    return np.clip(data, 0, np.percentile(bright, 99.5)) if bright.size else data


def _padded(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add background on all sides. ITK leaves out points beyond the scan: the search could win by moving away."""
    margin = np.ceil(PAD_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    shifted = affine.copy()
    shifted[:3, 3] -= affine[:3, :3] @ margin
    return np.pad(data, [(n, n) for n in margin]), shifted


def _image(sitk, data: np.ndarray, affine: np.ndarray):
    """A SimpleITK image of a RAS+ volume; ITK's arrays are (Z, Y, X), its mm point left and back."""
    lps = LPS @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    dtype = np.uint8 if data.dtype == np.uint8 else np.float32
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, dtype=dtype))
    image.SetSpacing(size.tolist())
    image.SetDirection((lps[:3, :3] / size).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _matrix(transform) -> np.ndarray:
    """4 x 4 in RAS+ mm: y = A (x - c) + t + c in LPS."""
    square, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.asarray(transform.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = square
    lps[:3, 3] = np.asarray(transform.GetTranslation()) + centre - square @ centre
    return LPS @ lps @ LPS


def _to_lps(point: np.ndarray) -> list[float]:
    return (LPS[:3, :3] @ point).tolist()


def _middle(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of a mask's box, in mm. The box and not the mass: half a head's mass lies elsewhere than a brain's."""
    ends = np.array([(n.min(), n.max()) for n in np.nonzero(mask)], float)
    return (affine @ [*ends.mean(1), 1])[:3]


def _head_middle(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Where the brain's middle must be in a whole head: the middle of its upper 110 mm, 78 mm below its top."""
    head = head_mask(data)
    heights = affine[2, 2] * np.arange(data.shape[2]) + affine[2, 3]  # nearly: the axes are RAS+
    areas = head.sum((0, 1))
    top = heights[np.flatnonzero(areas > 0.02 * areas.max())[-1]]
    upper = head & (heights > top - 110)
    middle = _middle(upper, affine)
    middle[2] = top - 78
    return middle
