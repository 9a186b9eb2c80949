"""Scans, healthy anatomy, pathology, and the slices made from them."""
