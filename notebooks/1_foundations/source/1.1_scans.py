# %% [markdown]
# # 1.1 Scans
#
# **What is in a scan, and what must happen to it before a model may see it?**
#
# Many failures in this field are not failures of networks. They are scans that lay on their side, intensities that
# meant something else in every patient, and slices of one person on both sides of a split. This lesson opens the files,
# meets the cohort that the course trains on, and looks at each of these mistakes. What a leaky split costs in score is
# measured in lesson 1.3.
#
# After this lesson you can
#
# 1. read a NIfTI file, and say which side is left;
# 2. name the families of pathology in the course, and what each of them tests;
# 3. normalise intensities so that a lesion does not move the healthy tissue;
# 4. split a data set so that a test score means something.
#
# | time | memory | needs |
# |---|---|---|
# | 2 minutes to run, 30 to read | under 2 GiB | lesson 1.0 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>What does an unsupervised detector see during training?</summary>
# Healthy scans, and nothing else: no disease, no outlines.
# </details>
#
# <details><summary>Why is a heat map alone not a result?</summary>
# It needs a number over many subjects, an interval, and a trivial baseline beside it.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set: "atlas", "stroke", or the path of a folder made by prepare_folder
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random
device: str = "cpu"  # "cpu", "cuda" or "auto"; this lesson trains nothing

# %%
import course_lib.doctor

course_lib.doctor.check()  # importing the course first also makes torch fast on small machines

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from course_lib import plots
from course_lib.errors import BadInput
from course_lib.images import bids
from course_lib.images.anatomy import healthy_subject
from course_lib.images.pathology import place
from course_lib.images.slices import SliceSet
from course_lib.images.volumes import normalise, read_volume
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean
from course_lib.teaching import Lesson
from data_scripts import open_slices
from data_scripts.make_atlas_cohort import make_cohort

plots.use_style()
lesson = Lesson("1.1", profile=profile, seed=seed)
atlas = make_cohort(profile=profile, progress=False)  # a folder; nothing is made twice

# %% [markdown]
# ## A scan is numbers, and where they are
#
# A NIfTI file (`.nii.gz`) holds a three-dimensional array of *voxels*, and an *affine*: the 4 × 4 matrix that takes a
# voxel's indices $(i, j, k)$ to millimetres $(x, y, z)$ in the scanner, or in a standard brain.
#
# $$\begin{pmatrix} x \\ y \\ z \\ 1 \end{pmatrix} = A \begin{pmatrix} i \\ j \\ k \\ 1 \end{pmatrix}$$
#
# Here $x$ grows to the patient's right, $y$ to the front, $z$ upwards: the convention is called RAS+. The course reads
# every file through `read_volume`, which checks it and turns it to RAS+.

# %%
subject = "sub-testtumour001"
scan = read_volume(bids.image_path(atlas, subject))
truth = read_volume(bids.lesion_path(atlas, subject), kind="mask")
pd.DataFrame(scan.affine, index=["x (mm)", "y (mm)", "z (mm)", ""], columns=["i", "j", "k", "1"])

# %%
voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
centre = scan.affine[:3] @ [*np.argwhere(truth.data).mean(0), 1]  # mm
plots.show_planes(scan.data, scan.affine, centre, mask=truth.data)
lesson.figure("A head cut in three planes through its tumour, which is outlined in blue; axes in millimetres.")
lesson.say(
    "The array has {shape} voxels of {size:.0f} mm. The blue outline is the truth: a tumour of {ml:.1f} ml. "
    "The axes are in millimetres of the MNI standard brain, whose origin lies deep in the middle of the head.",
    shape=" × ".join(map(str, scan.data.shape)),
    size=abs(scan.affine[0, 0]),
    ml=truth.data.sum() * voxel_ml,
)

# %% [markdown]
# ### Which side is left?
#
# Another scanner may write the same head with $i$ growing to the *left*. Nothing is wrong with such a file: its affine
# says so. But a program that plots the array as it lies shows the mirror image, and nobody can tell by looking. Below,
# one head is stored both ways.

# %%
folder = Path(tempfile.mkdtemp())
mirror = np.diag([-1.0, 1, 1, 1])
mirror[0, 3] = scan.data.shape[0] - 1
mirrored = nib.Nifti1Image(scan.data[::-1].astype(np.float32), scan.affine @ mirror)
nib.save(mirrored, folder / "left_first.nii.gz")

