"""What everything stands on: errors, files, urls, progress, the frame of a command, config, ontology, geometry.

numpy alone; knows no row of DATA and no network. Imports no other room; whoever likes imports it.
"""
