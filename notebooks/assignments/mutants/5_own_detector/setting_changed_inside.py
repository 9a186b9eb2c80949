"""
misconception: the constructor stores a setting that it has changed
fails: [a5-settings-test]
says: "is not read back as it was given"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, half_window=1):
        super().__init__()
        self.image_shape, self.half_window = image_shape, 2 * half_window + 1
        self.register_buffer("mean", torch.zeros(1, 1, *image_shape))

    def fit(self, images):
        self.mean = F.avg_pool2d(images, self.half_window, 1, self.half_window // 2).mean(0, keepdim=True)
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        smooth = F.avg_pool2d(images, self.half_window, 1, self.half_window // 2)
        return ((smooth - self.mean).abs() * (images > 0))[:, 0]
