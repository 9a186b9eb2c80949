"""
misconception: a raw residual is handed in without a look at the baseline
fails: [a5-quality-test]
says: "the positional Gaussian"
"""


# %% a5-detector
class MyDetector(Detector):
    def __init__(self, image_shape, latent=8):
        super().__init__()
        self.image_shape, self.latent = image_shape, latent
        pixels = image_shape[0] * image_shape[1]
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, latent), nn.Linear(latent, pixels))

    def training_losses(self, images):
        return {"reconstruction": F.mse_loss(self.network(images).view_as(images), images)}

    @torch.no_grad()
    def anomaly_map(self, images):
        return ((images - self.network(images).view_as(images)).abs() * (images > 0))[:, 0]
