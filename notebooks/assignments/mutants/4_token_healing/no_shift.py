"""
misconception: the transformer sees the token that it is to name
fails: [a4-shift-test]
says: "Place t sees the token that it is to name"
"""


# %% a4-shift
def inputs_and_targets(tokens, start):
    return tokens, tokens
