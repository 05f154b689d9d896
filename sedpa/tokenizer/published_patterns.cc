#include "sedpa/tokenizer/published_patterns.h"

#include <algorithm>
#include <array>

namespace sedpa {

namespace {

using Pattern = std::string_view;

// Contractions, then words with their leading space, numbers, the rest, white space: GPT-2's, and
// with one change or another everybody's.
constexpr Pattern kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr Pattern kLlama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                            R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                           R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kQwen35 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
                            R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kYoutuWords =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kYoutuScripts =
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-"
    "ゟ゠-"
    "ヿ]"
    "+";
constexpr Pattern kDeepseekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kSparkWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+)";
constexpr Pattern kDeepseekLetters =
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-"
    "ՖႠ-"
    "ჅᎠ-"
    "Ᏽᏸ-"
    "ᏽᲐ-"
    "ᲺᲽ-"
    "Ჿᴀ-"
    "ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-"
    "ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-"
    "𐓓𐓘-"
    "𐓻𐲀-"
    "𐲲𐳀-"
    "𐳲𑢠-"
    "𑣟𞤀-𞥃]+";
constexpr Pattern kDeepseekPunctuation = "\\s?[!-/:-~！-／：-～‘-‟　-。]+";
constexpr Pattern kBailing =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|)"
    R"(\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr Pattern kSeedCoder = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}|)"
                               R"( ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kUfakzeka = R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
                              R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kExaoneMoe =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr Pattern kJais2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|)"
    R"(\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";
constexpr Pattern kMinicpm5 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|)"
                              R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Pattern kCommaStop = R"( ?[^(\s|.,!?…。，、।۔،)]+)";

constexpr Pattern kGpt2Only[] = {kGpt2};
constexpr Pattern kDigitsGpt2[] = {R"(\p{N})", kGpt2};
constexpr Pattern kLlama3Only[] = {kLlama3};
constexpr Pattern kQwen2Only[] = {kQwen2};
constexpr Pattern kQwen35Only[] = {kQwen35};
constexpr Pattern kTekkenOnly[] = {kTekken};
constexpr Pattern kGpt4oOnly[] = {kGpt4o};
constexpr Pattern kTinyAya[] = {R"(\d{1,3}(?=(?:\d{3})*\b))", kGpt4o};
constexpr Pattern kYoutu[] = {kYoutuScripts, kYoutuWords};
constexpr Pattern kDeepseekLlm[] = {R"([\r\n])", kDeepseekLetters,           kDeepseekPunctuation,
                                    R"(\s+$)",   "[一-龥ࠀ-一가-퟿]+", R"(\p{N}+)"};
