"""Checks the data room against implementations that nobody here wrote.

    cargo run --release -p anneal-data --example encode_dump -- DIR [FILE.txt ...]
    python tests/oracle/data_check.py DIR

Needs `tokenizers`, `rustbpe` and `tiktoken`. A file may be a folder of Parquet shards too. For every dump in DIR:
- `tokenizers` loads our tokenizer.json and gives the same ids, decodes them to the text, and agrees on the vocabulary;
- `rustbpe` trained on the same documents learns the same tokens (and a plain trainer written below the same merges);
- `tiktoken` with the ranks that `rustbpe` has learned gives the same ids: autoresearch trains and encodes so;
- the byte tables are what decoding each token says.
And the window order equals the definition in crates/data/src/sampler.rs, computed here anew.
"""

import collections
import json
import pathlib
import sys

import rustbpe
import tiktoken
import tokenizers

from window_order import offset

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
PLAIN_MERGES = 120  # the plain trainer is slow
PLAIN_PIECES = 20_000  # and more different pieces than this are too many for it


def byte_chars():
    """GPT-2's printable alphabet: byte -> character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return {b: chr(b) if b in printable else chr(next(extra)) for b in range(256)}


def merges_of(path):
    """The pairs of a tokenizer.json as byte strings in order, the ids of its tokens, and how they are written."""
    back = {c: b for b, c in byte_chars().items()}
    model = json.loads(path.read_text())["model"]
    return [tuple(bytes(back[c] for c in side) for side in merge) for merge in model["merges"]], model["vocab"], back


def splits(by_id):
    """Every division of every token into two tokens, by the id of the whole."""
    known = set(by_id.values())
    for i in sorted(by_id):
        token = by_id[i]
        for at in range(1, len(token)):
            if token[:at] in known and token[at:] in known:
                yield token[:at], token[at:]


def plain_train(words, count):
    """Highest pair count first, then the smaller pair of ids; everything counted anew each time."""
    words = [(list(w), n) for w, n in words.items()]
    learned = []
    for new in range(256, 256 + count):
        pairs = collections.Counter()
        for ids, n in words:
            for pair in zip(ids, ids[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        learned.append(best)
        for ids, _ in words:
            i = 0
            while i + 1 < len(ids):
                if (ids[i], ids[i + 1]) == best:
                    ids[i : i + 2] = [new]
                i += 1
    return learned


def check_tokenizer(path):
    name = path.name.removesuffix(".tokenizer.json")
    dump = json.loads((path.parent / f"{name}.json").read_text())
    theirs = tokenizers.Tokenizer.from_file(str(path))
    assert theirs.get_vocab_size() == dump["vocab_size"]
    assert theirs.token_to_id("<|reserved_0|>") == dump["bos_id"] == dump["vocab_size"] - 4
    texts = dump["texts"]
    for text, ids, encoding in zip(texts, dump["ids"], theirs.encode_batch(texts, add_special_tokens=False)):
        assert encoding.ids == ids, f"{name}: ids differ for {text[:60]!r}"
        assert theirs.decode(ids) == text, f"{name}: decoding differs for {text[:60]!r}"
    tokens = sum(map(len, dump["ids"]))
    print(f"{name}: tokenizers {tokenizers.__version__} gives the same {tokens} ids and the same text")

    merges, vocab, back = merges_of(path)
    by_id = {i: bytes(back[c] for c in token) for token, i in vocab.items()}
    raw = [len(by_id.get(i, b"")) for i in range(dump["vocab_size"])]
    compat = [len(by_id.get(i, b"").decode("utf-8", errors="replace").encode()) for i in range(dump["vocab_size"])]
    assert raw == dump["raw"] and compat == dump["compat"], f"{name}: byte tables differ"
    print(f"{name}: byte tables agree, raw and compat")

    assert sorted(merges) == sorted(splits(by_id)), f"{name}: the merges are not all splits of all tokens"

    cut = [text[:10_000] for text in texts]
    splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    words = collections.Counter(piece.encode() for text in cut for piece, _ in splitter.pre_tokenize_str(text))
    if len(words) <= PLAIN_PIECES:
        plain = plain_train(words, PLAIN_MERGES)
        learned = {256 + i: pair for i, pair in enumerate(plain)}
        for i, (a, b) in learned.items():
            assert by_id[i] == by_id[a] + by_id[b], f"{name}: the plain trainer learns another token {i}"
        print(f"{name}: a plain trainer learns the same first {len(plain)} tokens")
    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(iter(cut), vocab_size=dump["vocab_size"] - 4, pattern=PATTERN)
    ranks = {bytes(token): i for token, i in trained.get_mergeable_ranks()}
    assert {i: token for token, i in ranks.items()} == by_id, f"{name}: rustbpe learns other tokens"
    print(f"{name}: rustbpe learns the same {len(by_id)} tokens")
    encoding = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text, ids, expected in zip(texts, dump["ids"], encoding.encode_ordinary_batch(texts)):
        assert ids == expected, f"{name}: tiktoken encodes {text[:60]!r} differently"
    # What would be different with the learned pairs alone, as rustbpe's own encoder applies them.
    others = sum(encoding.encode_ordinary(word) != trained.encode(word) for word in map(bytes.decode, words))
    print(f"{name}: tiktoken gives the same {tokens} ids; the learned pairs alone would give {others} of {len(words)} pieces others")


def check_sampler(path):
    for case in json.loads(path.read_text()):
        ours = [offset(i, case["n_tokens"], case["seq_len"], case["seed"]) for i in case["numbers"]]
        assert ours == case["offsets"], f"window offsets differ for {case['n_tokens']} tokens"
    print("sampler: offsets follow the definition;", "fixed test values:", [offset(i, 10_000, 128, 42) for i in (0, 1, 2, 76, 77, 1_000_000)])


def main():
    folder = pathlib.Path(sys.argv[1])
    paths = sorted(folder.glob("*.tokenizer.json"))
    assert paths, f"{folder} holds no *.tokenizer.json; run the example encode_dump first"
    for path in paths:
        check_tokenizer(path)
    check_sampler(folder / "sampler.json")
    print("ok")


if __name__ == "__main__":
    main()
