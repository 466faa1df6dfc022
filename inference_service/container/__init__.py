"""What a container runs: settings from its environment, checks that name the fix, nodes that are started again.

Imports neither DDS nor numpy: this process stays beside the nodes for as long as they run.
"""
