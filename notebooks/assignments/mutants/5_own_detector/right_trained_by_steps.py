"""
right: true
way: an auto-encoder trained by gradient steps; its smoothed residual in units of the usual one at each place
"""


# %% a5-detector
class MyDetector(Detector):
    """The local residual of a narrow auto-encoder, over its running root mean square at the same place."""

    def __init__(self, image_shape, latent=24, window=3, momentum=0.05):
        super().__init__()
        self.image_shape, self.latent, self.window, self.momentum = image_shape, latent, window, momentum
        pixels = image_shape[0] * image_shape[1]
        self.down = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 128), nn.ReLU(), nn.Linear(128, latent))
        self.up = nn.Sequential(nn.Linear(latent, 128), nn.ReLU(), nn.Linear(128, pixels))
        self.register_buffer("usual", torch.full((1, 1, *image_shape), 0.01))

    def local(self, images):
        brain = (images > 0).to(images.dtype)
        residual = (images - self.up(self.down(images)).view_as(images)) * brain
        weight = F.avg_pool2d(brain, self.window, 1, self.window // 2).clamp(min=1e-6)
        return F.avg_pool2d(residual, self.window, 1, self.window // 2) / weight * brain, brain

    def training_losses(self, images):
        rebuilt = self.up(self.down(images)).view_as(images)
        with torch.no_grad():
            local, brain = self.local(images)
            mean = local.square().sum(0, keepdim=True) / brain.sum(0, keepdim=True).clamp(min=1)
            self.usual.lerp_(mean, self.momentum)
        return {"reconstruction": F.mse_loss(rebuilt, images)}

    @torch.no_grad()
    def anomaly_map(self, images):
        local, brain = self.local(images)
        spread = F.avg_pool2d(self.usual, 5, 1, 2).sqrt() + 0.02
        return (local.abs() / spread * brain)[:, 0]
