"""
misconception: a component next to a lesion counts as a hit, lesions are dilated by a pixel
fails: [a1-hits-test]
says: "A component beside a lesion, without a common pixel, is a false alarm"
"""


# %% a1-hits
def lesion_hits(marked, truth, brain):
    from scipy import ndimage

    square, found, lesions, alarms = np.ones((3, 3)), 0, 0, 0
    for m, t in zip(marked & brain, truth & brain):
        pieces, count = ndimage.label(t, square)
        found, lesions = found + len(set(pieces[m]) - {0}), lesions + count
        marks, count = ndimage.label(m, square)
        alarms += count - len(set(marks[ndimage.binary_dilation(t, square)]) - {0})
    return found, lesions, alarms
