"""Device and interconnect models: round numbers of a generic 90 nm process, no foundry's.

BSIM4 cards; stress parameters (``saref``, ``kvth0``, ``ku0``) act only where a layout gives its
instances the distances ``sa`` and ``sb``.
"""

__all__ = [
    "CONTACT_OHM",
    "COUPLING_F_PER_M",
    "DIFFUSION_M",
    "FINGER_PITCH_M",
    "FRINGE_F_PER_M",
    "METAL_F_PER_M2",
    "METAL_OHM_PER_SQUARE",
    "MODEL_CARDS",
    "POLY_OHM_PER_SQUARE",
    "ROUTING_DETOUR",
    "WIRE_WIDTH_M",
]

_COMMON = """\
+ eta0=0.02 dsub=0.5 dvt0=1 dvt1=1 pdiblc1=0.1 pdiblc2=0.003 drout=0.5 pdits=0.01
+ lpe0=0 lpeb=0 nsd=1e20 xj=6e-8 k1=0.4 k2=0.01 ua=1e-10 ub=1e-18 voff=-0.1
+ cgso=2.5e-10 cgdo=2.5e-10 cgbo=0 cjs=1e-3 cjd=1e-3 cjsws=1e-10 cjswd=1e-10
+ cjswgs=2e-10 cjswgd=2e-10 mjs=0.5 mjd=0.5 rsh=8
+ capmod=2 mobmod=0 rgatemod=0 rbodymod=0 permod=1 trnqsmod=0 acnqsmod=0
+ saref=1e-6 sbref=1e-6 kvth0=6e-9 wlod=0 llodku0=0 tku0=0"""

MODEL_CARDS = tuple(
    f"""\
.model nch nmos level=14 version=4.5 toxe=2.2e-9 toxm=2.2e-9 vth0=0.35 u0=0.030 vsat=1.1e5
+ nfactor=1.3 pclm=0.6 ndep=2e17 rdsw=100 ku0=-3e-8
{_COMMON}
.model pch pmos level=14 version=4.5 toxe=2.3e-9 toxm=2.3e-9 vth0=-0.35 u0=0.010 vsat=9e4
+ nfactor=1.4 pclm=0.8 ndep=1.5e17 rdsw=200 ku0=2e-8
{_COMMON}""".split("\n")
)

METAL_OHM_PER_SQUARE = 0.2
METAL_F_PER_M2 = 1e-4  # area, to the substrate
FRINGE_F_PER_M = 8e-11
COUPLING_F_PER_M = 9e-11  # between neighbours on the same tracks
WIRE_WIDTH_M = 0.15e-6
ROUTING_DETOUR = 2.0  # guard rings, dummies and matching make wires longer
CONTACT_OHM = 20.0  # per finger
POLY_OHM_PER_SQUARE = 12.0
FINGER_PITCH_M = 0.35e-6
DIFFUSION_M = 0.2e-6
