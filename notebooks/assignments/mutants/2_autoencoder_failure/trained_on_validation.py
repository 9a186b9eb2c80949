"""
misconception: trains on validation people, on whom thresholds are set
fails: [a2-rows-test]
says: "You train on validation people"
"""


# %% a2-rows
def training_rows(split, family, lesion_px):
    return [k for k in range(len(split)) if split[k] != "test" and family[k] == "healthy"]
