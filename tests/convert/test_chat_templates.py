"""Chat templates render as transformers renders them, wherever they are stored."""

import json

import pytest
from originals import small_tokenizer
from transformers import AutoTokenizer

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.tokenizer import foreign_vocabulary
from multistride.data.chat import rendered
from multistride.data.vocab import train_vocabulary
from multistride.data.vocabulary_files import load_vocabulary, save_vocabulary
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

# In the manner of real ones, each with what one family of them uses.
TEMPLATES = {
    "chatml": "{% for message in messages %}\n    "
    "{% if loop.first and message.role != 'system' %}\n"
    "{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}\n    {% endif %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "headers": "{{- bos_token }}\n{%- if not date_string is defined %}\n"
    "    {%- if strftime_now is defined %}\n        "
    "{%- set date_string = strftime_now('%d %b %Y') %}\n"
    "    {%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}\n{%- endif %}\n"
    "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}\n"
    "{{- '<|header|>system<|header|>\\n\\nToday: ' + date_string + '\\n' }}\n"
    "{%- if tools is not none %}{{- 'Tools: ' + tools | tojson(indent=4) }}{%- endif %}\n"
    "{%- for message in messages %}\n{{- '<|header|>' + message['role'] + message['content'] | "
    "trim }}\n"
    "{%- endfor %}",
    "none": "{% if tools is none %}no tools{% else %}tools{% endif %}"
    "{% if documents is none %}, no documents{% endif %}",
    "json": "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=2) }}"
    "{{ {'b': '<é&>', 'a': none} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "generation": "{% for message in messages %}{% if message.role == 'assistant' %}\n"
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}\n{% else %}\n"
    "{{ message.content }}{% endif %}{% endfor %}",
    "loops": "{% for message in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
    "{% if not message.content %}{% continue %}{% endif %}{{ message.content }}{% endfor %}",
    "namespace": "{%- set ns = namespace(found=false, text='') -%}\n{%- for m in messages -%}\n"
    "{%- if m.role == 'system' -%}{%- set ns.found = true -%}{%- set ns.text = m.content -%}"
    "{%- endif -%}\n{%- endfor -%}\n{{- ns.found ~ ':' ~ ns.text ~ '[' ~ messages[1:]|length ~ "
    "']' -}}",
    "macro": "{%- macro turn(role, text) -%}<{{ role }}>{{ text|trim }}</{{ role }}>"
    "{%- endmacro -%}\n"
    "{{ turn(messages[-1].role, messages[-1]['content']) }}{{ turn('x', '  y ') | upper }}",
    "symbols": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ sep_token }}|{{ cls_token }}|"
    "{% if pad_token is defined %}{{ pad_token }}{% endif %}",
}
CONVERSATIONS = [
    [{"role": "user", "content": "  <b>Wie geht's & 'dir'?</b> é {{ 1 + 1 }}\n"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
]


def directory(place, template=None, file=None, **special):
    """A model directory's tokenizer files, with a template in one place or the other."""
    special = special or {"bos_token": "<s>", "eos_token": "</s>"}
    small_tokenizer(place / "theirs", **special)
    settings = json.loads((place / "theirs" / "tokenizer_config.json").read_text())
    if template is not None:
        settings["chat_template"] = template
    text = (place / "theirs" / "tokenizer.json").read_text()
    config = TransformerConfig(encoder_layers=0, start_symbol=False)
    source = Checkpoint("theirs", {}, frozenset(), None, text, settings)
    save_vocabulary(foreign_vocabulary(source, config)[0], place / "ours")
    if file is not None:
        (place / "ours" / "chat_template.jinja").write_text(file)
    return place / "ours"


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["user", "system"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(name, messages, tmp_path):
    # Guards: tags, filters, names and blanks that transformers gives to all templates; a BOS that
    # a tokenizer does not have.
    place = directory(tmp_path, TEMPLATES[name])
    tokenizer = AutoTokenizer.from_pretrained(place)
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    vocabulary = load_vocabulary(place)
    text = rendered(vocabulary.chat_template, messages, vocabulary.symbols())
    assert text == expected
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.encode_rendered([text]) == [ids]


def test_a_symbol_that_the_tokenizer_lacks_is_not_made_up(tmp_path):
    # Guards: EOS in the place of a BOS, before every conversation of a model without one.
    place = directory(tmp_path, TEMPLATES["symbols"], eos_token="</s>")
    tokenizer = AutoTokenizer.from_pretrained(place)
    expected = tokenizer.apply_chat_template(CONVERSATIONS[0], tokenize=False)
    vocabulary = load_vocabulary(place)
    assert rendered(vocabulary.chat_template, CONVERSATIONS[0], vocabulary.symbols()) == expected
    assert expected.startswith("|</s>|")


def test_where_a_template_is_stored(tmp_path):
    # Guards: named lists, and the file of its own that transformers 5 writes.
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert load_vocabulary(directory(tmp_path / "list", named)).chat_template == "D"
    assert load_vocabulary(directory(tmp_path / "file", "old", "new")).chat_template == "new"
    place = directory(tmp_path / "saved", "{{ messages[0].content }}")
    AutoTokenizer.from_pretrained(place).save_pretrained(tmp_path / "again")
    again = load_vocabulary(tmp_path / "again")
    assert again.chat_template == "{{ messages[0].content }}"
    assert again.eos == load_vocabulary(place).eos
    own = train_vocabulary(["a b c"], 300, "bpe")
    save_vocabulary(own, tmp_path / "own", "causal")
    (tmp_path / "own" / "chat_template.jinja").write_text("<s>{{ messages[0].content }}")
    vocabulary = load_vocabulary(tmp_path / "own")
    assert vocabulary.chat_template == "<s>{{ messages[0].content }}"
    assert vocabulary.encode_rendered(["<s>a"])[0][0] == vocabulary.bos
    (tmp_path / "own" / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"chat_template.jinja is not UTF-8 text: copy or download"):
        load_vocabulary(tmp_path / "own")  # a traceback in every verb that opens the directory
    with pytest.raises(DataError, match="chat templates a and none named default"):
        load_vocabulary(directory(tmp_path / "none", [{"name": "a", "template": "A"}]))
