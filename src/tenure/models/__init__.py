"""Where a model comes from: hub id, folder, GGUF file, or the embedded default.

Importing this package imports neither torch nor transformers; its functions do when they are called.
"""

from tenure.models.fingerprint import ModelIdentity
from tenure.models.loader import DEFAULT_NAME, LoadedModel, load
from tenure.models.texts import long_text, text_ids
from tenure.models.tiny import FAMILIES, tiny_model

__all__ = [
    "DEFAULT_NAME",
    "FAMILIES",
    "LoadedModel",
    "ModelIdentity",
    "load",
    "long_text",
    "text_ids",
    "tiny_model",
]
