"""The verbs of the ``rllib`` command, one module each; ``rllib_offset.cli`` registers them.

A module imports Ray, torch and matplotlib inside its functions only, so that ``--help`` answers at
once.
"""
