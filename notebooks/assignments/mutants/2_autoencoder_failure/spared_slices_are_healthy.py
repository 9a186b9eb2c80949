"""
misconception: a slice without a lesion of an ill person is taken for healthy
fails: [a2-rows-test]
says: "A slice without a lesion of an ill person"
"""


# %% a2-rows
def training_rows(split, family, lesion_px):
    return [k for k in range(len(split)) if split[k] == "train" and lesion_px[k] == 0]
