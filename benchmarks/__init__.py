"""How fast, and in how much memory; benchmarks/README.md has what was measured."""
