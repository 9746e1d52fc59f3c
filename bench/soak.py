"""A soak: seeded random rounds of runs and faults on both kinds of pool of the testbed.

A round can be repeated by its seed: PIECEWORK_BENCH_SEED=N.
"""