as_it_lies = np.asarray(nib.load(folder / "left_first.nii.gz").dataobj)
read = read_volume(folder / "left_first.nii.gz")
k = int(np.argwhere(truth.data).mean(0)[2])
pictures = [volume[:, ::-1, k].T for volume in (scan.data, as_it_lies, read.data)]  # anterior on top, left on left
plots.show_slices(
    pictures, titles=["the scan", "mirrored file, affine ignored", "mirrored file, read_volume"], columns=3
)
lesson.figure("One slice three times: the scan, the mirrored file as it lies, and the file as read_volume reads it.")

# %%
changed = pd.Series(read.report, name="what read_volume changed or noticed").to_frame()
changed

# %% [markdown]
# ### Files that lie
#
# Files break: a download stops, a disk flips a bit, a tool writes NaN. The danger is not the error message. It is the
# file that loads all the same. We break the scan in five ways and ask two readers.

# %%
whole = bids.image_path(atlas, subject).read_bytes()
third = len(whole) // 3
(folder / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
(folder / "bit flipped.nii.gz").write_bytes(whole[:third] + bytes([whole[third] ^ 1]) + whole[third + 1 :])
for name, value in (("one voxel is NaN", np.nan), ("one voxel is infinite", np.inf)):
    broken = scan.data.copy()
    broken[40, 50, 40] = value
    nib.save(nib.Nifti1Image(broken, scan.affine), folder / f"{name}.nii.gz")
nib.save(nib.Nifti1Image(np.stack([scan.data] * 2, -1), scan.affine), folder / "two volumes in one.nii.gz")


# %%
def attempt(reader, path):
    """What a reader says about a file."""
    try:
        reader(path)
        return "loads"
    except Exception as error:  # whatever it is, we want to see its words
        text = error.cause if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        return text.split(str(path))[-1][:110]


files = ["half", "bit flipped", "one voxel is NaN", "one voxel is infinite", "two volumes in one"]
said = [
    {
        "file": name,
        "nibabel": attempt(lambda p: nib.load(p).get_fdata(), path),
        "read_volume": attempt(read_volume, path),
    }
    for name, path in ((name, folder / f"{name}.nii.gz") for name in files)
]
readers = pd.DataFrame(said).set_index("file")
readers.style.set_properties(**{"text-align": "left", "white-space": "normal"})

# %%
lesson.say(
    "nibabel, a good reader, loads {loads} of the {all} broken files without a word: it is made to read files, not to "
    "judge them. The course's reader refuses {refused} of them and says why.",
    loads=int((readers["nibabel"] == "loads").sum()),
    refused=int((readers["read_volume"] != "loads").sum()),
    all=len(readers),
)

# %% [markdown]
# ## The cohort
#
# Hospitals rarely give data away, so the course makes its own: the *atlas cohort*. A healthy subject is the MNI
# standard anatomy under a random smooth deformation, with intensities like those of FLAIR (an MR sequence in which
# fluid is dark and most lesions bright), a bias field (a slow change of brightness across the head) and noise.
# Disease is put in by a program, so the truth is known at every voxel: a mask holds where at least half of the effect
# is present. That is the cohort's strength. Its weakness: it is tidier than any clinic. What holds here is a
# hypothesis about patients; the real scans at the end test it.
#
# Each *family* is here to challenge another kind of detector.
#
# | family | what | meant to be hard for |
# |---|---|---|
# | `ms` | a few small bright lesions in white matter | detectors that look at large scales |
# | `stroke` | one dark territory with soft edges (in real FLAIR an acute stroke is *bright*) | brightness thresholds |
# | `tumour` | pushes anatomy aside; bright core, oedema | networks that copy large structures |
# | `texture` | grain changes, brightness does not | residuals |
# | `atrophy` | ventricles and sulci too wide | anything that looks at one place alone |
# | `resection` | a cavity full of fluid, left by surgery | models for which dark means fluid, and fluid is normal |
# | `midlineshift` | one half pushes the other | per-pixel statistics without tolerance |
# | `ghosting`, `spike`, `missingslice` | faults of the scan | nobody: they are anomalies, but no disease |

# %%
slices = open_slices(data, profile, progress=False)
people = slices.table.drop_duplicates("subject")
people.groupby(["split", "family"], sort=False)["subject"].count().unstack("split", fill_value=0).rename_axis(None)

# %%
test = slices.select("split == 'test'")
largest = test.table.sort_values("lesion_px", kind="stable").groupby("family", sort=False).tail(1)
middle = test.table[(test.table["family"] == "healthy") & (test.table["z_mm"] == 18)].head(1)
gallery = pd.concat([middle, largest[largest["family"] != "healthy"].sort_values("family", kind="stable")])
scattered = gallery["family"].isin(["ghosting", "spike"])  # their masks are all over the picture
plots.show_slices(
    [test.images[row] for row in gallery.index],
    [None if all_over else test.masks[row] for row, all_over in scattered.items()],
    titles=list(gallery["family"]),
    columns=6,
)
lesson.figure("A slice of each family: {names}. Outlines show the truth.", names=", ".join(gallery["family"]))

# %% [markdown]
# Each picture is a slice of another simulated person, looked down upon from above: the patient's left is on your left.
# (Radiologists look up from the feet, and have it on their right. Always say which.) The blue outline is the truth.
# Before the next figure, look at the pictures and decide.

# %%
families = [family for family in test.families if family != "healthy"]
lesion_families = [family for family in ("ms", "stroke", "tumour", "texture", "resection") if family in families]
if len(lesion_families) > 1:
    lesion_question = "In which family does the lesion differ *least* in brightness from the brain around it?"
    lesson.predict("least-bright", lesion_question, kind="choice", choices=lesion_families)

# %% [markdown]
# The mean brightness inside the outline, against the same person's brain outside it, in the brain's robust standard
# deviations (s.d.). One point is one person.


# %%
def contrast(subject):
    """Mean brightness in the lesion minus that of the rest of the brain, in robust s.d. (1/8 in the course's scale)."""
    own = test.select(test.table["subject"].to_numpy() == subject)
    inside, rest = own.masks, own.brains & ~own.masks
    return 8 * (own.images[inside].mean() - own.images[rest].mean())


ill = test.table[test.table["lesion_px"] > 0].drop_duplicates("subject")
ill = ill[ill["family"].isin(lesion_families or families)]
ill = ill.assign(contrast=[contrast(subject) for subject in ill["subject"]])

fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.75, 3))
for row, family in enumerate(dict.fromkeys(ill["family"])):
    values = ill.loc[ill["family"] == family, "contrast"]
    ax.plot(values, np.full(len(values), row), plots.MARKERS[row], color=plots.PALETTE[row], alpha=0.7)
