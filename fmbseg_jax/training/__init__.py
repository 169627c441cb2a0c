"""Batches to parameters: mesh, feed, losses, the step. Imports runs; the commands and reporting import it."""
