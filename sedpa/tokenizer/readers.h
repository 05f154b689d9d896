#pragma once
#include <string>
#include <string_view>

#include "sedpa/tokenizer/spec.h"

namespace sedpa {

/// Hugging Face tokenizers' serialised form: model, normaliser, pre-tokenizer, decoder and the
/// tokens that its post-processor adds. `name` names the file in errors. BPE models only; throws
/// Error naming the field for anything that cannot be done exactly.
[[nodiscard]] TokenizerSpec read_tokenizer_json(std::string_view text, const std::string& name);

/// SentencePiece's ModelProto (sentencepiece_model.proto): pieces, scores and kinds, and the parts
/// of the trainer's and normaliser's specification that decide how a text is cut. BPE only.
[[nodiscard]] TokenizerSpec read_sentencepiece_model(std::string_view bytes,
                                                     const std::string& name);

}  // namespace sedpa
