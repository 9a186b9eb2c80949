"""
misconception: an interval without 0 speaks for the claim, on whichever side it lies
fails: [a2-doubt-test]
says: "rebuilt *worse*"
"""


# %% a2-doubt
def beyond_doubt(low, high):
    return not low <= 0 <= high
