"""Photos and truth of others, as their archives unpack: each a `Source` that lists photos and loads one.

`registry.open_source` opens what a config names; the rest is for it. Imports core and data.
"""
