"""Encode and label over all photos: whose share, which shard, resumed; here or on a cluster.

Imports all other rooms of labelgen; the commands import it.
"""
