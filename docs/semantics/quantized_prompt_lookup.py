"""What it does to a user: prompt lookup decoding takes tokens back, and fails on a quantized cache."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=32, num_hidden_layers=2)).eval()
prompt = torch.tensor([[5, 9, 2, 7, 5, 9, 2, 7]])
common = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
for backend in (None, "fp8"):
    for lookup in (None, 3):
        options = {"cache_implementation": "quantized", "cache_config": {"backend": backend}} if backend else {}
        try:
            tokens = model.generate(prompt, prompt_lookup_num_tokens=lookup, **common, **options)
            words = f"{tokens.shape[1] - prompt.shape[1]} tokens"
        except IndexError as error:
            words = f"IndexError: {error}"
        print(f"quantized by {backend}, prompt lookup of {lookup}: {words}")
