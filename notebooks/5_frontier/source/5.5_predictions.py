# %% [markdown]
# # 5.5 Your predictions
#
# **When you say that you are sure, how often are you right?**
#
# Through the course you have guessed before you looked. A guess that is written down can be scored. This lesson reads
# the file in which your guesses lie, on this computer and nowhere else. It asks two things: how often you were right,
# and whether you *knew* how often.
#
# After this lesson you can
#
# 1. say what calibration is, and read a calibration figure;
# 2. compute a Brier score, and say what it rewards;
# 3. recognise over-confidence, in yourself and in a model, and say how many guesses it takes to show it.
#
# | time | memory | needs |
# |---|---|---|
# | 1 minute to run, 25 to read | under 1 GiB | guesses from other lessons; without any, a simulated student stands in |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions to recall first.
#
# <details><summary>Why does every number of this course come with an interval?</summary>
# It was measured on few people or few guesses. With others it would have been another number.
# </details>
#
# <details><summary>Why guess before you look?</summary>
# After the figure everything seems obvious. Only a guess on record can be wrong, and teach you something.
# </details>

# %% tags=["parameters"]
data: str = "atlas"  # data set; this lesson uses none, only your guesses
profile: str = "standard"  # how much to compute: "quick", "standard" or "full"
seed: int = 0  # seed of everything random
device: str = "cpu"  # "cpu", "cuda" or "auto"; this lesson trains nothing

# %%
import course_lib.doctor

course_lib.doctor.check()

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from course_lib import plots
from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.statistics import Mean
from course_lib.teaching import Lesson, predictions

plots.use_style()
lesson = Lesson("5.5", profile=profile, seed=seed)

# %% [markdown]
# ## Calibration
#
# A forecaster who says "sure to `70 %`" a hundred times should be right in about seventy of them. If this is so for
# every stated confidence $p$, the forecaster is *calibrated*:
#
# $$P(\text{right} \mid \text{stated } p) = p .$$
#
# Someone who is right less often than stated is *over-confident*. For a number there is no right or wrong, so the
# course asks for a *range* that should hold the truth in four of five cases.
#
# To see what this looks like, we make up two students. Both state how sure they are, from one half to certain. When
# they say $p$, they are right with probability
#
# $$q = \tfrac{1}{2} + k\,(p - \tfrac{1}{2}) .$$
#
# The calibrated one has $k = 1$. The over-confident one has $k = 0.4$, and gives ranges of half the width.


# %%
def simulated_student(rng, skill, guesses=90):
    """Entries like those of `predictions.load()`; skill 1 is calibrated, less is over-confident."""
    entries = {}
    for k in range(guesses // 3):
        sure = int(rng.choice([50, 60, 70, 80, 90, 100]))
        right, pair = rng.random(2) < 0.5 + skill * (sure / 100 - 0.5)
        entries[f"choice {k}"] = dict(kind="choice", guess="A", truth="A" if right else "B", sure=sure)
        entries[f"ranking {k}"] = dict(kind="ranking", guess=["A", "B"], truth=["A", "B"] if pair else ["B", "A"])
        width = 1.2816 * (1 if skill == 1 else 0.5)  # 80 % of a normal distribution lie within 1.2816 s.d.
        entries[f"number {k}"] = dict(kind="number", guess=0.0, truth=rng.normal(), low=-width, high=width)
    return entries


skills = {"calibrated": 1, "over-confident": 0.4}
entries = {name: simulated_student(np.random.default_rng([seed, 1]), skill, 900) for name, skill in skills.items()}
tables = {name: predictions.calibration(student) for name, student in entries.items()}

# %%
lesson.predict(
    "coverage",
    "The over-confident student's ranges are half as wide as they should be. They should hold four truths of five. "
    "What share of the truths do they hold?",
    bounds=(0, 1),
)
lesson.predict(
    "half",
    "A third student always says 50 %, whatever the question. Whose Brier score is worse (higher): the over-confident "
    "student's, or the third one's?",
    "choice",
    ["over-confident", "always 50 %"],
)


# %%
def plot_calibration(tables):
    """Hit rate against stated confidence, one line a student; the diagonal is calibration."""
    fig, ax = plt.subplots(figsize=(plots.WIDTH, 3.6))
    ax.plot([0.5, 1], [0.5, 1], color="0.4", ls=":", label="calibrated exactly")
    for k, (name, table) in enumerate(tables.items()):
        rows = table[table["measure"] == "hit rate by confidence"]
        error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        x = rows["stated"].astype(float) + 0.004 * k
        ax.errorbar(x, rows["value"], error, fmt=plots.MARKERS[k] + "-", color=plots.PALETTE[k], label=name)
    ax.set(xlabel="stated confidence", ylabel="share right, 95 % interval", xlim=(0.47, 1.03), ylim=(0, 1.03))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))  # beside it: it would hide points
    fig.tight_layout()


