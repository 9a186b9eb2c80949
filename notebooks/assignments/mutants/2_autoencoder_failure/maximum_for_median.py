"""
misconception: a maximum filter instead of the median
fails: [a2-clean-test]
says: "A maximum instead of the median"
"""


# %% a2-clean
def clean(maps, brains):
    out = []
    for m, b in zip(maps, brains):
        inner = ndimage.binary_erosion(b, np.ones((3, 3)), iterations=2)
        out.append(ndimage.maximum_filter(np.where(inner, m, m[b].min()), 3))
    return np.stack(out)
