"""Measuring anomaly maps: exact curves, thresholds that say where they come from, lesions, intervals over subjects.

Three policies hold everywhere and are stated here only.

- **Region.** Pixels outside the brain never count. A rim that post-processing suppresses stays in the region.
- **Empty masks.** A Dice, a sensitivity or an average precision without a lesion is undefined: NaN, never 0 or 1.
  Subjects without a lesion never enter a mean of such numbers; they are reported apart, by their false positives.
- **One class.** Scores of one class alone cannot be ranked: every ranking number is NaN.

A score above or equal to the threshold is a detection, in every function.
"""