plot_calibration({f"simulated: {name}": table for name, table in tables.items()})
gap = {}
for name, table in tables.items():
    rows = table[table["measure"] == "hit rate by confidence"]
    gap[name] = float((rows["stated"] - rows["value"]).iloc[-1])
lesson.figure(
    "Share of right answers against stated confidence for two simulated students, with the diagonal of exact "
    "calibration as baseline. Where they are certain, the calibrated one lies {good:.2f} below it, the "
    "over-confident one {bad:.2f}.",
    good=gap["calibrated"],
    bad=gap["over-confident"],
)

# %% [markdown]
# Read it from left to right. The more certain the over-confident student is, the further the line falls below the
# diagonal. This is not ignorance: this student is right more often than a coin. The stated confidence is what is wrong.
#
# ## The Brier score
#
# One number for both, knowledge and honesty, is the mean of the squared distance between the stated probability and
# what came:
#
# $$\text{Brier} = \frac{1}{n}\sum_i (p_i - o_i)^2, \qquad o_i = 1 \text{ if right, else } 0 .$$
#
# Lower is better. It is a *proper* score: you expect the best one by saying what you believe, not more and not less.
# The trivial baseline says one half always, and gets $0.25$ whatever happens.


# %%
def measure(table, name):
    """One value of a calibration table."""
    return float(table.loc[table["measure"] == name, "value"].iloc[0])


brier = {name: measure(table, "Brier score") for name, table in tables.items()} | {"always 50 %": 0.25}
inside = {name: measure(table, "inside the range") for name, table in tables.items()}
pd.DataFrame({"Brier score": brier, "truths inside the range": inside}).style.format("{:.3f}", na_rep="")

# %%
lesson.reveal("coverage", inside["over-confident"])
lesson.reveal("half", max(["over-confident", "always 50 %"], key=brier.get))
lesson.say(
    "The over-confident student scores {bad:.3f}, the calibrated one {good:.3f}, a coin that knows it is one "
    "{coin:.2f}. The ranges hold {inside:.0f} % of the truths.",
    bad=brier["over-confident"],
    good=brier["calibrated"],
    coin=brier["always 50 %"],
    inside=100 * inside["over-confident"],
)

# %% [markdown]
# ## How many guesses does it take?
#
# Nine hundred guesses are more than the course asks for. We simulate classes of students who guess ninety times each,
# a third of it choices, with several seeds, and look at the difference between stated confidence and hit rate.

# %%
students = {"quick": 30, "standard": 100, "full": 400}[profile]
seeds = range(seed, seed + {"quick": 2, "standard": 3, "full": 5}[profile])


def class_of(skill, one_seed, count=students, guesses=90):
    """Tables of `count` simulated students."""
    draws = np.random.default_rng([one_seed, 2]).spawn(count)
    return [predictions.calibration(simulated_student(rng, skill, guesses)) for rng in draws]


def excess(table):
    """Stated confidence minus hit rate."""
    row = table[table["measure"] == "hit rate"].iloc[0]
    return float(row["stated"] - row["value"])


classes = {name: [class_of(skill, s) for s in seeds] for name, skill in skills.items()}
over = {name: [np.array([excess(table) for table in one]) for one in runs] for name, runs in classes.items()}

