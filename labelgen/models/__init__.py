"""The frozen networks, and all the torch there is. Imports core, data and sources.

Other rooms import from here inside a function: labelling, training and evaluation start, and run, without torch.
"""
