"""
misconception: PPV from sensitivity and specificity alone
fails: [a1-ppv-test]
says: "You left out the prevalence"
"""


# %% a1-ppv
def ppv(sensitivity, specificity, prevalence):
    return sensitivity / (sensitivity + 1 - specificity)