# %%
fig, ax = plt.subplots(figsize=(plots.WIDTH * 0.7, 3))
for k, (name, runs) in enumerate(over.items()):
    values = np.concatenate(runs)
    ax.hist(values, bins=np.linspace(-0.3, 0.6, 19), density=True, histtype="step", color=plots.PALETTE[k], label=name)
ax.set(xlabel="stated confidence minus hit rate", ylabel="density")
ax.legend(frameon=True)
fig.tight_layout()
ax.axvline(0, color="0.3", ls=":")
overlap = float(np.mean(np.concatenate(over["over-confident"]) < np.quantile(np.concatenate(over["calibrated"]), 0.95)))
lesson.figure(
    "Histograms of stated confidence minus hit rate for simulated students. The calibrated ones lie around zero; "
    "{overlap:.0f} % of the over-confident ones lie where 95 % of the calibrated ones lie, too.",
    overlap=100 * overlap,
)

# %%
lesson.say(
    "With 30 choices each, {overlap:.0f} % of the over-confident students cannot be told from calibrated ones. One "
    "student's figure is a hint, not a verdict; that is why it has intervals.",
    overlap=100 * overlap,
)

# %% [markdown]
# ### What the run claims

# %%
gap = bootstrap([Mean(one) for one in over["over-confident"]], students, seed=seed)
lesson.claim_interval(
    "over-confidence shows",
    "Over-confident simulated students state more than they hit (stated confidence minus hit rate).",
    gap,
    above=0,
    over="simulated students",
)
score = {
    name: [np.array([measure(table, "Brier score") for table in one]) for one in runs] for name, runs in classes.items()
}
gap = bootstrap([Mean(one - 0.25) for one in score["over-confident"]], students, seed=seed)
lesson.claim_interval(
    "over-confidence costs more than knowledge earns",
    "Over-confident simulated students, who know something, have a worse Brier score than always saying 50 % "
    "(difference).",
    gap,
    above=0,
    over="simulated students",
)
held = [np.array([measure(table, "inside the range") for table in one]) for one in classes["over-confident"]]
lesson.claim_interval(
    "narrow ranges miss",
    "Ranges of half the width hold fewer than 80 % of the truths (share).",
    bootstrap([Mean(one) for one in held], students, seed=seed),
    below=0.8,
    over="simulated students",
)

# %% [markdown]
# ## You
#
# Now your own file. If it holds no guess with a truth beside it, a simulated over-confident student stands in, and the
# title says so.

# %%
own = {key: e for key, e in predictions.load().items() if e.get("guess") is not None and e.get("truth") is not None}
own = {key: e for key, e in own.items() if not key.startswith("5.5/")}  # this lesson's own would change as it runs
simulated = not own
mine = simulated_student(np.random.default_rng([seed, 3]), 0.4) if simulated else own
who = "SIMULATED student: no guess of yours is stored" if simulated else "you"
table = predictions.calibration(mine)
table.style.format(precision=2, na_rep="").hide(axis="index").set_caption(who)

# %%
plot_calibration({who.replace(": ", ":\n"): table})
lesson.figure(
    "Share of right answers against stated confidence for: {who}; {count} guesses in all.", who=who, count=len(mine)
)
lesson.say(
    "{count} guesses with a known truth ({who}). {few}",
    count=len(mine),
    who=who,
    few="Rows marked *few* rest on fewer than ten: too little to judge anybody." if table["few"].any() else "",
)


# %%
def surprise(entry):
    """From 0, as expected, to 1 and more: what was stated against what came."""
    if entry.get("kind") == "choice":
        stated = (entry.get("sure") or 75) / 100  # nothing said: as if three quarters
        return stated if entry["guess"] != entry["truth"] else 1 - stated
    if entry.get("kind") == "ranking":
        right, pairs = predictions.concordant_pairs(entry["guess"], entry["truth"])
        return 1 - right / pairs
    return min(abs(entry["guess"] - entry["truth"]) / max(abs(entry["truth"]), 1e-9), 1)


