# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that copies: it goes on with the sentence that the prompt repeats.

Every norm's weight but the last is zero, so each layer adds nothing and the last hidden state is
the last token's embedding; the head's row of each token of the sentence is the embedding of the
token before it. What is read and multiplied for a token is what it was, and greedy decoding says
the sentence over and over: the best that guesses taken from the text can meet."""
import json
import os
import struct

EMBEDDING = "model.language_model.embed_tokens.weight"
LAST_NORM = "model.language_model.norm.weight"
CHUNK_BYTES = 8 << 20


def read_header(file):
    size = struct.unpack("<Q", file.read(8))[0]
    return json.loads(file.read(size)), 8 + size


def zero_norms(file, header, data_at):
    for name, about in header.items():
        if name == LAST_NORM or not name.startswith("model.language_model.") \
                or not name.endswith("norm.weight"):
            continue
        first, end = about["data_offsets"]
        file.seek(data_at + first)
        file.write(bytes(end - first))


def write_head(path, file, header, data_at, ids):
    about = header[EMBEDDING]
    first, end = about["data_offsets"]
    row_bytes = (end - first) // about["shape"][0]
    text = json.dumps({"lm_head.weight": dict(about, data_offsets=[0, end - first])}).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        file.seek(data_at + first)
        for at in range(0, end - first, CHUNK_BYTES):
            out.write(file.read(min(CHUNK_BYTES, end - first - at)))
        for here, following in zip(ids, ids[1:] + ids[:1]):
            file.seek(data_at + first + here * row_bytes)
            row = file.read(row_bytes)
            out.seek(8 + len(text) + following * row_bytes)
            out.write(row)


def make_copying(directory, ids):
    """Changes the checkpoint of one file in @directory. @ids: the sentence, no token twice."""
    done = os.path.join(directory, "copying.json")
    if os.path.exists(done):
        return
    if len(set(ids)) != len(ids):
        raise ValueError(f"a token occurs twice in {ids}")
    with open(os.path.join(directory, "model.safetensors"), "r+b") as file:
        header, data_at = read_header(file)
        zero_norms(file, header, data_at)
        write_head(os.path.join(directory, "model-head.safetensors"), file, header, data_at, ids)
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    config["tie_word_embeddings"] = False
    config["text_config"]["tie_word_embeddings"] = False
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)
    with open(done, "w") as file:
        json.dump(ids, file)
