"""Erasing in closed form."""
