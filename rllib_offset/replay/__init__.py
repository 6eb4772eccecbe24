"""Replays in the slow simulator: requests, the worker that answers them, the coordinator between.

Import the modules themselves; this file stays empty so that a worker starts fast.
"""
