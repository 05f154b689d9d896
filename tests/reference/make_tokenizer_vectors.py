"""Small tokenizers of every kind that tests/tokenizer reads, trained on a public-domain book, with the
ids that Hugging Face `tokenizers` and `sentencepiece` give for texts that are easy to get wrong.

    python tests/reference/make_tokenizer_vectors.py BOOK.txt tests/data/tokenizer

Needs tokenizers 0.20 or later and sentencepiece. The same versions make the same files.
"""

import io
import json
import pathlib
import random
import sys

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def texts(book):
    fixed = [
        "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", " \n ", "Hello", " Hello", "Hello ",
        "  Hello  world  ", "Hello, world!", "Hello\r\nworld\r\n", "a\tb\t\tc", "I'm, you're, WE'LL, it'd",
        "1", "12", "123", "1234", "12345678901", "3.14159 = pi", "x2y3", "...!!!???", "=== *** ///",
        "the  quick   brown    fox", "\n \n\n \n\n\n \t \t\t Hello", "Camel caseWORDS andMore",
        "déjà vu", "de\u0301ja\u0300 vu", "Ünïcödé", "ﬁne ligature", "Å Å \u212b", "नमस्ते दुनिया",
        "កាន់តែពិសេស", "日本語のテキスト、そして漢字。", "한국어 텍스트", "Русский текст", "ελληνικά",
        "שלום עולם", "مرحبا بالعالم", "🚀 (normal) 😶‍🌫️ 👩‍👩‍👧‍👦", "a\u00a0b\u2003c\u3000d", "\u0085x\u2028y",
        "\u180e a", "ſ'ſ", "\x00\x01\x7f", "▁ visible ▁▁ space", "Ġ is not a space", "<0x41> is text",
        "½ ² ௧ Ⅷ 一二三", "<s>", "</s>", "<unk>", "<s>Hello</s>", "<s> Hello </s> there", "x<s>y",
        "<|begin|>Hello<|end|>\n", "  <|strip|>  padded  ", "a<|strip|>b", "<tool>", " <tool> ", "<tool><tool>x",
        "word", "words", "a word here", "sword", "lower upper", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "abababababababababababababababababababababababababababababababababab" * 4, " " * 100, "\n" * 50,
    ]
    at = random.Random(7)
    for _ in range(12):
        begin = at.randrange(len(book) - 400)
        fixed.append(book[begin:begin + at.randrange(1, 400)])
    alphabet = [" ", "  ", "\n", "\r", "\t", "'", "s", "T", "e", "é", "e\u0301", "9", "٣", "中", "あ", "🙂", ".", "-", "_",
                "▁", "<s>", "<tool>", "<|end|>", "word", "\u00a0", "\u200b", "\u0300", "ß", "İ"]
    for _ in range(60):
        fixed.append("".join(at.choice(alphabet) for _ in range(at.randrange(1, 24))))
    return fixed


def specials(names, **keywords):
    return [AddedToken(name, special=True, normalized=False, **keywords) for name in names]


def template(bos, tokenizer, eos=None):
    single = f"{bos} $A" + (f" {eos}" if eos else "")
    names = [bos] + ([eos] if eos else [])
    return processors.TemplateProcessing(
        single=single, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])


def byte_level(lines, size, before, special, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=specials(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def split(pattern, behavior="isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior)


def bytes_only():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def metaspace(lines, size, normalizer, before, decoder):
    """What Llama 2's and Mistral's tokenizer.json hold: characters, with byte tokens for the others."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = before or pre_tokenizers.Metaspace()  # to train on words
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, limit_alphabet=90,
        special_tokens=specials(["<unk>", "<s>", "</s>"]) + [f"<0x{byte:02X}>" for byte in range(256)]))
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoder
    held = json.loads(tokenizer.to_str())
    # The trainer lists the byte tokens as special; in published files they are ordinary.
    held["added_tokens"] = [token for token in held["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(held))
    tokenizer.post_processor = template("<s>", tokenizer)
    return tokenizer


def user_tokens(tokenizer):
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False),
                          AddedToken("<|strip|>", lstrip=True, rstrip=True, normalized=False),
                          AddedToken("word", single_word=True, normalized=False),
                          AddedToken("Camel case", normalized=True)])
    return tokenizer


def huggingface(lines):
    sequence = pre_tokenizers.Sequence
    byte_decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    llama2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<s>", "</s>", "<unk>", "<|begin|>", "<|end|>"]

    llama3 = byte_level(lines, 700, sequence([split(LLAMA3), bytes_only()]), special, ignore_merges=True)
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<s>", llama3)])
    yield "llama3", user_tokens(llama3)
    yield "qwen2", byte_level(lines, 600, sequence([split(QWEN2), bytes_only()]), special, normalizers.NFC())
    tekken = byte_level(lines, 600, sequence([split(TEKKEN), bytes_only()]), special)
    tekken.post_processor = template("<s>", tekken, "</s>")
    yield "tekken", tekken
    yield "smollm", byte_level(lines, 600, sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), special)
    yield "gpt2-prefix", user_tokens(byte_level(lines, 600, pre_tokenizers.ByteLevel(add_prefix_space=True), special))
    yield "falcon", byte_level(lines, 600, sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]), special)
    yield "behaviors", byte_level(lines, 500, sequence([
        split(r"\n+", "removed"), split(r"[.,;]+", "merged_with_previous"), split(r"\d+", "merged_with_next"),
        split(r"[!?*]", "contiguous"), pre_tokenizers.Split(" ", "merged_with_next"), bytes_only()]), special)
    yield "llama2", user_tokens(metaspace(lines, 900, llama2, None, byte_decoder))
    for scheme, cut in (("first", False), ("always", True), ("never", True)):
        space = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut)
        decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=cut)])
        yield f"metaspace-{scheme}", user_tokens(metaspace(lines, 700, None, space, decoder))


def sentencepieces(lines):
    common = dict(model_type="bpe", vocab_size=900, character_coverage=0.995, normalization_rule_name="identity",
                  byte_fallback=True, num_threads=1, minloglevel=2)
    yield "sentencepiece", dict(common, remove_extra_whitespaces=False, split_digits=True,
                                user_defined_symbols=["<tool>", "▁▁▁▁"])
    yield "sentencepiece-tidy", dict(common, remove_extra_whitespaces=True, add_dummy_prefix=False,
                                     allow_whitespace_only_pieces=True)
    yield "sentencepiece-unknown", dict(common, byte_fallback=False, vocab_size=500, remove_extra_whitespaces=False)


def main(book, folder):
    book = pathlib.Path(book).read_text(encoding="utf-8")
    lines = book[:400_000].splitlines()
    folder = pathlib.Path(folder)
    cases = texts(book)
    for name, tokenizer in huggingface(lines):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "tokenizer.json").write_text(
            json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        vectors = []
        for text in cases:
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            vectors.append(dict(text=text, ids=plain, with_special=tokenizer.encode(text).ids,
                                decoded=tokenizer.decode(plain, skip_special_tokens=True)))
        (place / "vectors.json").write_text(json.dumps(vectors, separators=(",", ":")), encoding="utf-8")
    for name, options in sentencepieces(lines):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **options)
        (place / "tokenizer.model").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        vectors = [dict(text=text, ids=processor.encode(text), decoded=processor.decode(processor.encode(text)))
                   for text in cases if "\0" not in text]
        (place / "vectors.json").write_text(json.dumps(vectors, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
