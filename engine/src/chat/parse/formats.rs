//! The formats that models write tool calls and reasoning in, and how a template tells which.

use super::body::Body;

/// A way of writing tool calls and reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputFormat {
    family: &'static Family,
    reasoning: Option<(&'static str, &'static str)>,
}

/// How one family of models writes tool calls.
#[derive(Debug, PartialEq, Eq)]
struct Family {
    name: &'static str,
    /// What a template for this family has in it: all of one of these.
    known_by: &'static [&'static [&'static str]],
    /// `None`: the channels of gpt-oss.
    blocks: Option<&'static [Block]>,
}

/// Where tool calls stand.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What comes before them; empty for calls that stand without a mark, at the beginning of the answer alone.
    pub(super) open: &'static str,
    /// What comes after them, if anything does.
    pub(super) close: &'static str,
    pub(super) body: Body,
}

const fn block(open: &'static str, body: Body, close: &'static str) -> Block {
    Block { open, close, body }
}

/// The first that a template fits counts.
const FAMILIES: [Family; 17] = [
    Family { name: "gpt-oss", known_by: &[&["<|channel|>", "<|message|>", "<|start|>"]], blocks: None },
    Family {
        name: "Gemma 4",
        known_by: &[&["<|tool_call>", "<tool_call|>"]],
        blocks: Some(&[block("<|tool_call>", Body::Gemma("<|\"|>"), "<tool_call|>")]),
    },
    Family {
        name: "FunctionGemma",
        known_by: &[&["<start_function_call>"]],
        blocks: Some(&[block("<start_function_call>", Body::Gemma("<escape>"), "<end_function_call>")]),
    },
    Family {
        name: "DeepSeek",
        known_by: &[&["<｜tool▁calls▁begin｜>"]],
        blocks: Some(&[block("<｜tool▁calls▁begin｜>", Body::DeepSeek, "<｜tool▁calls▁end｜>")]),
    },
    Family {
        name: "Kimi K2",
        known_by: &[&["<|tool_calls_section_begin|>"]],
        blocks: Some(&[block("<|tool_calls_section_begin|>", Body::Kimi, "<|tool_calls_section_end|>")]),
    },
    Family {
        name: "MiniMax",
        known_by: &[&["<minimax:tool_call>"]],
        blocks: Some(&[block("<minimax:tool_call>", Body::Invoke, "</minimax:tool_call>")]),
    },
    Family {
        name: "Mistral",
        known_by: &[&["[TOOL_CALLS]"]],
        blocks: Some(&[block("[TOOL_CALLS]", Body::Mistral, "")]),
    },
    Family {
        name: "Command R7B",
        known_by: &[&["<|START_ACTION|>"]],
        blocks: Some(&[block("<|START_ACTION|>", Body::Json, "<|END_ACTION|>")]),
    },
    Family {
        name: "LFM2",
        known_by: &[&["<|tool_call_start|>"]],
        blocks: Some(&[block("<|tool_call_start|>", Body::Python, "<|tool_call_end|>")]),
    },
    Family {
        name: "Nemotron",
        known_by: &[&["<TOOLCALL>"]],
        blocks: Some(&[block("<TOOLCALL>", Body::Json, "</TOOLCALL>")]),
    },
    Family {
        name: "Seed-OSS",
        known_by: &[&["<seed:tool_call>"]],
        blocks: Some(&[block("<seed:tool_call>", Body::Tagged, "</seed:tool_call>")]),
    },
    // Hermes and Qwen write JSON between the tags, Qwen3-Coder and GLM further tags
    Family {
        name: "Hermes",
        known_by: &[&["<tool_call>"]],
        blocks: Some(&[block("<tool_call>", Body::Tagged, "</tool_call>")]),
    },
    Family {
        name: "Granite 3",
        known_by: &[&["<|tool_call|>"]],
        blocks: Some(&[block("<|tool_call|>", Body::Json, "")]),
    },
    Family {
        name: "Functionary 3.1",
        known_by: &[&["<function="]],
        blocks: Some(&[
            block("<function=", Body::Function, "</function>"),
            block("<|python_tag|>", Body::PythonTag, ""),
        ]),
    },
    Family {
        name: "Llama 3",
        known_by: &[&["<|python_tag|>"], &["<|start_header_id|>", "\"parameters\""]],
        blocks: Some(&[block("", Body::Json, ""), block("<|python_tag|>", Body::PythonTag, "")]),
    },
    Family {
        name: "Gemma",
        known_by: &[&["<start_of_turn>"]],
        blocks: Some(&[block("```tool_code\n", Body::Python, "```")]),
    },
    Family { name: "plain", known_by: &[&[]], blocks: Some(&[]) },
];

/// What stands around reasoning.
const REASONING: [(&str, &str); 5] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
];

impl OutputFormat {
    /// The format of a model whose chat template is `template`.
    pub fn of(template: &str) -> Self {
        let has_all = |marks: &&[&str]| marks.iter().all(|mark| template.contains(mark));
        let [.., plain] = &FAMILIES;
        let family = FAMILIES.iter().find(|family| family.known_by.iter().any(has_all)).unwrap_or(plain);
        let reasoning = REASONING.into_iter().find(|(_, close)| template.contains(close));
        Self { family, reasoning }
    }

    /// The family's name.
    pub fn name(&self) -> &'static str {
        self.family.name
    }

    /// What stands before and after reasoning.
    pub(super) fn reasoning(&self) -> Option<(&'static str, &'static str)> {
        self.reasoning
    }

    pub(super) fn blocks(&self) -> Option<&'static [Block]> {
        self.family.blocks
    }
}
