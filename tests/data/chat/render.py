"""Renders chat templates as the Python package transformers does: what braise is compared with.

    render.py SECONDS CONVERSATIONS TEMPLATE...

prints {template: {conversation: {"text": ...} or {"error": ...}}}. The environment is that of transformers'
`chat_template_utils` (5.x), which needs jinja2 alone; `SECONDS` since 1970 are what a template takes for now.
"""

import datetime
import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

BOS, EOS = "<s>", "</s>"
REASONING = ("reasoning_content", "thinking", "reasoning")


class Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment(now):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime.fromtimestamp(now).strftime(format)
    return env


def named_reasoning(message):
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def render(template, conversation):
    try:
        return {
            "text": template.render(
                messages=[named_reasoning(message) for message in conversation["messages"]],
                tools=conversation.get("tools"),
                documents=conversation.get("documents"),
                add_generation_prompt=conversation["add_generation_prompt"],
                bos_token=BOS,
                eos_token=EOS,
                **conversation.get("variables", {}),
            )
        }
    except Exception as error:  # whatever a template does wrong
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    now, conversations, paths = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    conversations = json.loads(pathlib.Path(conversations).read_text("utf-8"))
    env = environment(now)
    results = {}
    for path in map(pathlib.Path, paths):
        template = env.from_string(path.read_text("utf-8"))
        results[path.name] = {name: render(template, c) for name, c in conversations.items()}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
