"""The smallest model, 784 → 200 → 20 and back, on a batch of random numbers: shapes, and the loss by hand."""

import torch
from torch import tensor

from vaekit import vae
from vaekit.config.schema import Part
from vaekit.objectives import elbo

torch.manual_seed(0)
model = vae((1, 28, 28), latent_dim=20, network=Part("mlp", {"widths": (200,)}))
x = torch.rand(16, 784).round().view(16, 1, 28, 28)  # 0/1 pixels, as a Bernoulli likelihood wants them

trace = model(x)  # encode to μ and σ, draw z = μ + σ · noise, decode
latent = trace.latents[0]
reconstruction, mu, sigma = trace.px.mean[0].flatten(1), latent.q.mean, latent.q.stddev
print("reconstruction", tuple(reconstruction.shape), " μ", tuple(mu.shape), " σ", tuple(sigma.shape))

# The loss in nats per image: cross-entropy summed over pixels, and the KL of two normals in closed form.
distortion = -(x.flatten(1) * reconstruction.log() + (1 - x.flatten(1)) * (1 - reconstruction).log()).sum(1).mean()
rate = 0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1).mean()
print(f"by hand {distortion + rate:.3f} nats, by vaekit {elbo()(trace, tensor(0)):.3f} nats")

elbo()(trace, tensor(0)).backward()
print("gradients reach all", sum(p.grad is not None for p in model.parameters()), "tensors of weights")
