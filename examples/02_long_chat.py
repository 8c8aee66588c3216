"""A long conversation: facts from its start are asked for after more text than the device holds, then from a file.

Run: python examples/02_long_chat.py [TOKENS_IN_BETWEEN]
"""

import sys
import tempfile
from pathlib import Path

from tenure.kv.residency import Residence
from tenure.models import load, text_ids
from tenure.runtime.hf import Session


def main(tokens_in_between: int = 1100) -> None:
    """Tell, read, ask, save, load, and ask again, in a pool of 512 rows."""
    loaded = load()
    session = Session(loaded.model, loaded.tokenizer, pool=512, identity=loaded.identity)

    session.append("Anna's dog is called Biscuit. Anna's cat is called Pepper.\n\n")
    session.append(text_ids(loaded.tokenizer, tokens_in_between))
    complete(session, "\n\nAnna's dog is called")

    places = session.where()
    on_host = sum(place.residence is Residence.HOST_BACKED for place in places)
    print(f"{session.logical_rows} tokens in {len(places)} blocks, {on_host} of them on the host")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.tenure"
        print(f"saved: {session.save(path) / 2**20:.1f} MiB")
        restored = Session.load(path, loaded.model, loaded.tokenizer, identity=loaded.identity)
    # The same rows at the same slots: from here on both say the same, bit for bit.
    replies = [complete(each, "\n\nAnna's cat is called") for each in (session, restored)]
    print("the restored session agrees:", replies[0] == replies[1])

    for piece in session.say("What is the language reference about?", max_new_tokens=24):
        print(piece, end="", flush=True)
    print()


def complete(session: Session, text: str) -> str:
    """Append a text and print what the model continues it with."""
    session.append(text)
    reply = "".join(session.reply(max_new_tokens=3)).strip()
    print(f"{text.strip()} {reply}")
    return reply


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
