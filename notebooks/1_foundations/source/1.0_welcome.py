# %% [markdown]
# # 1.0 Welcome
#
# **Can a program find something that nobody has ever shown it?**
#
# A radiologist who has read ten thousand healthy scans often notices a tumour at once, even of a kind that she has
# never met: it does not belong there. This course teaches programs to do the same. They see *only healthy* scans.
# Then they have to find and outline disease that they have never seen. The field calls this *unsupervised anomaly
# detection*.
#
# After this lesson you can
#
# 1. make a heat map of a scan with a detector that was trained on healthy people only;
# 2. read such a map, and say how far it can be trusted;
# 3. use the tools of the course: predictions, claims, exercise cards, parameters.
#
# | time | memory | needs |
# |---|---|---|
# | 2 minutes to run, 20 to read | under 2 GiB | nothing: no download, no account, no GPU |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# ## Before you start
#
# Two questions to recall. Answer them in your head, then unfold.
#
# <details><summary>What does a classifier need that we do not have here?</summary>
# Examples of every class, with labels. We have healthy scans, and no example of any disease.
# </details>
#
# <details><summary>Why not simply collect examples of each disease?</summary>
# Rare diseases are rare, outlines drawn by experts are expensive, and tomorrow's scan can show something that is in
# no collection.
# </details>
#
# The next cell holds the *parameters* of this lesson. Change them and run all cells again, or give them on a command
# line, as the last section shows.

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random
device: str = "cpu"  # "cpu", "cuda" or "auto"

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
import numpy as np
import pandas as pd
import torch
from course_lib import plots
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.evaluation import evaluate, predict
from course_lib.images.pathology import place
from course_lib.teaching import Lesson
from course_lib.training import fit
from data_scripts import open_slices

plots.use_style()
lesson = Lesson("1.0", profile=profile, seed=seed)

# %% [markdown]
# ## A heat map in the first minute
#
# Here are six slices through six heads, from a simulated cohort that lesson 1.1 takes apart. You look down on them from
# above: the patient's left is on your left, the front of the head is at the top. Some of these people are ill.

# %%
slices = open_slices(data, profile, progress=False)
train = slices.select("split == 'train' and family == 'healthy'")
test = slices.select("split == 'test'")

