"""
misconception: an argument of the constructor is used and not kept
fails: [a5-settings-test]
says: "keep each argument under its own name"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, window=3):
        super().__init__()
        self.image_shape = image_shape
        self.pool = nn.AvgPool2d(window, 1, window // 2)
        self.register_buffer("mean", torch.zeros(1, 1, *image_shape))

    def fit(self, images):
        self.mean = self.pool(images).mean(0, keepdim=True)
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        return ((self.pool(images) - self.mean).abs() * (images > 0))[:, 0]
