"""
misconception: the rest of the brain has the background in it
fails: [a2-contrast-test]
says: "You counted the background in the rest"
"""


# %% a2-contrast
def contrast(maps, masks, brains, people):
    names, found = np.asarray(people), []
    for name in dict.fromkeys(people):
        m, t = maps[names == name], masks[names == name]
        if t.any():
            found.append(m[t].mean() / m[~t].mean())
    return found
