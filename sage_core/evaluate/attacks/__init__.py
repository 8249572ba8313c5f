"""Attacks on an erased model, one file each.

They bring the concept back, so far as the erasure left it in the model. table.py names them all.
"""
