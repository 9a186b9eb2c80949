"""
misconception: each map is stretched to 0 .. 1
fails: [a5-rows-test]
says: "stretched to 0 .. 1 by min-max"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, floor=0.05):
        super().__init__()
        self.image_shape, self.floor = image_shape, floor
        self.register_buffer("mean", torch.zeros(1, 1, *image_shape))
        self.register_buffer("sd", torch.ones(1, 1, *image_shape))

    def fit(self, images):
        self.mean, self.sd = images.mean(0, keepdim=True), images.std(0, keepdim=True) + self.floor
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        maps = ((images - self.mean).abs() / self.sd * (images > 0))[:, 0]
        return maps / maps.amax((1, 2), keepdim=True)
