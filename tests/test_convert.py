"""Contract: a GGUF file is the model in llama.cpp's order, or is refused.

transformers reads the file of some families, too; llama.cpp itself is asked where its Python
package is installed.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery, finish, start
from decoders import write_decoder
from forging import edit_json
from safetensors.numpy import load_file
from tiny_tokenizer import tiny_tokenizer
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from surgery import export
from surgery.conversion.gguf_file import TYPES, _compare, _Tensor, _write, convert_to_gguf
from surgery.editing.loading import load_tokenizer
from surgery.errors import CheckpointError, OutputError, UnsupportedError

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

NO_WINDOW = {"use_sliding_window": False, "sliding_window": None}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 128},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied, MLP biases": {"mlp_bias": True, "tie_word_embeddings": True},
    "llama, llama3": {"rope_scaling": LLAMA3},
    "llama, yarn": {"rope_scaling": YARN},
    "llama, linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "qwen2": NO_WINDOW,
    "qwen3": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "phi": {},
    "stablelm": {},
    "stablelm, tied": {"tie_word_embeddings": True},
    "mistral": {},
    "gpt_neox": {},
}


def write_model(folder: Path, name: str = "llama", **options: Any) -> Path:
    """A tiny model of `MODELS` with a tokenizer of 400 tokens."""
    kind = name.split(",")[0]
    options = {**MODELS.get(name, {}), "vocab_size": 400, **options}
    if kind == "gpt_neox":
        write_checkpoint(folder, neox_config(torch_dtype="float32", **options))
    else:
        write_decoder(folder, kind, **options)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_edited(folder: Path, name: str, variant: str) -> Path:
    source = write_model(folder / "source", name)
    compact = name.endswith("compact")
    options = {"layout": "compact"} if compact else {}
    if name == "mistral":
        options = {"save_as": "llama"}
    return export(source, "1", variant=variant, output=folder / "edited", **options).output


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and tensors of a file, as the `gguf` package reads them."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return fields, tensors


def test_pythia_by_the_command_line(tmp_path: Path) -> None:
    """Queries, keys and values, which are interleaved by head, stand one after another."""
    edited, path = tmp_path / "OUT", tmp_path / "model.gguf"
    attn_surgery("export", "lab:pythia", "--drop-attn", "4-5", "--output", edited)
    command = ("convert", edited, "--output", path)
    found = attn_surgery(*command, "--json").json
    assert (found["architecture"], found["type"], found["left_out"]) == ("gptneox", "f16", [])
    assert found["largest_difference"] == 0  # the source is float16
    assert found["bytes"] == path.stat().st_size
    fields, tensors = read(path)
    source = load_file(edited / "model.safetensors")
    assert fields["gptneox.rope.dimension_count"] == 8
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    vocabulary = json.loads((edited / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = fields["tokenizer.ggml.tokens"]
    assert all(tokens[number] == token for token, number in vocabulary.items())
    heads, size = 5, 32
    for kind in ("weight", "bias"):
        fused = source[f"gpt_neox.layers.4.attention.query_key_value.{kind}"]
        for part in range(3):
            for head in range(heads):
                rows = fused[(head * 3 + part) * size :][:size]
                there = tensors[f"blk.4.attn_qkv.{kind}"][(part * heads + head) * size :][:size]
                np.testing.assert_array_equal(there, rows.astype(np.float32))
    attn_surgery(*command).assert_error("already exists", "--overwrite")
    again = attn_surgery(*command, "--overwrite", "--type", "q8_0")
    assert again.code == 0
    assert "q8_0" in again.stdout
    assert path.stat().st_size < found["bytes"] * 0.6


FEW = ("llama", "llama, tied, MLP biases", "llama, yarn", "olmo2", "phi", "mistral", "gpt_neox")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in MODELS],
)
def test_every_family_can_be_read_back(tmp_path: Path, name: str) -> None:
    edited = write_edited(tmp_path, name, "identity")
    for kind in TYPES:
        done = convert_to_gguf(edited, tmp_path / f"{kind}.gguf", kind=kind)
        assert (done.largest_difference == 0) == (kind == "f32")
        assert len(done.left_out) == (3 if name in ("qwen3", "olmo", "olmo2", "olmo3") else 0)


@pytest.mark.filterwarnings("ignore")  # of the loader of GGUF files
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"attention_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"attention_bias": True, "head_dim": 64}),  # which its loader does not read
    ],
)
def test_transformers_reads_the_same_model(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    edited = write_edited(tmp_path, name, "identity")
    convert_to_gguf(edited, tmp_path / "model.gguf", kind="f32")
    load = transformers.AutoModelForCausalLM.from_pretrained
    ours = load(edited, dtype=torch.float32).eval()
    theirs = load(tmp_path, gguf_file="model.gguf", dtype=torch.float32, **options).eval()
    ids = torch.arange(1, 101)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["identity", "zero"])
@pytest.mark.parametrize("name", [*MODELS, "llama, compact", "mistral, compact"])
def test_llama_cpp_computes_the_same(tmp_path: Path, name: str, variant: str) -> None:
    """Logits within the rounding of its kernels, and so greedy tokens."""
    llama_cpp = pytest.importorskip("llama_cpp")
    edited = write_edited(tmp_path, name, variant)
    done = convert_to_gguf(edited, tmp_path / "model.gguf", kind="f32")
    assert (done.architecture == "deci") == name.endswith("compact")
    ids = torch.arange(1, 101)
    load = transformers.AutoModelForCausalLM.from_pretrained
    with torch.no_grad():
        wanted = load(edited, dtype=torch.float32).eval()(ids[None]).logits[0].numpy()
    path = str(tmp_path / "model.gguf")
    model = llama_cpp.Llama(path, n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    model.eval(ids.tolist())
    said = np.array(model.scores[: len(ids)])
    model.close()
    assert np.abs(said - wanted).max() < 0.01 * np.abs(wanted).max()
    best = np.sort(wanted, 1)
    clear = best[:, -1] - best[:, -2] > 0.02 * np.abs(wanted).max()
    assert clear.sum() > 50
    np.testing.assert_array_equal(said.argmax(1)[clear], wanted.argmax(1)[clear])


# --- tokenizers


def sentencepiece() -> Tokenizer:
    """A BPE tokenizer as Llama 2 has it: blanks are tokens' own, and any byte has a token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = "\u2581"
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False)
    text = "the quick brown fox jumps over the lazy dog. pack my box with five dozen jugs. " * 4
    tokenizer.train_from_iterator(text.split(". "), trainer)
    data = json.loads(tokenizer.to_str())
    for token in special[3:]:
        data["model"]["vocab"][token] = len(data["model"]["vocab"])
    return Tokenizer.from_str(json.dumps(data))


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    """A Llama with that tokenizer."""
    write_model(folder, vocab_size=tokenizer.get_vocab_size() + 10)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


