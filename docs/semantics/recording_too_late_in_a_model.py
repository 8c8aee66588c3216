"""The same in a model: tokens are taken back and the next one is written again; its logits must be as before."""

import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
model = MistralForCausalLM(MistralConfig(**shape, vocab_size=32, num_hidden_layers=1, sliding_window=4)).eval()
prompt = torch.tensor([[5, 9, 2, 7]])
for when in ("before the prompt", "after the prompt"):
    for removed in (1, 2):
        cache = DynamicCache(config=model.config)
        if when == "before the prompt":
            cache.activate_past_recording()
        with torch.no_grad():
            expected = model(prompt, past_key_values=cache).logits[:, -removed]
            cache.activate_past_recording()
            cache.crop(-removed)
            try:
                logits = model(prompt[:, 4 - removed : 5 - removed], past_key_values=cache).logits[:, 0]
                words = "the same logits" if torch.allclose(logits, expected, atol=1e-4) else "other logits, no error"
            except RuntimeError as error:
                words = f"RuntimeError: {error}"
        print(f"recording from {when}, {removed} taken back: {words}")
