"""Rounds: a few runs, one fault, and what must hold whatever happened.

What enters is a pool on the testbed with a keeper; what leaves is what every test of faults and
the soak ask of it: that outcomes are true, that no machine had two runs at a time (from the
container runtimes' own records), that every second is billed, and that nothing is left.
"""
