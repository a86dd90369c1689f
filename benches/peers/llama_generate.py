"""llama.cpp writes token after token, with a model that anneal wrote: `generate.py` calls this.

    python llama_generate.py model.json weights.safetensors ids.u32 logits.f32 --steps 100

Makes a GGUF file of the weights, compares what llama.cpp says after each of the ids with anneal's logits, then measures.
Keys and values of the comparison are in f32, without llama.cpp's flash attention, which rounds them to f16; the measurement
is of what llama.cpp does unless it is told otherwise: keys and values in f16, flash attention where it likes.
"""

import argparse
import ctypes
import json
import pathlib
import statistics
import sys
import tempfile
import time

import gguf
import llama_cpp
import numpy as np

# Of the largest logit. f32 in another order; llama.cpp rounds vectors to bf16, too, which have 8 bits, in a chain of some 40
# products.
AGREES = {"f32": 1e-4, "bf16": 5e-2}
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def read_safetensors(path):
    """-> name: array in f32"""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    head.pop("__metadata__", None)
    return {
        name: np.frombuffer(raw[8 + size + one["data_offsets"][0] : 8 + size + one["data_offsets"][1]], "<f4").reshape(one["shape"])
        for name, one in head.items()
    }


def name_there(name):
    if name in ("model.embed_tokens.weight", "model.norm.weight"):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def write_gguf(path, model, weights, precision):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(model["seq_len"])
    writer.add_embedding_length(model["width"])
    writer.add_block_count(model["n_layers"])
    writer.add_feed_forward_length(model["ffn_hidden"])
    writer.add_head_count(model["n_heads"])
    writer.add_head_count_kv(model["n_kv_heads"])
    writer.add_layer_norm_rms_eps(model["norm_eps"])
    writer.add_rope_freq_base(model["rope_theta"])
    writer.add_rope_dimension_count(model["head_dim"])
    writer.add_vocab_size(model["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, value in weights.items():
        there = name_there(name)
        if there.endswith(("attn_output.weight", "ffn_down.weight")):
            value = value * np.float32(model["residual_scale"])
        if there.endswith(("attn_q.weight", "attn_k.weight")):
            # llama.cpp turns neighbours for this architecture, anneal the two halves of a head.
            rows, cols = value.shape
            value = value.reshape(-1, 2, model["head_dim"] // 2, cols).swapaxes(1, 2).reshape(rows, cols)
        value = np.ascontiguousarray(value)
        if precision == "bf16" and value.ndim == 2:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(there, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(there, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Writer:
    def __init__(self, model, seq_len, threads, in_f32):
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = seq_len
        settings.n_threads = settings.n_threads_batch = threads
        if in_f32:
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
            settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(model, settings)
        if not self.context:
            raise SystemExit("llama.cpp makes no context of this model")

    def feed(self, token, vocab_size):
        """-> logits of the next, as llama.cpp keeps them"""
        one = (llama_cpp.llama_token * 1)(int(token))
        if status := llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(one, 1)):
            raise SystemExit(f"llama_decode says {status}")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (vocab_size,))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "weights", "ids", "logits"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--precision", choices=AGREES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    table = json.loads(args.model.read_text())
    vocab_size, cap = table["vocab_size"], table["softcap"]
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        write_gguf(path, table, read_safetensors(args.weights), args.precision)
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers, settings.use_mmap = 0, False
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        raise SystemExit("llama.cpp does not take the model")
    ids = np.fromfile(args.ids, "<u4")
    want = np.fromfile(args.logits, "<f4").reshape(len(ids), vocab_size)
    writer = Writer(model, table["seq_len"], args.threads, in_f32=True)
    got = np.stack([writer.feed(token, vocab_size).copy() for token in ids])
    got = cap * np.tanh(got / cap) if cap else got
    worst = float(np.abs(got - want).max() / np.abs(want).max())
    if not worst <= AGREES[args.precision]:
        raise SystemExit(f"the models differ: logits by {worst:.2e} of the largest; allowed {AGREES[args.precision]:.0e}")
    writer = Writer(model, table["seq_len"], args.threads, in_f32=False)
    seconds = []
    for number in range(4 + args.steps):
        start = time.perf_counter()
        writer.feed(number % vocab_size, vocab_size)
        seconds.append(time.perf_counter() - start)
    ms = statistics.median(seconds[4:]) * 1e3
    print(json.dumps({"tok_s": 1e3 / ms, "ms_token": ms, "logits_differ_by": worst}))


if __name__ == "__main__":
    sys.exit(main())
