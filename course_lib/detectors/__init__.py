"""One file per detector; `base` holds the contract."""
