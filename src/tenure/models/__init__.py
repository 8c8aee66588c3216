"""Where a model comes from: hub id, folder, GGUF file, or the embedded default.

Importing this package imports neither torch nor transformers; its functions do when they are called.
"""

from tenure.models.texts import long_text, text_ids
from tenure.models.tiny import FAMILIES, tiny_model

__all__ = ["FAMILIES", "long_text", "text_ids", "tiny_model"]
