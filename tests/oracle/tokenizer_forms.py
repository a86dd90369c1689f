"""Every form of tokenizer that is read, against the program that the form comes from.

    cargo build -p anneal-data --example encode_dump --example encode_with
    target/debug/examples/encode_dump DIR
    python tests/oracle/tokenizer_forms.py DIR target/debug/examples/encode_with

Needs `tiktoken`, `sentencepiece` and `tokenizers`. On the documents in DIR and on hard text (hard_texts.py):
- a tokenizer trained by us gives the ids of `tiktoken` with the same ranks;
- so does a rank file: with our pattern, and with sizes of OpenAI's encodings, whose patterns and special tokens are taken
  from `tiktoken` itself (the ranks are made up here, since OpenAI's files are not part of the package);
- llama2.c's tokenizer.bin, written here from a model that `sentencepiece` trains, gives the ids of `sentencepiece`;
- and what we write for each as a tokenizer.json gives the same ids and text in `tokenizers`.
"""

import base64
import json
import pathlib
import random
import struct
import subprocess
import sys

import sentencepiece
import tiktoken
import tiktoken_ext.openai_public
import tokenizers

from data_check import PATTERN, merges_of
from hard_texts import hard_texts


def ours(binary, tokenizer, texts):
    """Ids, decoded texts and sizes by our program, and the tokenizer.json that it writes."""
    given, export, answer = (tokenizer.with_name(tokenizer.name + end) for end in (".texts", ".export.json", ".answer"))
    given.write_text(json.dumps(texts))
    subprocess.run([binary, tokenizer, given, export, answer], check=True)
    return json.loads(answer.read_text()), tokenizers.Tokenizer.from_file(str(export))


def compare(name, texts, answer, expected, exported, decoded=None):
    """Our ids with the oracle's and with those of the exported file; what decoding gives."""
    exported.encode_special_tokens = True
    decoded = decoded or texts
    for i, text in enumerate(texts):
        shown = f"{name}: {text[:60]!r}"
        assert answer["ids"][i] == expected[i], f"{shown}: ours {answer['ids'][i][:20]}, expected {expected[i][:20]}"
        theirs = exported.encode(text, add_special_tokens=False).ids
        assert answer["ids"][i] == theirs, f"{shown}: ours {answer['ids'][i][:20]}, tokenizers {theirs[:20]}"
        assert answer["decoded"][i] == decoded[i], f"{shown}: decoded to {answer['decoded'][i][:60]!r}"
        assert exported.decode(theirs) == decoded[i], f"{shown}: tokenizers decodes to {exported.decode(theirs)[:60]!r}"
    print(f"{name}: the same {sum(map(len, expected))} ids for {len(texts)} texts, and in tokenizers as exported")


def trained_ranks(path):
    """The bytes of each token of a tokenizer.json of ours, and its rank."""
    _, vocab, back = merges_of(path)
    return {bytes(back[c] for c in token): i for token, i in vocab.items()}


def check_trained(path, binary, texts):
    ranks = trained_ranks(path)
    encoding = tiktoken.Encoding("trained", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    answer, exported = ours(binary, path, texts)
    compare(path.name, texts, answer, encoding.encode_ordinary_batch(texts), exported)


def write_ranks(path, ranks):
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    path.write_text("".join(lines))


def check_ranks(folder, binary, ranks, texts):
    path = folder / "own.tiktoken"
    write_ranks(path, ranks)
    answer, exported = ours(binary, path, texts)
    encoding = tiktoken.Encoding("own", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    compare("rank file, our pattern", texts, answer, encoding.encode_ordinary_batch(texts), exported)
    assert (answer["vocab_size"], answer["bos_id"]) == (len(ranks) + 4, len(ranks))

    rng = random.Random(6)
    letters = [c.encode() for c in "etaoinshrdlucmfwygpbvk  ..,'0123456789\nTé日😀"]
    for name, ids in [
        ("r50k_base", [*range(50_256)]),
        ("p50k_base", [i for i in range(50_281) if i != 50_256]),
        ("cl100k_base", [*range(100_256)]),
        ("o200k_base", [*range(199_998)]),
    ]:
        # More tokens than training gives: random ones behind, many of which occur. And the ranks of the bytes are in
        # another order than the bytes, as in OpenAI's files.
        tokens = list(ranks)[:256]
        rng.shuffle(tokens)
        tokens += list(ranks)[256:]
        known = set(tokens)
        while len(tokens) < len(ids):
            token = b"".join(rng.choices(letters, k=rng.randint(2, 6)))
            if token not in known:
                known.add(token)
                tokens.append(token)
        table = dict(zip(tokens, ids))
        path = folder / f"{name}.tiktoken"
        write_ranks(path, table)
        # Pattern and special tokens as tiktoken has them, around our ranks.
        tiktoken_ext.openai_public.load_tiktoken_bpe = lambda *_, **__: table
        encoding = tiktoken.Encoding(**getattr(tiktoken_ext.openai_public, name)())
        answer, exported = ours(binary, path, texts)
        compare(name, texts, answer, encoding.encode_ordinary_batch(texts), exported)
        assert (answer["vocab_size"], answer["bos_id"]) == (encoding.n_vocab, encoding.eot_token), name
        for special in encoding.special_tokens_set:
            assert exported.token_to_id(special) == encoding.encode_single_token(special), f"{name}: {special}"


def check_llama2c(folder, binary, documents, texts):
    corpus = folder / "sentencepiece.txt"
    corpus.write_text("\n".join(" ".join(text.split()) for text in documents))
    # As Llama 2's tokenizer was trained, apart from size and text.
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "sentencepiece"), model_type="bpe", vocab_size=1500,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, allow_whitespace_only_pieces=True, character_coverage=0.999, minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    # What llama2.c's tokenizer.py writes.
    pieces, scores = [], []
    for i in range(model.vocab_size()):
        piece = {model.bos_id(): "\n<s>\n", model.eos_id(): "\n</s>\n"}.get(i, model.id_to_piece(i))
        pieces.append(piece.replace("▁", " ").encode())
        scores.append(model.get_score(i))
    path = folder / "tokenizer.bin"
    with path.open("wb") as file:
        file.write(struct.pack("<i", max(map(len, pieces))))
        for piece, score in zip(pieces, scores):
            file.write(struct.pack("<fi", score, len(piece)) + piece)
    answer, exported = ours(binary, path, texts)
    assert (answer["vocab_size"], answer["bos_id"]) == (model.vocab_size(), model.bos_id())
    # A ▁ in the text is a space to SentencePiece.
    expected = model.encode(texts)
    compare("llama2.c", texts, answer, expected, exported, [text.replace("▁", " ") for text in texts])


def main():
    folder, binary = pathlib.Path(sys.argv[1]), sys.argv[2]
    work = folder / "forms"
    work.mkdir(exist_ok=True)
    documents = json.loads((folder / "stories.json").read_text())["texts"]
    texts = hard_texts() + documents[:100]
    for path in sorted(folder.glob("*.tokenizer.json")):
        copy = work / path.name
        copy.write_text(path.read_text())
        check_trained(copy, binary, texts)
    check_ranks(work, binary, trained_ranks(folder / "stories.tokenizer.json"), texts)
    check_llama2c(work, binary, documents, texts + ["▁a literal ▁▁ mark"])
    print("ok")


if __name__ == "__main__":
    main()
