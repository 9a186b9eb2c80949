"""
misconception: the map is a likelihood, high where healthy
fails: [a5-quality-test]
says: "Is a high map anomalous?"
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
        z = (images - self.mean) / self.sd
        return (torch.exp(-0.5 * z.square()) * (images > 0))[:, 0]
