"""Every conversion factor, once.

Inside joulescale all quantities are SI: seconds, joules, watts, bytes, FLOPs, fractions. These factors
are used where numbers enter from a sensor or leave towards a person, and nowhere else. All are exact.
"""

J_PER_KWH = 3_600_000.0
S_PER_YEAR = 365.25 * 86_400.0
J_PER_MILLIJOULE = 1e-3
J_PER_MICROJOULE = 1e-6
W_PER_MILLIWATT = 1e-3
HZ_PER_MEGAHERTZ = 1e6
G_PER_KG = 1000.0
BYTES_PER_KIB = 1024
BYTES_PER_MIB = 1024**2
FRACTION_PER_PERCENT = 0.01
