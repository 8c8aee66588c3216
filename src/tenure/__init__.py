"""Tenure governs which KV-cache rows of an LLM stay in accelerator memory, and on what terms.

Importing this package has no side effects and does not import torch. The parts:
`tenure.kv`, `tenure.claims`, `tenure.arbiter`, `tenure.pool`, `tenure.policy`, `tenure.runtime`,
`tenure.conformance`, `tenure.models`, `tenure.bench`, `tenure.cli`. See ARCHITECTURE.md.
"""

__version__ = "0.1.0"