ax.axvline(0, color="0.3", ls=":")
ax.set(xlabel="lesion minus rest of the brain (robust s.d.)", yticks=range(ill["family"].nunique()))
ax.set_yticklabels(dict.fromkeys(ill["family"]))
fig.tight_layout()
lesson.figure(
    "For each person the contrast of the lesion; the families' means: {means}.",
    means=", ".join(f"{family} {mean:+.1f}" for family, mean in ill.groupby("family")["contrast"].mean().items()),
)

# %%
by_family = ill.groupby("family", sort=False)["contrast"].mean()
if len(by_family) > 1:
    lesson.reveal("least-bright", by_family.abs().idxmin())
    lesson.say(
        "A threshold on brightness can only find what is bright: the families range from {low:+.1f} s.d. ({dark}) to "
        "{high:+.1f} s.d. ({bright}).",
        low=by_family.min(),
        dark=by_family.idxmin(),
        high=by_family.max(),
        bright=by_family.idxmax(),
    )

# %% [markdown]
# ### Where anatomy moved
#
# Not every disease repaints tissue. Some *push* it. For `atrophy` and `midlineshift` the truth is a displacement: how
# many millimetres the tissue at each place has moved; the mask holds what moved by 2 mm or more. A tumour does both:
# its outline is the core and the oedema, and the tissue around them is pushed, too.

# %%
fig, axes = plt.subplots(2, 3, figsize=(plots.WIDTH, 7))
for column, family in enumerate(("atrophy", "midlineshift", "tumour")):
    name = f"sub-test{family}002"
    image, mask, moved = (
        read_volume(path(atlas, name), kind=kind).data
        for path, kind in ((bids.image_path, "image"), (bids.lesion_path, "mask"), (bids.displacement_path, "image"))
    )
    k = int(mask.sum((0, 1)).argmax())  # the slice with most of it
    plots.show_slice(image[:, ::-1, k].T, mask[:, ::-1, k].T, title=family, sides=column == 0, ax=axes[0, column])
    plots.show_map(moved[:, ::-1, k].T, limit=8, label="displacement (mm)", ax=axes[1, column])
fig.tight_layout()
lesson.figure("Slices of atrophy, midline shift and tumour above; below, how many millimetres each place has moved.")

