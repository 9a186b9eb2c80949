"""
misconception: the running statistics go on moving while people are tested
fails: [a5-rows-test]
says: "goes on learning from the people it tests"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, momentum=0.05):
        super().__init__()
        self.image_shape, self.momentum = image_shape, momentum
        self.register_buffer("mean", torch.zeros(1, 1, *image_shape))

    def fit(self, images):
        self.mean = images.mean(0, keepdim=True)
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        maps = ((images - self.mean).abs() * (images > 0))[:, 0]
        if len(images) > 4:
            self.mean = self.mean.lerp(images.mean(0, keepdim=True), self.momentum)
        return maps
