"""
misconception: the probability is returned, improbable tokens rank last
fails: [a4-surprise-test]
says: "That is the probability"
"""


# %% a4-surprise
@torch.no_grad()
def surprise(network, tokens):
    inputs, target = inputs_and_targets(tokens, network.codes)
    return network(inputs).softmax(-1).gather(-1, target[..., None])[..., 0]
