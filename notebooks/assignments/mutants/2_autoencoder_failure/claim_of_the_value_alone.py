"""
misconception: the claim follows from the value alone, however wide its interval
fails: [a2-doubt-test]
says: "may not rest on the value alone"
"""


# %% a2-doubt
def beyond_doubt(low, high):
    return (low + high) / 2 < 0
