"""Evidence and words to labels, and labels against truth: array work, no network and no file format of others.

Imports core, data and sources.
"""
