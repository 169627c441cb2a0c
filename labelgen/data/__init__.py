"""DATA, written and read: the rows of a photo, shards and their index, what makes it complete, copies of urls.

The producer owns the format: whoever reads DATA imports its records and readers from here. Imports core.
"""