constexpr Pattern kDeepseekCoder[] = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                      "[一-龥ࠀ-一가-퟿]+", R"(\p{N})"};
constexpr Pattern kDeepseekV3[] = {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", kDeepseekWords};
constexpr Pattern kSpark[] = {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", kSparkWords, R"(\p{N})"};
constexpr Pattern kFalcon[] = {R"([\p{P}$+<=>^~|`]+)", kGpt2, "[0-9][0-9][0-9]"};
constexpr Pattern kDefault[] = {R"([\p{P}$+<=>^~|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"};
constexpr Pattern kBloom[] = {kCommaStop};
constexpr Pattern kViking[] = {kCommaStop, R"(\p{N})"};
constexpr Pattern kChameleon[] = {"<sentinel:[0-9]+>",       "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                                  R"([\t\n]|    |  )",       R"(\p{N})",
                                  R"([\p{P}!-/:-@\[-`{-~])", kGpt2};
constexpr Pattern kSuperBpe[] = {R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"};
constexpr Pattern kBailingOnly[] = {kBailing};
constexpr Pattern kSeedCoderOnly[] = {kSeedCoder};
constexpr Pattern kUfakzekaOnly[] = {kUfakzeka};
constexpr Pattern kExaoneMoeOnly[] = {kExaoneMoe};
constexpr Pattern kJais2Only[] = {kJais2};
constexpr Pattern kMinicpm5Both[] = {R"(\p{N}{1,3})", kMinicpm5};
constexpr Pattern kLines[] = {"[^\\n]+|[\\n]+"};
constexpr Pattern kLaguna[] = {"[^\\n]+|[\\n]+", kQwen2};

constexpr PublishedPretokenizer kKnown[] = {
    {.name = "gpt-2", .patterns = kGpt2Only},
    {.name = "phi-2", .patterns = kGpt2Only},
    {.name = "gigachat", .patterns = kGpt2Only},
    {.name = "a.x-4.0", .patterns = kGpt2Only},
    {.name = "mellum", .patterns = kGpt2Only},
    {.name = "mpt", .patterns = kGpt2Only},
    {.name = "olmo", .patterns = kGpt2Only},
    {.name = "jais", .patterns = kGpt2Only},
    {.name = "trillion", .patterns = kGpt2Only},
    {.name = "granite-docling", .patterns = kGpt2Only},
    {.name = "exaone4", .patterns = kGpt2Only},
    {.name = "smollm", .patterns = kDigitsGpt2},
    {.name = "starcoder", .patterns = kDigitsGpt2},
    {.name = "refact", .patterns = kDigitsGpt2},
    {.name = "command-r", .patterns = kDigitsGpt2},
    {.name = "codeshell", .patterns = kDigitsGpt2},
    {.name = "exaone", .patterns = kDigitsGpt2},
    {.name = "minerva-7b", .patterns = kDigitsGpt2},
    {.name = "mellum2", .patterns = kDigitsGpt2},
    {.name = "llama3", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "llama-bpe", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "falcon3", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "falcon-h1", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "pixtral", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "midm-2.0", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "lfm2", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "jina-v5-nano", .patterns = kLlama3Only, .ignore_merges = true, .add_bos = true},
    {.name = "dbrx", .patterns = kLlama3Only},
    {.name = "smaug-bpe", .patterns = kLlama3Only},
    {.name = "chatglm-bpe", .patterns = kLlama3Only},
    {.name = "glm4", .patterns = kLlama3Only, .ignore_merges = true},
    {.name = "glm5", .patterns = kLlama3Only, .ignore_merges = true},
    {.name = "qwen2", .patterns = kQwen2Only},
    {.name = "deepseek-r1-qwen", .patterns = kQwen2Only},
    {.name = "kormo", .patterns = kQwen2Only},
    {.name = "f2llmv2", .patterns = kQwen2Only},
    {.name = "stablelm2", .patterns = kQwen2Only},
    {.name = "megrez", .patterns = kQwen2Only},
    {.name = "hunyuan", .patterns = kQwen2Only},
    {.name = "solar-open", .patterns = kQwen2Only},
    {.name = "grok-2", .patterns = kQwen2Only},
    {.name = "qwen35", .patterns = kQwen35Only},
    {.name = "tekken", .patterns = kTekkenOnly, .ignore_merges = true, .add_bos = true},
    {.name = "gpt-4o", .patterns = kGpt4oOnly},
    {.name = "llama4", .patterns = kGpt4oOnly},
    {.name = "kanana2", .patterns = kGpt4oOnly},
    {.name = "talkie", .patterns = kGpt4oOnly},
    {.name = "minimax-m2", .patterns = kGpt4oOnly},
    {.name = "granite-embed-multi-97m", .patterns = kGpt4oOnly, .ignore_merges = true},
    {.name = "tiny_aya", .patterns = kTinyAya},
    {.name = "cohere2moe", .patterns = kTinyAya},
    {.name = "youtu", .patterns = kYoutu, .ignore_merges = true},
    {.name = "deepseek-llm", .patterns = kDeepseekLlm},
    {.name = "deepseek-coder", .patterns = kDeepseekCoder},
    {.name = "deepseek-v3", .patterns = kDeepseekV3},
    {.name = "hunyuan-dense", .patterns = kDeepseekV3},
    {.name = "joyai-llm", .patterns = kDeepseekV3},
    {.name = "hy_v4", .patterns = kDeepseekV3},
    {.name = "spark2_5", .patterns = kSpark},
    {.name = "falcon", .patterns = kFalcon},
    {.name = "default", .patterns = kDefault},
    {.name = "bloom", .patterns = kBloom},
    {.name = "poro-chat", .patterns = kBloom},
    {.name = "gpt3-finnish", .patterns = kBloom},
    {.name = "viking", .patterns = kViking},
    {.name = "chameleon", .patterns = kChameleon, .add_bos = true},
    {.name = "superbpe", .patterns = kSuperBpe},
    {.name = "bailingmoe", .patterns = kBailingOnly},
    {.name = "bailingmoe2", .patterns = kBailingOnly},
    {.name = "llada-moe", .patterns = kBailingOnly},
    {.name = "seed-coder", .patterns = kSeedCoderOnly},
    {.name = "ufakzeka", .patterns = kUfakzekaOnly},
    {.name = "exaone-moe", .patterns = kExaoneMoeOnly},
    {.name = "jais-2", .patterns = kJais2Only},
    {.name = "minicpm5", .patterns = kMinicpm5Both, .ignore_merges = true},
    {.name = "laguna", .patterns = kLaguna},
    {.name = "gemma4", .patterns = kLines, .metaspace = true},
    {.name = "sarvam-moe", .patterns = kLines, .metaspace = true},
};

}  // namespace

const PublishedPretokenizer* find_published_pretokenizer(std::string_view name) {
  const auto* found = std::find_if(std::begin(kKnown), std::end(kKnown),
                                   [&](const auto& known) { return known.name == name; });
  return found == std::end(kKnown) ? nullptr : found;
}

std::string published_pretokenizer_names() {
  std::string names;
  for (const PublishedPretokenizer& known : kKnown) {
    if (!names.empty()) names += ", ";
    names += known.name;
  }
  return names;
}

std::string_view gpt2_pattern() { return kGpt2; }

}  // namespace sedpa
