"""Chat templates: what they write, and what they may not do."""

import sys

import pytest

from multistride.data.chat import rendered
from multistride.errors import DataError, MissingExtraError

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}[be "
    "kind]{% endif %}"
    "{{ bos_token + message['role'] + ': ' + message['content'] + eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
)
SYMBOLS = {"bos_token": "<s>", "eos_token": "</s>"}
QUESTION = {"role": "user", "content": "How {{ 1 + 1 }}?"}


def test_a_conversation_becomes_one_text():
    # Guards: an answer that is not asked for, content that is taken for template.
    assert (
        rendered(TEMPLATE, [QUESTION], SYMBOLS)
        == "[be kind]<s>user: How {{ 1 + 1 }}?</s>\n<s>assistant: "
    )
    system = {"role": "system", "content": "Be brief."}
    assert rendered(TEMPLATE, [system, QUESTION], SYMBOLS).startswith(
        "<s>system: Be brief.</s>\n<s>user"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system turn') }}", "refuses the conversation: no system turn"),
        ("{% if %}", "cannot be run: Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "cannot be run: access to attribute '__class__'"),
        ("{{ nothing.of.this }}", "cannot be run: 'nothing' is undefined"),
    ],
)
def test_what_a_template_may_not_do(template, reason):
    # Guards: a stranger's template that reaches Python, and a traceback in place of one line.
    with pytest.raises(DataError) as caught:
        rendered(template, [QUESTION], SYMBOLS)
    assert reason in str(caught.value)


def test_without_jinja2_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[chat\]'"):
        rendered(TEMPLATE, [QUESTION], SYMBOLS)
