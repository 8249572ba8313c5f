"""Measure an erasure: what is still drawn, what was kept, what an attacker brings back.

And the report of it.
"""
