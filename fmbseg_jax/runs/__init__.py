"""What a RUN is and who shares it: hosts, settings, head and dense map, folder or url, checkpoints.

Imports of labelgen what knows no network; every other room of fmbseg_jax imports it.
"""
