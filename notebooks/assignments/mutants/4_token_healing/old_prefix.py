"""
misconception: all marked tokens are drawn at once, given the lesion
fails: [a4-heal-test]
says: "You looked back at the old prefix"
"""


# %% a4-heal
@torch.no_grad()
def heal(network, tokens, marked):
    inputs, _ = inputs_and_targets(tokens, network.codes)
    return torch.where(marked, network(inputs).argmax(-1), tokens)