kinds = [family for family in ("healthy", "stroke", "ms", "texture", "tumour") if family in test.families]
gallery = [test.example(kinds[k % len(kinds)], place=0.5 + 0.5 * (k // len(kinds)) / 6) for k in range(6)]
plots.show_slices([test.images[row] for row in gallery], titles=[f"head {k}" for k in range(1, len(gallery) + 1)])
lesson.figure("Six axial slices through six simulated heads, numbered from 1; some show disease.")

# %%
heads = [f"head {k}" for k in range(1, len(gallery) + 1)]
lesson.predict(
    "hardest",
    "Some heads are ill. In which ill head will the disease be hardest to find, for you and for a program?",
    kind="choice",
    choices=heads,
)

# %% [markdown]
# Now the detector. `PositionalGaussian` learns, at every place in the head, what healthy tissue looks like there: how
# bright it is on average, how grainy, and how much both vary from person to person. It has never seen disease.

# %%
detector = PositionalGaussian(slices.image_shape, levels=train.table["z_mm"].nunique())
history = fit(detector, train, progress=False)  # healthy people only
maps = detector.anomaly_map(test.batch(gallery)).numpy()  # (B, H, W), higher is more anomalous

# %%
plots.show_maps(
    [test.images[row] for row in gallery],
    [test.masks[row] for row in gallery],
    {"how unlike healthy": maps},
    titles=[f"{head}: {test.table['family'][row]}" for head, row in zip(heads, gallery, strict=True)],
    label="Mahalanobis distance (s.d.)",
)
lesson.figure(
    "Above, the six slices with the true outlines; below, their anomaly maps, from 0 to {top:.0f} s.d.", top=maps.max()
)

# %% [markdown]
# The upper row shows the truth, outlined in blue. The lower row is the detector's *anomaly map*: how far each place is
# from what healthy people look like there. Precisely, it is a *Mahalanobis distance*: six measurements at once, local
# brightness and grain at three scales, in units of their healthy spread. Bright means "this does not belong here".
#
# Look twice. The maps light up at lesions. They also light up in places without an outline, even in healthy heads: what
# is unusual is not always ill. That difference will follow us through the whole course.

# %%
inside = [maps[k][test.masks[row]].mean() for k, row in enumerate(gallery) if test.masks[row].any()]
outside = [maps[k][test.brains[row] & ~test.masks[row]].mean() for k, row in enumerate(gallery)]
ill_heads = [k for k, row in enumerate(gallery) if test.masks[row].any()]
ratios = pd.Series([i / outside[k] for i, k in zip(inside, ill_heads, strict=True)], [heads[k] for k in ill_heads])
lesson.reveal("hardest", ratios.idxmin())
others = slices.select("split == 'val' and family == 'healthy'")  # healthy people whom the detector has not seen
calm = others.batch(range(0, len(others), 5))  # (B, 1, H, W)
ordinary = np.quantile(detector.anomaly_map(calm).numpy()[calm[:, 0].numpy() > 0], [0.5, 0.99])
lesson.say(
    "In healthy heads half of the brain lies below {half:.1f}, and 99 % below {most:.1f}. In {best} the map is "
    "{high:.1f} times brighter inside the outline than in the rest of the brain; in {worst} only "
    "{low:.1f} times: the detector finds that one hard, too.",
    half=ordinary[0],
    most=ordinary[1],
    best=ratios.idxmax(),
    high=ratios.max(),
    worst=ratios.idxmin(),
    low=ratios.min(),
)

# %% [markdown]
# ## Is it any good?
#
# One picture proves nothing; we chose it. A number over many people might. The course's main number is *average
# precision* (AP). Sort all brain pixels of a family's test subjects from most to least anomalous, and walk down the
# list. The share of lesion pixels among those passed so far is the *precision*. AP is its average over the lesion
# pixels. A perfect map has AP 1. A map of random numbers reaches the share of lesion pixels in the brain, often below
# one in a hundred: the *chance level*.
#
# Beside it stands the humblest detector: brightness itself. `IntensityThreshold` learns nothing. Its map is the image.

# %%
lesson.predict(
    "winner",
    "In how many of the families `ms`, `stroke`, `tumour` and `texture` does brightness alone reach a higher AP than "
    "the detector that has learned?",
    bounds=(0, 4),
)

# %%
four = [family for family in ("ms", "stroke", "tumour", "texture") if family in test.families] or test.families
tested = test.select(test.table["family"].isin([*four, "healthy"]).to_numpy())
scores = {
    "brightness": predict(IntensityThreshold(), tested, name="brightness"),
    "positional Gaussian": predict(detector, tested, name="positional Gaussian"),
}
table = evaluate(scores, resamples=500, seed=seed)
ap = table[(table["level"] == "pixel") & (table["metric"] == "AP")]
lesson.results(ap)
plots.plot_results(ap, ylabel="pixel AP, 95 % interval over subjects")
lesson.figure("Pixel AP of brightness and of the positional Gaussian for each family, with intervals and chance.")

# %%
wide = ap.pivot(index="family", columns="detector", values="value")
wins = int((wide["brightness"] > wide["positional Gaussian"]).sum())
lesson.reveal("winner", wins)
lesson.say(
    "Brightness wins in {wins} of {all} families. Where lesions are bright, a threshold is hard to beat: in "
    "FLAIR it has "
    "beaten many published networks (Meissen 2021, below). Where they are dark, it is blind, and learning begins "
    "to pay.",
    wins=wins,
    all=len(wide),
)

# %% [markdown]
# ## Claims
#
# When a lesson of this course states a result, it states it as a *claim*: a sentence that the run itself tests, with
# a number and an interval. Nobody typed the numbers below. Run the lesson with another seed and they change; if the
# sentence stops being true, it says so, here and in the course's table of claims.

# %%
if "stroke" in set(ap["family"]):
    row = ap[(ap["family"] == "stroke") & (ap["detector"] == "positional Gaussian")].iloc[0]
    lesson.claim(
        "finds-the-unseen",
        "A detector that has seen healthy people alone ranks stroke pixels at more than twice chance (AP divided "
        "by the "
        "chance level).",
        holds=row["low"] > 2 * row["chance"],
        value=row["value"] / row["chance"],
        low=row["low"] / row["chance"],
        high=row["high"] / row["chance"],
        over=f"{row['subjects']} subjects",
    )

# %% [markdown]
# ## How this course works
#
# - **Predict** before you look. Being wrong on record is how intuition is repaired. Guesses stay on your computer.
# - **Profiles.** `quick` computes little and shows the shape of things; `standard` is the course; `full` is for a GPU.
# - **Everything is measured.** Intervals are over people, not pixels. Thresholds come from healthy validation data, or
#   are called *oracle*.
# - **Exercises** are cards with hints and a solution, folded. Their checks say which idea went wrong.
# - **Parameters.** Any lesson runs from a command line with other values:
#
# ```
# python -m course_lib.lessons.run 1.0 -p profile quick -p seed 7
# papermill notebooks/1_foundations/1.0_welcome.ipynb out.ipynb -p profile quick -p seed 7
# ```
#
# ## Exercises

# %%
lesion_brightness = 5.0  # robust s.d. above the tissue; change it, from -5 to 5, and run this cell again
healthy_slice = test.images[gallery[0]]
painted = place(
    healthy_slice, "ms", np.random.default_rng(seed), centre=(46, 34), radius_mm=8, intensity=lesion_brightness
)
changed = np.stack([healthy_slice, painted.image])
pair = detector.anomaly_map(torch.from_numpy(changed)[:, None]).numpy()
plots.show_maps(
    changed,
    [np.zeros_like(painted.mask), painted.mask],
    {"how unlike healthy": pair},
    titles=["before", "after"],
    label="Mahalanobis distance (s.d.)",
)
lesson.figure("One healthy slice before and after a lesion is painted into it, and the anomaly map of each.")


# %%
def check_blind(answer):
    """A brightness in robust s.d. at which the map inside the lesion is least bright."""
    if abs(answer) > 5:
        return "Stay between -5 and 5 robust s.d."
    if answer == 5 or answer == -5:
        return "That lesion is far brighter or darker than its surroundings: an easy one. Try values between."
    candidates = np.arange(-5, 5.01, 0.5)
    seen = [
        detector.anomaly_map(torch.from_numpy(one.image)[None, None])[0].numpy()[one.mask].mean()
        for one in (
            place(healthy_slice, "ms", np.random.default_rng(seed), centre=(46, 34), radius_mm=8, intensity=float(c))
            for c in candidates
        )
    ]
    best = candidates[int(np.argmin(seen))]
    return (
        None if abs(answer - best) <= 1 else f"The map can be darker still; move {'up' if best > answer else 'down'}."
    )


lesson.card(
    "1.0.1",
    "A lesion that hides",
    difficulty=1,
    minutes=10,
    task="Change `lesion_brightness` above until the detector hardly sees the lesion. Put the value into "
    "`answer`. Can you "
    "still see the lesion yourself at that value?",
    hints=[
        "Start at 0, where the lesion is as bright as the tissue around it.",
        "Compare the map inside the outline with the same place before you painted.",
    ],
    solution="Near 0: a lesion as bright as the healthy tissue there. You hardly see it either; what is left is "
    "its grain, "
    "and this lesion's grain is too weak.",
    check=check_blind,
)

# %%
answer = ...
lesson.check("1.0.1", answer)


# %%
def check_chance(answer):
    """The chance level of AP for a family."""
    family = four[0]
    own = test.select(f"family == '{family}'")
    truth = own.masks.sum() / own.brains.sum()
    if np.isclose(answer, own.masks.mean(), rtol=1e-3):
        return "You divided by all pixels. The background is not brain: it never counts."
    if np.isclose(answer, 0.5):
        return "One half is the chance level of AUROC, not of AP."
    return None if np.isclose(answer, truth, rtol=0.1) else "Chance is the share of lesion pixels among brain pixels."


lesson.card(
    "1.0.2",
    "The level of chance",
    difficulty=2,
    minutes=10,
    task=f"Compute the AP that a map of random numbers reaches on the `{four[0]}` subjects, from `test.masks` and "
    "`test.brains`. Put it into `answer`.",
    hints=[
        "What share of a shuffled list is lesion, wherever you stop?",
        f"`own = test.select(\"family == '{four[0]}'\")`",
    ],
    solution="`own.masks.sum() / own.brains.sum()`: at every threshold a random map has this precision on average.",
    check=check_chance,
)

# %%
answer = ...
lesson.check("1.0.2", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "A detector of anomalies learns what healthy looks like, and marks what does not fit.",
    "Anomalous is not ill: judge a map by numbers over people, beside a baseline that learned nothing.",
    "Next: 1.1 opens the scans.",
)

# %% [markdown]
# ## References
#
# - Ruff L, et al. A unifying review of deep and shallow anomaly detection. *Proceedings of the IEEE* 109 (2021).
# - Baur C, et al. Autoencoders for unsupervised anomaly segmentation in brain MR images. *Medical Image
#   Analysis* 69 (2021).
# - Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation methods for brain MRI
#   (2021).