TEXTS = (
    "the lazy fox",
    "  five  boxes",
    "quick\nbrown dog é 🦊",
    "jugs jugsjugs over",
    "the 12345 boxes aren't 3.14\t\tX \n\n  end",
)


def test_a_tokenizer_of_sentencepiece(tmp_path: Path) -> None:
    tokenizer = sentencepiece()
    folder = write_tokenizer(tmp_path / "model", tokenizer)
    convert_to_gguf(folder, tmp_path / "model.gguf")
    fields, _ = read(tmp_path / "model.gguf")
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.add_bos_token"]
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.token_to_id("<s>")
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[tokenizer.token_to_id("<unk>")] == gguf.TokenType.UNKNOWN
    assert kinds[tokenizer.token_to_id("</s>")] == gguf.TokenType.CONTROL
    assert kinds[tokenizer.token_to_id("<0x0A>")] == gguf.TokenType.BYTE
    assert kinds[-10:] == [gguf.TokenType.UNUSED] * 10
    scores = fields["tokenizer.ggml.scores"]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    made = [scores[tokenizer.token_to_id(text)] for text in dict.fromkeys(map("".join, merges))]
    assert made == sorted(made, reverse=True)  # earlier merges win


@pytest.mark.parametrize(
    ("more", "taken"),
    [
        ({"split": False}, True),
        ({"split": True}, False),
        ({}, False),  # tokenizers reads that as true, and llama.cpp never splits
        ({"split": False, "replacement": "_"}, False),
    ],
)
def test_blanks_are_split_as_llama_cpp_splits_them(
    tmp_path: Path, more: dict[str, object], taken: bool
) -> None:
    folder = write_tokenizer(tmp_path / "model", sentencepiece())

    def change(tokenizer: dict[str, Any]) -> None:
        rule = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
        tokenizer.update(normalizer=None, pre_tokenizer={**rule, **more})

    edit_json(folder / "tokenizer.json", change)
    if taken:
        convert_to_gguf(folder, tmp_path / "model.gguf")
        return
    with pytest.raises(UnsupportedError, match="another treatment of blanks"):
        convert_to_gguf(folder, tmp_path / "model.gguf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "dbrx", "qwen2", "sentencepiece"])
def test_llama_cpp_reads_text_alike(tmp_path: Path, kind: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizer = sentencepiece() if kind == "sentencepiece" else tiny_tokenizer()._tokenizer
    if kind in ("dbrx", "qwen2"):
        digits = r"\p{N}{1,3}" if kind == "dbrx" else r"\p{N}"
        rule = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
            + digits
            + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(rule), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if kind == "smollm":
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    folder = write_tokenizer(tmp_path / "model", tokenizer)
    convert_to_gguf(folder, tmp_path / "model.gguf")
    if kind != "sentencepiece":
        assert read(tmp_path / "model.gguf")[0]["tokenizer.ggml.pre"] == kind
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    for text in TEXTS:
        said = model.tokenize(text.encode(), add_bos=False)
        assert said == tokenizer.encode(text, add_special_tokens=False).ids, text
    model.close()


# --- refusals


def test_what_llama_cpp_would_not_run_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"

    def assert_refused(model: object, *texts: str) -> None:
        command = ("convert", model, "--to", "gguf", "--output", target)
        attn_surgery(*command).assert_error(*texts)
        assert not target.exists()

    assert_refused("lab:gpt-neo", "llama.cpp has no architecture for GPT-Neo")
    compact = export("lab:pythia", "1", layout="compact", output=tmp_path / "compact").output
    assert_refused(compact, "does not run compact GPT-NeoX", "--layout stock")
    llama = write_model(tmp_path / "llama")
    headless = export(llama, "0", variant="zero", layout="compact", output=tmp_path / "0").output
    assert_refused(headless, "needs heads in block 0", "--layout stock")
    biased = write_model(tmp_path / "biased", "qwen3", attention_bias=True)
    assert_refused(biased, "o_proj.bias", "qwen3 does not read this bias")
    windows = write_model(tmp_path / "windows", "qwen2", use_sliding_window=True, sliding_window=8)
    assert_refused(windows, "sliding_window", "got 8")
    words = write_model(tmp_path / "words", "mistral")
    edit_json(words / "config.json", lambda config: config.update(sliding_window="4096"))
    assert_refused(words, "'sliding_window' is not a whole number", "got 4096")
    mixed = ["full_attention", "sliding_attention", "sliding_attention"]
    olmo3 = write_model(tmp_path / "olmo3", "olmo3", layer_types=mixed)
    assert_refused(olmo3, "layer_types", "every fourth block", "got blocks [0]")
    squared = write_model(tmp_path / "squared", hidden_act="relu")
    assert_refused(squared, "hidden_act", "got relu", "expected silu")
    scaled = write_model(tmp_path / "scaled", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    assert_refused(scaled, "rope_parameters", "got dynamic")
    for name, more, text in (
        ("yarn", {"attention_factor": 2.0}, "attention_factor 2"),
        ("whole", {"truncate": False}, "(expected truncate true, got truncate false)"),
    ):
        yarn = write_model(tmp_path / name, rope_scaling={**YARN, **more})
        assert_refused(
            yarn, "config.json: rope_parameters: llama.cpp's architecture does not", text
        )
    neox = write_model(tmp_path / "neox yarn", "gpt_neox", rope_scaling=YARN)
    assert_refused(neox, "rope_parameters", "got yarn", "default or linear")
    bare = write_checkpoint(tmp_path / "bare", neox_config(attention_bias=False, vocab_size=400))
    tiny_tokenizer().save_pretrained(bare)
    assert_refused(bare, "needs a tensor blk.0.attn_qkv.bias")
    inside = llama / "model.gguf"
    attn_surgery("convert", llama, "--to", "gguf", "--output", inside).assert_error(
        "the output and the source overlap"
    )
    assert not inside.exists()
    adapted = write_model(tmp_path / "adapted")
    (adapted / "adapter_config.json").write_text("{}")
    assert_refused(adapted, "holds an adapter, which the library would load into the model")
    own = write_model(tmp_path / "own")
    edit_json(own / "config.json", lambda config: config.update(tie_word_embeddings=True))
    assert_refused(own, "the output embedding differs from the input embedding")
    mute = write_model(tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    assert_refused(mute, "has no tokenizer.json")


WINDOWS = {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}
BASES = {"sliding_attention": {"rope_theta": 5e3}, "full_attention": {"rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("qwen2", {"head_dim": 16}, "head_dim: {} (expected 64.0, got 16)"),
        ("qwen2", {"rms_norm_eps": ...}, "rms_norm_eps: {} (expected a number, got no such key)"),
        ("gpt_neox", {"layer_norm_eps": ...}, "layer_norm_eps: {} (expected a number"),
        ("olmo3", {"rope_parameters": WINDOWS}, "rope_parameters: {} (expected one base, and no "),
        (
            "olmo3",
            {"rope_parameters": BASES, "rope_theta": ..., "num_hidden_layers": 4},
            "the rotary base of 'sliding_attention' is not that of 'full_attention', and some",
        ),
    ],
)
def test_settings_that_llama_cpp_does_not_compute(
    tmp_path: Path, name: str, change: dict[str, Any], text: str
) -> None:
    """...: the key is left out."""
    more = {key: value for key, value in change.items() if value is not ...}
    folder, target = write_model(tmp_path / "model", name, **more), tmp_path / "model.gguf"
    edit_json(folder / "config.json", lambda config: [config.pop(k) for k in change.keys() - more])
    made = attn_surgery("convert", folder, "--to", "gguf", "--output", target)
    made.assert_error(
        "config.json: " + text.format("llama.cpp's architecture does not compute this")
    )
    assert not target.exists()


def test_quantized_weights_are_not_converted(tmp_path: Path) -> None:
    import ml_dtypes
    from safetensors.numpy import save_file

    folder = write_model(tmp_path / "model")
    spared = {"quant_method": "fp8", "modules_to_not_convert": ["self_attn", "lm_head"]}
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=spared))
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".mlp." in name]:
        tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = np.ones((1, 1), np.float32)
    save_file(tensors, folder / "model.safetensors")
    made = attn_surgery("convert", folder, "--to", "gguf", "--output", tmp_path / "model.gguf")
    made.assert_error("the checkpoint is quantized, which GGUF files do not keep")


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"normalizer": {"type": "Lowercase"}}, ("Lowercase", "NFC")),
        ({"pre_tokenizer": {"type": "Whitespace"}}, ("rule of its own",)),
        ({"model": {"type": "Unigram", "vocab": []}}, ("Unigram", "BPE")),
        ({"model": {"type": "BPE", "byte_fallback": True}}, ("blanks",)),
        ({"model": {"type": "BPE", "vocab": 3}}, ("cannot be converted",)),
    ],
)
def test_a_tokenizer_without_a_name_is_refused(
    tmp_path: Path, change: dict[str, Any], texts: tuple[str, ...]
) -> None:
    folder = write_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **change}))
    command = ("convert", folder, "--to", "gguf", "--output", tmp_path / "model.gguf")
    attn_surgery(*command).assert_error(*texts)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_templates_go_along(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("hello")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tools.jinja").write_text("tools")
    convert_to_gguf(folder, tmp_path / "model.gguf")
    fields, _ = read(tmp_path / "model.gguf")
    assert fields["tokenizer.chat_template"] == "hello"
    assert fields["tokenizer.chat_template.tools"] == "tools"
    assert load_tokenizer(folder).get_chat_template("tools") == "tools"


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "gpt_neox")
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_out.weight"][3, 5] = 1e6
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors")
    command = ("convert", folder, "--to", "gguf", "--output", tmp_path / "model.gguf")
    attn_surgery(*command).assert_error("output.weight", "do not fit f16")
    assert attn_surgery(*command, "--type", "bf16").code == 0
    tensors["embed_out.weight"][3, 5] = np.nan
    save_file(tensors, folder / "model.safetensors")
    for kind in ("f16", "f32"):
        broken = attn_surgery(*command, "--type", kind, "--overwrite")
        broken.assert_error("output.weight", "it holds NaN or infinity")


