"""Assignments: one source each; copies for students, lecturers and readers; a grader that trusts no submission."""
