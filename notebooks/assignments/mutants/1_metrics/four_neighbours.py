"""
misconception: scipy's default neighbourhood, without the corners
fails: [a1-hits-test]
says: "corners touch too"
"""


# %% a1-hits
def lesion_hits(marked, truth, brain):
    from scipy import ndimage

    found = lesions = alarms = 0
    for m, t in zip(marked & brain, truth & brain):
        pieces, n = ndimage.label(t)
        marks, k = ndimage.label(m)
        found, lesions, alarms = (
            found + len(set(pieces[m]) - {0}),
            lesions + n,
            alarms + k - len(set(marks[t]) - {0}),
        )
    return found, lesions, alarms
