"""What models' own chat templates make of a few conversations, rendered by Jinja as transformers does.

    python tests/reference/make_chat_vectors.py LLAMA_CPP SMOLLM2.gguf tests/data/tokenizer/chat.json

LLAMA_CPP is a checkout of llama.cpp, for the templates it collects in models/templates (MIT). Needs jinja2 and gguf.
"""

import json
import pathlib
import sys

import gguf
import jinja2.sandbox

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
QWEN2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
MISTRAL_01 = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
MISTRAL_02 = MISTRAL_01.replace("eos_token + ' '", "eos_token")
MISTRAL_02_LATER = """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in loop_messages %}{%- if message["role"] == "user" %}{%- if loop.first and system_message is defined %}{{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}{%- else %}{{- " [INST] " + message["content"] + " [/INST]" }}{%- endif %}{%- elif message["role"] == "assistant" %}{{- " " + message["content"] + eos_token}}{%- endif %}{%- endfor %}"""
MISTRAL_03 = """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in loop_messages %}{%- if message["role"] == "user" %}{%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}{%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}{%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}{%- endif %}{%- endfor %}"""

SYSTEM = dict(role="system", content="Answer in one line.")
CONVERSATIONS = [
    [dict(role="user", content="Who are you?")],
    [dict(role="user", content="  Spaces around.\n")],
    [dict(role="user", content="One"), dict(role="assistant", content=" Two "), dict(role="user", content="Three")],
    [SYSTEM, dict(role="user", content="Who are you?")],
    [SYSTEM, dict(role="user", content="One"), dict(role="assistant", content="Two"),
     dict(role="user", content="Three")],
]


def templates(llama_cpp, smollm2):
    folder = pathlib.Path(llama_cpp) / "models/templates"
    fields = gguf.GGUFReader(smollm2).fields
    yield "SmolLM2", "chatml", bytes(fields["tokenizer.chat_template"].parts[-1]).decode(), "<|im_start|>", "<|im_end|>"
    yield "Qwen2", "chatml", QWEN2, "", "<|im_end|>"
    for name in ("Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B"):
        yield name, "chatml", (folder / f"{name}.jinja").read_text(), "", "<|im_end|>"
    yield "Llama-2", "llama2", LLAMA2, "<s>", "</s>"
    yield "Llama-3", "llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>"
    for name in ("meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct"):
        yield name, "llama3", (folder / f"{name}.jinja").read_text(), "<|begin_of_text|>", "<|eot_id|>"
    yield "Mistral-0.1", "mistral-v1", MISTRAL_01, "<s>", "</s>"
    yield "Mistral-0.2", "mistral-v1", MISTRAL_02, "<s>", "</s>"
    yield "Mistral-0.2-later", "mistral-v1", MISTRAL_02_LATER, "<s>", "</s>"
    yield "Mistral-0.3", "mistral-v3", MISTRAL_03, "<s>", "</s>"
    name = "mistralai-Mistral-Nemo-Instruct-2407"
    yield name, "mistral-v3", (folder / f"{name}.jinja").read_text(), "<s>", "</s>"


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def main(llama_cpp, smollm2, out):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    vectors = []
    for name, family, text, bos, eos in templates(llama_cpp, smollm2):
        template = environment.from_string(text)
        cases = []
        for messages in CONVERSATIONS:
            try:
                prompt = template.render(messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=True,
                                         tools=None)
            except jinja2.exceptions.TemplateError:
                continue  # no system role
            cases.append(dict(messages=messages, prompt=prompt))
        vectors.append(dict(name=name, family=family, template=text, bos=bos, eos=eos, cases=cases))
    pathlib.Path(out).write_text(json.dumps(vectors, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
