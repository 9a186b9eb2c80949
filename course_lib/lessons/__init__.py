"""Lessons: built from their sources, run by papermill, rendered."""
