"""How good, and where not: figures of a split, one photo step by step, the page. Imports inference and training."""
