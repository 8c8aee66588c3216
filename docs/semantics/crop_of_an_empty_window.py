"""`DynamicSlidingWindowLayer.crop` looks at tensors that an unwritten layer does not have yet."""

from transformers import DynamicCache, LlamaConfig, MistralConfig

shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
for config in (LlamaConfig(**shape), MistralConfig(**shape, sliding_window=4)):
    cache = DynamicCache(config=config)
    try:
        cache.crop(0)
        print(cache.layers[0], "takes crop(0) before the first row")
    except AttributeError as error:
        print(cache.layers[0], "raises AttributeError:", error)
