"""Measurements that are run by hand: ratios within one run, never seconds that a test asserts."""