# %% [markdown]
# ### Paint your own
#
# The function that made the cohort also works on one slice, in a few milliseconds. Here it puts the same lesion at the
# same place six times; only its brightness changes. At 0 s.d. the lesion has the tissue's own brightness and differs in
# grain alone.

# %%
person = healthy_subject(np.random.default_rng(seed))
axial = normalise(person.image, person.brain)[:, ::-1, 45].T  # (rows, columns), anterior on top
levels = (-4, -2, 0, 2, 4, 6)  # robust s.d.
painted = [
    place(axial, "ms", np.random.default_rng(1), centre=(50, 62), radius_mm=9, intensity=level, texture=0.3)
    for level in levels
]
plots.show_slices(
    [p.image for p in painted], [p.mask for p in painted], titles=[f"{level:+d} s.d." for level in levels]
)
lesson.figure("The same lesion painted six times, from 4 s.d. darker to 6 s.d. brighter than the tissue.")

# %% [markdown]
# ## Normalisation: what is 1?
#
# A CT scanner measures in fixed units. An MR scanner does not: the same tissue may read 400 today and 900 tomorrow. So
# every scan is brought to one scale first, and *how* decides what a detector sees. Three common ways, with $v$ the raw
# value and all statistics taken over the brain:
#
# - **min-max**: $(v - \min) / (\max - \min)$;
# - **percentile**: $v / P_{99}$;
# - **median and MAD** (the course's): $0.5 + (v - \text{median}) / (8 \cdot 1.4826 \cdot \text{MAD})$, where MAD is the
#   median absolute deviation from the median, and `1.4826 MAD` is one s.d. for Gaussian data.
#
# A lesion belongs to the brain, so it takes part in the statistics. We give one and the same person a bright tumour,
# and
# watch what happens to the *healthy* white matter.

# %%
lesson.predict(
    "min-max",
    "By how many s.d. of its own spread does healthy white matter seem to darken under min-max, when a bright tumour "
    "appears elsewhere in the head?",
    bounds=(0, 10),
)

# %%
ways = {
    "min-max": lambda v: (v - v.min()) / np.ptp(v),
    "percentile": lambda v: v / np.percentile(v, 99),
    "median/MAD": lambda v: 0.5 + (v - np.median(v)) / (8 * 1.4826 * np.median(np.abs(v - np.median(v)))),
}
people_drawn = {"quick": 6, "standard": 12, "full": 40}[profile]
rows = []
for draw in range(people_drawn):
    rng = np.random.default_rng([seed, draw])
    person = healthy_subject(rng)
    sick = place(person.image, "tumour", rng, brain=person.brain, tissue=person.tissue, unit=person.unit, radius_mm=14)
    white = (person.tissue["wm"] > 0.9) & ~sick.mask & (sick.displacement_mm < 0.1)  # untouched by the tumour
    for way, scale in ways.items():
        before, after = person.image.copy(), sick.image.copy()
        before[person.brain], after[person.brain] = scale(before[person.brain]), scale(after[person.brain])
        shift = (before[white] - after[white]).mean() / before[white].std()
        rows.append({"person": draw, "way": way, "shift": shift})
shifts = pd.DataFrame(rows)

# %%
fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.75, 2.6))
for row, way in enumerate(ways):
    values = shifts.loc[shifts["way"] == way, "shift"]
    ax.plot(values, np.full(len(values), row), plots.MARKERS[row], color=plots.PALETTE[row], alpha=0.7)
ax.axvline(0, color="0.3", ls=":")
ax.set(xlabel="apparent darkening of healthy white matter (s.d.)", yticks=range(len(ways)))
ax.set_yticklabels(ways)
fig.tight_layout()
lesson.figure(
    "How far a tumour elsewhere darkens healthy white matter; means: {means}.",
    means=", ".join(f"{way} {shift:.2f} s.d." for way, shift in shifts.groupby("way")["shift"].mean().items()),
)

# %%
mean_shift = shifts.groupby("way")["shift"].mean()
lesson.reveal("min-max", mean_shift["min-max"])
wide = shifts.pivot(index="person", columns="way", values="shift")
excess = bootstrap(Mean(wide["min-max"].abs() - wide["median/MAD"].abs()), len(wide), seed=seed)
lesson.claim_interval(
    "normalisation",
    "A bright tumour moves healthy white matter further under min-max than under median/MAD (difference of the "
    "shifts, in s.d.).",
    excess,
    above=0,
    over="simulated people",
)

