"""Runtimes that are broken on purpose, one way each: what the examiner must catch."""
