"""A RUN, or the free labels of a DATA, inside the tools that people have open: a file a tool. Imports inference.

Each package is imported by the function that needs it; docs/tools.md says what to install and what to type.
"""
