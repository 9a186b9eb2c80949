"""Explorers: what answers at once when a slider moves. Each has three layers.

- `state`: plain Python and NumPy. It holds the settings and computes every number and picture from them.
- `view`: ipywidgets, thin. It puts a control's value into the state and shows what the state says.
- `figure`: the same thing as a matplotlib figure, for notebooks without a front end, GitHub and the book.

`explorer` holds what all views share, `driver` moves their controls without a browser, `pictures` paints and encodes.
"""
