"""
misconception: batch normalisation is in training mode when people are tested, its statistics follow them
fails: [a5-rows-test]
says: "goes on learning from the people it tests"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, width=32):
        super().__init__()
        self.image_shape, self.width = image_shape, width
        pixels = image_shape[0] * image_shape[1]
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, pixels)
        )

    def training_losses(self, images):
        return {"reconstruction": F.mse_loss(self.network(images).view_as(images), images)}

    @torch.no_grad()
    def anomaly_map(self, images):
        self.network.train(len(images) > 1)
        return ((images - self.network(images).view_as(images)).abs() * (images > 0))[:, 0]