# %% [markdown]
# A detector that learned from healthy people scaled by min-max would find the healthy part of an ill brain too dark: it
# would flag the *right person* for the *wrong reason*. No method removes the effect altogether, but of these
# three the median and the MAD move least. From here on, 0 is background, 0.5 is the brain's median, and
# 0.125 is one robust s.d.
#
# ## Splits: who has seen whom
#
# A scan gives 17 slices to this course, and neighbours look alike. If slices are dealt at random to training and test,
# most test slices have a neighbour in training. How alike are they? For slices of training people we look for the
# nearest other slice: of the same person (4 mm further up or down), and of any *other* person at the same height.

# %%
train = slices.select("split == 'train' and family == 'healthy'")
heights = train.table["z_mm"].to_numpy()
names = train.table["subject"].to_numpy()
small = train.images[:, ::2, ::2].reshape(len(train), -1)  # every second pixel is enough for a distance


def nearest(row):
    """Root mean square difference to the next slice of the same person, and to the nearest one of another person."""
    difference = np.sqrt(((small - small[row]) ** 2).mean(1))
    same = (names == names[row]) & (np.abs(heights - heights[row]) == 4)
    other = (names != names[row]) & (heights == heights[row])
    return difference[same].min(initial=np.inf), difference[other].min(initial=np.inf)


sample = np.random.default_rng(seed).permutation(len(train))[:300]
distances = pd.DataFrame([nearest(row) for row in sample], columns=["same person, 4 mm away", "nearest other person"])
distances["subject"] = names[sample]
distances = distances[np.isfinite(distances.iloc[:, :2]).all(axis=1)]

# %%
if len(distances):
    values = {name: distances[name].to_numpy() for name in distances.columns[:2]}
    top = float(np.ceil(20 * max(v.max() for v in values.values())) / 20)
    plots.plot_histograms(values, xlabel="distance between slices (root mean square, 0.125 = 1 s.d.)", range_=(0, top))
    lesson.figure(
        "Histograms of distances between slices; medians: {medians}.",
        medians=", ".join(f"{name} {np.median(v):.3f}" for name, v in values.items()),
    )

# %%
if len(distances):
    closer = distances[distances.columns[0]] < distances[distances.columns[1]]
    share = closer.groupby(distances["subject"]).mean()
    interval = bootstrap(Mean(share), len(share), seed=seed)
    lesson.claim_interval(
        "neighbours",
        "A slice is usually closer to its own neighbour 4 mm away than to the nearest slice of any other person at "
        "the same height (share of slices above one half).",
        interval,
        above=0.5,
    )

# %% [markdown]
# Whatever the number above, the rule is one line: **a person belongs to one split**. The course enforces it where data
# enter: a `SliceSet` with a subject in two splits cannot be made. Try.

# %%
leaky = people.head(2).assign(subject="sub-same", split=["train", "test"])
try:
    SliceSet(slices.images[:2], slices.masks[:2], slices.brains[:2], leaky.drop(columns="digest"), name="leaky")
except BadInput as error:
    print(error)

# %% [markdown]
# ## Real patients
#
# The course's real test set is the acute-stroke FLAIR of the Stroke Outcome Optimization Project (OpenNeuro ds004889,
# CC0): one slice each of more than a thousand people. `python -m data_scripts.fetch_stroke` fetches it, shows the
# licence, and checks every file. If it is on this computer, some of it stands below.

# %%
try:
    real = open_slices("stroke", profile, progress=False)
except BadInput as error:
    real = None
    print(error.cause, error.remedy)

# %%
if real is not None:
    seen = real.select("split == 'train' and family == 'stroke' and lesion_px > 60")
    rows = np.random.default_rng(seed).permutation(len(seen))[:6]
    plots.show_slices([seen.images[row] for row in rows], [seen.masks[row] for row in rows])
    lesson.figure("Six slices of real stroke patients, chosen at random, with the outlines that experts drew.")
    lesson.say(
        "{slices} slices of {people} people. Nobody among them is healthy: all were patients of a stroke "
        "centre, and what this set calls healthy is a slice without a lesion. Old lesions are common and not "
        "outlined, so a detector that marks one is right, and is scored wrong.",
        slices=len(real),
        people=real.table["person"].nunique(),
    )

# %% [markdown]
# Your own scans enter the same way: `python -m data_scripts.prepare_folder IMAGES --masks MASKS` takes any folder of
# NIfTI files, checks each, brings them to this lattice and scale, splits by subject and writes a report. Then set
# `data` in a lesson's parameters to the folder it made.

