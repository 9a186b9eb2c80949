"""
misconception: no brain mask on the map
fails: [a5-brain-test]
says: "There is anomaly outside the brain"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, window=3):
        super().__init__()
        self.image_shape, self.window = image_shape, window
        self.register_buffer("mean", torch.zeros(1, 1, *image_shape))
        self.register_buffer("sd", torch.ones(1, 1, *image_shape))

    def fit(self, images):
        images = F.avg_pool2d(images, self.window, 1, self.window // 2)
        self.mean, self.sd = images.mean(0, keepdim=True), images.std(0, keepdim=True) + 0.05
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        images = F.avg_pool2d(images, self.window, 1, self.window // 2)
        return ((images - self.mean).abs() / self.sd)[:, 0]
