"""The certificate: `verify` checks an answer by the conditions of optimality, and trusts nothing a solver computed.

`verify` asks in this order: are the matches edges of the problem (`edges`), do they keep the limits, and are prices due
only where limits are reached (`limits`), does no refused edge score more than its prices (`verify` itself). Where
comparing scores decides, `comparisons` needs no sum; where float64 held all sums, `last_bits` needs no tolerance. Rough
scores are read by `open_edges`.
"""

from allocation.certificate.verify import Certificate, verify

__all__ = ["Certificate", "verify"]
