"""
right: true
way: the smoothed z-score at each place, in closed form; the library's bootstrap
"""


# %% a5-detector
class MyDetector(Detector):
    """The distance of the local mean from the healthy one at this place, in healthy standard deviations."""

    def __init__(self, image_shape, window=3, floor=0.05):
        super().__init__()
        self.image_shape, self.window, self.floor = image_shape, window, floor
        for name in ("mean", "sd"):
            self.register_buffer(name, torch.ones(1, 1, *image_shape))

    def local(self, images):
        brain = (images > 0).to(images.dtype)
        weight = F.avg_pool2d(brain, self.window, 1, self.window // 2).clamp(min=1e-6)
        return F.avg_pool2d(images, self.window, 1, self.window // 2) / weight * brain, brain

    def fit(self, images):
        values, brain = self.local(images)
        count = brain.sum(0, keepdim=True).clamp(min=1)
        self.mean = values.sum(0, keepdim=True) / count
        self.sd = (((values - self.mean) ** 2 * brain).sum(0, keepdim=True) / count).sqrt() + self.floor
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        values, brain = self.local(images)
        return ((values - self.mean).abs() / self.sd * brain)[:, 0]


# %% a5-paired
def paired_gap(first, second, masks, brains, people):
    from course_lib.metrics.intervals import bootstrap, difference
    from course_lib.metrics.statistics import PooledRanking

    own = [np.asarray(people) == name for name in sorted(set(people))]
    truth = [masks[rows][brains[rows]] for rows in own]
    sides = [PooledRanking([maps[rows][brains[rows]] for rows in own], truth).ap for maps in (first, second)]
    found = bootstrap(difference(*sides), len(own))
    return found.value, found.low, found.high
