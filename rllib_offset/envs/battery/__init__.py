"""Lithium-ion cell in PyBaMM: single particles against the whole electrolyte.

=============================  ==========================================================
id                             what answers
=============================  ==========================================================
``rllib_offset/CellSPM-v0``    single-particle model: the electrolyte never runs dry
``rllib_offset/CellDFN-v0``    Doyle-Fuller-Newman model: it does, where pores are narrow
=============================  ==========================================================

``cell`` takes a design and returns what a discharge delivers, ``environment`` the task around it.
"""
