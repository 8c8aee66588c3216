"""Stock `generate()` inside a fixed pool: the prompt is several times longer than what stays on the device.

Run: python examples/01_generate.py [PROMPT_TOKENS]
"""

import sys

import torch

from tenure.models import load, text_ids
from tenure.runtime.hf import PooledCache


def main(prompt_tokens: int = 1500) -> None:
    """Read `prompt_tokens` of the Python language reference through a pool of 512 rows, and continue."""
    loaded = load()
    model, tokenizer = loaded.model, loaded.tokenizer
    question = tokenizer.encode("\n\nIn short, Python is a", add_special_tokens=False)
    prompt = torch.tensor([text_ids(tokenizer, prompt_tokens) + question])

    cache = PooledCache(model.config, pool=512)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        past_key_values=cache,
        # A prompt longer than the pool is read in parts; each part fits beside what may not leave.
        prefill_chunk_size=cache.max_append_rows,
        max_new_tokens=24,
        do_sample=False,
    )

    print(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))
    pager = cache.statistics().pager
    print(
        f"{pager.logical_rows} rows in the context, {pager.resident_rows} of at most {pager.capacity_rows} on the device"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
