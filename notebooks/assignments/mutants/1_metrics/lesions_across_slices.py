"""
misconception: components are joined across slices that are millimetres apart
fails: [a1-hits-test]
says: "what touches from slice to slice"
"""


# %% a1-hits
def lesion_hits(marked, truth, brain):
    from scipy import ndimage

    marked, truth = marked & brain, truth & brain
    pieces, lesions = ndimage.label(truth, np.ones((3, 3, 3)))
    marks, count = ndimage.label(marked, np.ones((3, 3, 3)))
    return len(set(pieces[marked]) - {0}), lesions, count - len(set(marks[truth]) - {0})
