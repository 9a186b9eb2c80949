"""
misconception: a rule about brightness is called a detector that has learned
fails: [a5-training-test]
says: "it learns nothing of healthy people"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, centre=0.5):
        super().__init__()
        self.image_shape, self.centre = image_shape, centre

    def fit(self, images):
        return self

    @torch.no_grad()
    def anomaly_map(self, images):
        return ((images - self.centre).abs() * (images > 0))[:, 0]