def test_a_file_that_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    """Whatever wrote it: another type, other sizes, and a tensor too many are told by name."""
    path, source = tmp_path / "model.gguf", np.arange(64, dtype=np.float32).reshape(2, 32)
    forms = gguf.GGMLQuantizationType

    def make(name: str, form: Any, array: np.ndarray = source) -> _Tensor:
        return _Tensor(name, form, array.shape, lambda: array)

    written = [make("a", forms.F32), make("b", forms.F16)]
    _write(path, gguf.GGUFWriter(None, "llama"), written, lambda nbytes: None)
    assert list(_compare(path, written)) == [0, 0]
    for wrong in (make("b", forms.F32), make("b", forms.F16, source[:1])):
        with pytest.raises(OutputError, match=r"^b: has another type or shape in the file$"):
            list(_compare(path, [written[0], wrong]))
    text = r"the file holds tensors that were not written \(got b\)"
    with pytest.raises(OutputError, match=text):
        list(_compare(path, written[:1]))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # as Python does for what cannot be imported
    command = ("convert", "lab:pythia", "--to", "gguf", "--output", tmp_path / "model.gguf")
    attn_surgery(*command).assert_error("needs the gguf package", "attn-surgery[gguf]")


def test_a_forged_result_is_not_converted(tmp_path: Path) -> None:
    folder = write_edited(tmp_path, "llama", "zero")
    edit_json(
        folder / "surgery.json", lambda manifest: manifest["history"][-1].update(num_blocks=9)
    )
    with pytest.raises(CheckpointError, match="does not verify: edit: "):
        convert_to_gguf(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_full_disk_is_not_blamed_on_the_model(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "source"), tmp_path / "model.gguf"
    command = ("convert", model, "--to", "gguf", "--output", out)
    for most, message in (
        (13_000, f"error: {out}: cannot write: "),
        (1_000, f"error: {tempfile.gettempdir()}: cannot write copies of files (got file too"),
    ):
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
        finish(start(*command, preexec_fn=limit)).assert_error(message)
        assert not out.exists()
