"""Per-region overlap: the share of each lesion that is covered, every lesion counting the same whatever its size."""

from __future__ import annotations

import numpy as np

from course_lib.errors import BadInput
from course_lib.metrics.lesions import components
from course_lib.metrics.scores import Scores


def aupro(scores: Scores, limit: float = 0.3, *, volumes: bool = False) -> float:
    """The area under the curve of mean lesion coverage against the false-positive rate, up to `limit`, over `limit`.

    A lesion's coverage at t is the share of its own pixels that score at least t. Holes of a ring are not lesion: they
    are not filled, so that coverage never exceeds 1 (the recipe that fills them gives a ring more than 2). Exact and
    with ties: each lesion pixel weighs 1 / (lesions x pixels of its lesion), and the curve is the weighted ROC, joined
    by straight lines where scores tie.

    Args:
        scores: test scores; brain pixels outside lesions are the negatives.
        limit: the largest false-positive rate, in (0, 1].
        volumes: lesions across slices, see `metrics.lesions.components`.

    Returns:
        In [0, 1]; a detector that knows nothing gets limit / 2. NaN without a lesion, or without other pixels.

    Raises:
        BadInput: `limit` outside (0, 1].

    Source: Bergmann et al., IJCV 129 (2021), section 5.2.
    """
    if not 0 < limit <= 1:
        raise BadInput(f"a false-positive rate up to {limit}.", field="limit")
    table = scores.table
    lesion = scores.masks & scores.brains
    labels, count = components(lesion, table["subject"], table["slice"], volumes=volumes)
    negative = np.sort(scores.maps[scores.brains & ~lesion])
    if not count or not len(negative):
        return float("nan")
    inside = labels > 0
    share = 1 / (count * np.bincount(labels[inside], minlength=count + 1)[labels[inside]])  # of each lesion pixel
    values = scores.maps[inside]
    order = np.argsort(-values, kind="stable")
    values, covered = values[order], np.cumsum(share[order])
    ends = np.flatnonzero(np.r_[values[1:] != values[:-1], True])  # the last pixel of each run of equal scores
    above, at_least = (1 - np.searchsorted(negative, values[ends], side) / len(negative) for side in ("right", "left"))
    before = np.r_[0, covered[ends][:-1]]
    # the curve's corners: (above, before) -> (at_least, covered), then level until the next score
    fpr = np.r_[0, np.stack([above, at_least], axis=1).reshape(-1), 1]
    pro = np.r_[0, np.stack([before, covered[ends]], axis=1).reshape(-1), 1]
    inside_limit = fpr <= limit
    stop = int(inside_limit.sum())
    fpr_cut, pro_cut = fpr[:stop], pro[:stop]
    if fpr_cut[-1] < limit:  # cut the piece that crosses the limit
        part = (limit - fpr[stop - 1]) / (fpr[stop] - fpr[stop - 1])
        fpr_cut = np.r_[fpr_cut, limit]
        pro_cut = np.r_[pro_cut, pro[stop - 1] + part * (pro[stop] - pro[stop - 1])]
    return float(np.trapezoid(pro_cut, fpr_cut) / limit)
