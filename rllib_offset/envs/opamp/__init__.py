"""Two-stage operational amplifier: hand equations, schematic and extracted layout in ngspice.

==================================  =====================================================
id                                  what answers
==================================  =====================================================
``rllib_offset/OpAmpHand-v0``       F0, hand equations in NumPy
``rllib_offset/OpAmpSchematic-v0``  F1, eight transistors with ideal wires in ngspice
``rllib_offset/OpAmpExtracted-v0``  F2, a synthetic layout with its parasitics in ngspice
==================================  =====================================================

Files from the ground up: ``design`` (what is chosen), ``cards``, ``netlists`` and ``layout`` (what
is simulated), ``hand`` (what is estimated), ``engine`` with ``library_engine`` and
``subprocess_engine`` (who simulates), ``measurement``, ``simulators`` (a design in, specs out),
``task`` (specs in, observation and reward out), ``environment`` and ``vector_environment``.
"""
