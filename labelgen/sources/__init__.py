"""Photos and their truth, as the data sets lay them out. `choose.open_source` opens the one that a config names."""
