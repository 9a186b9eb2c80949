"""
misconception: noise at test time, the map cannot be reproduced
fails: [a5-shape-test]
says: "your map is random"
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
        noisy = images + 0.05 * torch.randn_like(images)
        return ((noisy - self.mean).abs() / self.sd * (images > 0))[:, 0]