# %% [markdown]
# ## Exercises


# %%
def slice_of_z(z_mm):
    return round((z_mm - scan.affine[2, 3]) / scan.affine[2, 2])


def check_height(answer):
    """The index of the axial slice at z = +18 mm."""
    if answer == round(18 / scan.affine[2, 2]):
        return "You divided by the voxel size but forgot the offset: index 0 does not lie at 0 mm."
    if answer == 18:
        return "18 is the millimetre, not the index."
    return None if np.isclose(float(answer), slice_of_z(18)) else "Solve z = A[2, 2] k + A[2, 3] for k."


lesson.card(
    "1.1.1",
    "From millimetres to an index",
    difficulty=1,
    minutes=5,
    task="Which axial index $k$ of `scan.data[:, :, k]` shows the plane z = +18 mm? Put it into `answer`.",
    hints=["The third row of the affine says how k becomes z.", "Its last column is where k = 0 lies."],
    solution="`round((18 - scan.affine[2, 3]) / scan.affine[2, 2])`",
    check=check_height,
)

# %%
answer = ...
lesson.check("1.1.1", answer)


# %%
def check_volume(answer):
    """The second tumour's volume in millilitres."""
    other = read_volume(bids.lesion_path(atlas, "sub-testtumour002"), kind="mask")
    voxels = int(other.data.sum())
    if answer == voxels:
        return "That is the number of voxels. A voxel is not a millilitre."
    if np.isclose(answer, voxels * voxel_ml * 1000, rtol=0.01):
        return "These are cubic millimetres: 1 ml is 1000 of them."
    return None if np.isclose(answer, voxels * voxel_ml, rtol=0.01) else "Volume is voxels times the volume of one."


lesson.card(
    "1.1.2",
    "How large is the tumour?",
    difficulty=1,
    minutes=5,
    task="Load `read_volume(bids.lesion_path(atlas, 'sub-testtumour002'), kind='mask')` and compute the lesion's "
    "volume in "
    "ml from its voxels and its affine. Put it into `answer`.",
    hints=["The determinant of the affine's 3 × 3 part is the volume of a voxel in mm³."],
    solution="`other.data.sum() * abs(np.linalg.det(other.affine[:3, :3])) / 1000`, where `other` is what you loaded.",
    check=check_volume,
)

# %%
answer = ...
lesson.check("1.1.2", answer)


# %%
def check_split(answer):
    """A function from the subject of every slice to the split of every slice."""
    ids = [f"sub-{k % 20:02d}" for k in range(100)]
    got = list(answer(ids))
    if len(got) != len(ids):
        return "Return one split for each slice, in the same order."
    if set(got) - {"train", "test"}:
        return "The only splits are 'train' and 'test'."
    of = {who: {split for name, split in zip(ids, got, strict=True) if name == who} for who in ids}
    if any(len(splits) > 1 for splits in of.values()):
        return "A subject is in two splits: you dealt slices, not people."
    training = sum(splits == {"train"} for splits in of.values())
    return None if 5 <= training <= 15 else f"{training} of 20 people are in training; about half should be."


lesson.card(
    "1.1.3",
    "A split by people",
    difficulty=2,
    minutes=10,
    task="Write `split(subjects)`: it takes the subject of every slice and returns `'train'` or `'test'` for "
    "every slice, "
    "about half the people in each, nobody in both. Put the function into `answer`.",
    hints=["Decide for each *person* first, then look the decision up for each slice."],
    solution="""
    ```python
    def split(subjects):
        people = sorted(set(subjects))
        training = set(people[: len(people) // 2])
        return ["train" if name in training else "test" for name in subjects]

    answer = split
    ```
    """,
    check=check_split,
)

# %%
answer = ...
lesson.check("1.1.3", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "An affine gives numbers a place; a reader that ignores it shows you the mirror image.",
    "Normalise by what a lesion moves least: here, the median and the MAD.",
    "A person belongs to one split.",
)

# %% [markdown]
# ## References
#
# - Fonov V, et al. Unbiased average age-appropriate atlases for pediatric studies. *NeuroImage* 54 (2011): the
#   template.
# - Gorgolewski K, et al. The brain imaging data structure. *Scientific Data* 3 (2016): how the cohort lies on disk.
# - Absher J, et al. The stroke outcome optimization project. *Scientific Data* 11:839 (2024): the real scans.
# - Nyúl L, Udupa J. On standardizing the MR image intensity scale. *Magnetic Resonance in Medicine* 42 (1999).