ranked = sorted(mine.items(), key=lambda item: -surprise(item[1]))[:5]
rows = [
    {"question": e.get("question", key), "guess": e["guess"], "truth": e["truth"], "how sure": e.get("sure")}
    for key, e in ranked
]
pd.DataFrame(rows).style.format(precision=2, na_rep="").hide(axis="index").set_caption(f"Largest surprises: {who}")

# %% [markdown]
# A surprise is where your picture of these methods was wrong. Go back to that lesson before you trust the picture
# again. And look at how sure you were: detectors have the same disease. A likelihood or a softmax is a stated
# confidence, too, and few papers check it.
#
# ## Exercises


# %%
def check_brier(answer):
    """A function of stated probabilities and hits."""
    p, hit = np.array([0.9, 0.6, 1.0, 0.5]), np.array([True, False, True, True])
    got = float(answer(p, hit))
    right = float(((p - hit) ** 2).mean())
    wrong = {
        float(((p - hit) ** 2).sum()): "That is the sum; the Brier score is the mean.",
        float(np.abs(p - hit).mean()): "You took absolute distances. They reward exaggeration; square them.",
        float(np.sqrt(right)): "You took the root at the end; the Brier score does without.",
        float((hit.mean() - p.mean()) ** 2): "You compared the means. Misses in both directions cancel there.",
        float(hit.mean()): "That is the hit rate: it does not look at what was stated.",
    }
    if np.isclose(got, right):
        return None
    near = [message for value, message in wrong.items() if np.isclose(got, value)]
    return near[0] if near else "For each guess: (stated probability minus 1 or 0) squared; then the mean."


lesson.card(
    "5.5.1",
    "The Brier score",
    difficulty=1,
    minutes=5,
    task="Write `brier(p, hit)` for arrays of stated probabilities and of True or False. Put the function into "
    "`answer`.",
    hints=["`hit` counts as 1 or 0.", "A distance for each guess first, the mean last."],
    solution="`answer = lambda p, hit: ((p - hit) ** 2).mean()`",
    check=check_brier,
)

# %%
answer = ...
lesson.check("5.5.1", answer)


# %%
def check_honest(answer):
    """What to state if you believe 0.7, to expect the lowest Brier score."""
    if np.isclose(answer, 1):
        return "Certainty costs most when you are wrong, and you believe that you will be in three of ten cases."
    if np.isclose(answer, 0.5):
        return "One half is safe but gives away what you know."
    if np.isclose(answer, 70) or answer > 1:
        return "State a probability between 0 and 1, not a percentage."
    if np.isclose(answer, 0.3):
        return "That is the probability of being wrong."
    return None if np.isclose(answer, 0.7, atol=0.005) else "Minimise 0.7 (p - 1)² + 0.3 p² over p."


lesson.card(
    "5.5.2",
    "Does it pay to exaggerate?",
    difficulty=2,
    minutes=10,
    task="You believe that you are right with probability 0.7. Which probability should you *state* to expect the "
    "lowest Brier score? Put it into `answer`.",
    hints=["Write the expected score for a stated p.", "Its derivative is 2 · 0.7 (p - 1) + 2 · 0.3 p."],
    solution="`0.7`: the derivative is zero at your belief. That is what *proper* means: honesty pays.",
    check=check_honest,
)

# %%
answer = ...
lesson.check("5.5.2", answer)

# %% [markdown]
# ## What we claimed

# %%
lesson.summary(
    "Calibrated means: right as often as stated.",
    "The Brier score rewards knowledge and honesty together; exaggeration can cost more than knowing earns.",
    "Few guesses prove little: read the intervals before you judge a student, or a model.",
)

# %% [markdown]
# ## References
#
# - Brier G. Verification of forecasts expressed in terms of probability. *Monthly Weather Review* 78 (1950).
# - Gneiting T, Raftery A. Strictly proper scoring rules, prediction, and estimation. *Journal of the American
#   Statistical Association* 102 (2007).
# - Wilson E. Probable inference, the law of succession, and statistical inference. *Journal of the American Statistical
#   Association* 22 (1927): the intervals.
