//! Chat templates for files without one: each known by the control tokens that it writes, which only vocabularies of
//! models have that were trained on it.

/// A format of conversations.
pub(crate) struct BuiltIn {
    /// Its name, for a note.
    pub(crate) name: &'static str,
    /// What a vocabulary has that is made for it.
    tokens: &'static [&'static str],
    /// The Jinja program.
    pub(crate) source: &'static str,
}

/// The first whose tokens are all there counts.
const ALL: [BuiltIn; 9] = [
    BuiltIn {
        name: "gpt-oss",
        tokens: &["<|start|>", "<|channel|>", "<|message|>", "<|end|>"],
        source: "{% for m in messages %}<|start|>{{ m.role }}\
            {{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}<|end|>{% endfor %}\
            {% if add_generation_prompt %}<|start|>assistant{% endif %}",
    },
    BuiltIn {
        name: "ChatML",
        tokens: &["<|im_start|>", "<|im_end|>"],
        source: "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    },
    BuiltIn {
        name: "Llama 3",
        tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        source: "{{ bos_token }}{% for m in messages %}\
            {{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content|trim ~ '<|eot_id|>' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    },
    BuiltIn {
        name: "Gemma",
        tokens: &["<start_of_turn>", "<end_of_turn>"],
        // there is no role for instructions: they stand at the beginning of the first turn
        source: "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
            {% if m.role == 'system' %}{% set ns.system = m.content ~ '\n\n' %}{% else %}\
            {{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ ns.system ~ m.content|trim ~ \
            '<end_of_turn>\n' }}{% set ns.system = '' %}{% endif %}{% endfor %}\
            {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    },
    BuiltIn {
        name: "Phi 3",
        tokens: &["<|user|>", "<|assistant|>", "<|end|>"],
        source: "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    },
    BuiltIn {
        name: "Granite",
        tokens: &["<|start_of_role|>", "<|end_of_role|>"],
        source: "{% for m in messages %}\
            {{ '<|start_of_role|>' ~ m.role ~ '<|end_of_role|>' ~ m.content ~ '<|end_of_text|>\n' }}{% endfor %}\
            {% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
    },
    BuiltIn {
        name: "Command R",
        tokens: &["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"],
        source: "{{ bos_token }}{% set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} %}\
            {% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ names[m.role] }}_TOKEN|>{{ m.content|trim }}\
            <|END_OF_TURN_TOKEN|>{% endfor %}\
            {% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    },
    BuiltIn {
        name: "DeepSeek",
        tokens: &["<｜User｜>", "<｜Assistant｜>"],
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}\
            {% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content ~ eos_token }}\
            {% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
    },
    BuiltIn {
        name: "Mistral",
        tokens: &["[INST]", "[/INST]"],
        source: "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
            {% if m.role == 'system' %}{% set ns.system = m.content ~ '\n\n' %}\
            {% elif m.role == 'user' %}[INST] {{ ns.system ~ m.content }}[/INST]{% set ns.system = '' %}\
            {% else %} {{ m.content|trim ~ eos_token }}{% endif %}{% endfor %}",
    },
];

/// The format for a vocabulary that `has` these tokens.
pub(crate) fn built_in(has: impl Fn(&str) -> bool) -> Option<&'static BuiltIn> {
    ALL.iter().find(|format| format.tokens.iter().all(|token| has(token)))
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, Conversation, Message};
    use super::*;

    fn written(token: &str) -> String {
        let format = ALL.iter().find(|format| format.tokens.contains(&token)).unwrap();
        let found = built_in(|token| format.tokens.contains(&token)).unwrap();
        assert_eq!(found.name, format.name);
        let messages = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")]
            .map(|(r, c)| Message::new(r, c));
        let template = ChatTemplate::new(format.source, "<s>", "</s>").unwrap();
        template.render(&Conversation::new(messages.into())).unwrap().text().to_owned()
    }

    // As the models' own templates write it, where they have these roles.
    #[test]
    fn conversations_are_written_as_the_models_know_them() {
        for (token, expected) in [
            (
                "<|im_start|>",
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n\
                <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                "<|eot_id|>",
                "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi\
                <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
                Bye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            (
                "<start_of_turn>",
                "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n\
                <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
            ),
            (
                "<|channel|>",
                "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Hi<|end|>\
                <|start|>assistant<|channel|>final<|message|>Yo<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant",
            ),
            (
                "<|user|>",
                "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n",
            ),
            (
                "<|start_of_role|>",
                "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hi\
                <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>Yo<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Bye\
                <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
            ),
            (
                "<|START_OF_TURN_TOKEN|>",
                "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi\
                <|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Yo<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>\
                <|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            ),
            ("<｜User｜>", "<s>Be brief.<｜User｜>Hi<｜Assistant｜>Yo</s><｜User｜>Bye<｜Assistant｜>"),
            ("[INST]", "<s>[INST] Be brief.\n\nHi[/INST] Yo</s>[INST] Bye[/INST]"),
        ] {
            assert_eq!(written(token), expected, "{token}");
        }
    }

    #[test]
    fn a_vocabulary_without_such_tokens_has_none() {
        assert!(built_in(|token| token == "<|im_start|>").is_none());
    }
}
