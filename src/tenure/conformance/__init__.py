"""The examiner: grades any runtime by its events. Imports vocabulary only, never what it grades."""
