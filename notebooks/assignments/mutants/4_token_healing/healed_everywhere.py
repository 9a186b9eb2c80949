"""
misconception: all tokens are drawn anew, marked or not
fails: [a4-heal-test]
says: "healed everywhere"
"""


# %% a4-heal
@torch.no_grad()
def heal(network, tokens, marked):
    healed = tokens.clone()
    for t in range(tokens.shape[1]):
        healed[:, t] = network(F.pad(healed[:, :t], (1, 0), value=network.codes))[:, -1].argmax(-1)
    return healed
