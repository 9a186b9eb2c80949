"""
right: true
way: cross-entropy for the surprise, the course's threshold, one pass over a whole healed grid at each place
"""


# %% a4-nearest
def nearest(z, codebook):
    return ((z.unsqueeze(1) - codebook[None, :, :, None, None]) ** 2).sum(2).argmin(1)


# %% a4-shift
def inputs_and_targets(tokens, start):
    first = torch.full_like(tokens[:, :1], start)
    return torch.cat([first, tokens], 1)[:, :-1], tokens.clone()


# %% a4-surprise
@torch.inference_mode()
def surprise(network, tokens):
    inputs, target = inputs_and_targets(tokens, network.codes)
    return F.cross_entropy(network(inputs).transpose(1, 2), target, reduction="none").clone()


# %% a4-mark
def mark(healthy, healthy_brain, new, new_brain, share):
    from course_lib.metrics.thresholds import threshold_at_fpr

    return np.logical_and(new >= threshold_at_fpr(healthy[healthy_brain], share), new_brain)


# %% a4-heal
@torch.no_grad()
def heal(network, tokens, marked):
    healed = tokens.clone()
    for t in range(tokens.shape[1]):
        inputs, _ = inputs_and_targets(healed, network.codes)
        best = network(inputs)[:, t].argmax(-1)
        healed[marked[:, t], t] = best[marked[:, t]]
    return healed
