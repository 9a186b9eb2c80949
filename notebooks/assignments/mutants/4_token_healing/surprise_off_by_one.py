"""
misconception: the surprise is looked up one place too late, after the token was read
fails: [a4-surprise-test]
says: "off by one"
"""


# %% a4-surprise
def surprise(network, tokens):
    with torch.no_grad():
        log_p = network(tokens).log_softmax(-1)
    return -log_p.gather(-1, tokens[..., None])[..., 0].roll(-1, 1)
