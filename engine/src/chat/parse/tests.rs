use serde_json::json;

use super::*;

fn tools() -> Vec<Value> {
    let properties =
        json!({"city": {"type": "string"}, "days": {"type": "integer"}, "zip": {"type": "string"}});
    vec![json!({"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}})]
}

fn parse(template: &str, prompt: &str, pieces: &[&str]) -> Vec<Event> {
    let mut parser = OutputParser::new(OutputFormat::of(template), prompt, &tools());
    let mut events: Vec<Event> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    let mut joined = Vec::new();
    for event in events {
        match event {
            Event::Content(text) => tell(&mut joined, false, &text),
            Event::Reasoning(text) => tell(&mut joined, true, &text),
            call => joined.push(call),
        }
    }
    joined
}

fn content(text: &str) -> Event {
    Event::Content(text.into())
}

fn reasoning(text: &str) -> Event {
    Event::Reasoning(text.into())
}

fn call(name: &str, arguments: Value) -> Event {
    let Value::Object(arguments) = arguments else { panic!("is an object") };
    Event::ToolCall(ToolCall { name: name.into(), arguments, id: None })
}

fn call_with_id(name: &str, arguments: Value, id: &str) -> Event {
    let Event::ToolCall(call) = call(name, arguments) else { unreachable!() };
    Event::ToolCall(ToolCall { id: Some(id.into()), ..call })
}

/// A template's marks, the end of the prompt, what a model wrote, and what it is.
type Case = (&'static str, &'static str, &'static str, Vec<Event>);

const QWEN: &str = "<think></think><tool_call>";
const LLAMA: &str = "<|python_tag|>";
const MISTRAL: &str = "[TOOL_CALLS][THINK][/THINK]";
const GPT_OSS: &str = "<|start|><|channel|><|message|>";
const DEEPSEEK: &str = "<｜tool▁calls▁begin｜></think>";

fn cases() -> Vec<Case> {
    let bern = || json!({"city": "Bern", "days": 2});
    vec![
        ("", "", "Hi <tool_call> <think>x</think>\n", vec![content("Hi <tool_call> <think>x</think>\n")]),
        ("", "", "  a\n", vec![content("  a\n")]),
        // Hermes, Qwen
        (QWEN, "", "<think>\nSo.\n</think>\n\nHi é!", vec![reasoning("So."), content("Hi é!")]),
        (QWEN, "", "<think>\n\n</think>\n\nHi", vec![content("Hi")]),
        (
            QWEN,
            "assistant\n<think>\n",
            "So.\n\nWell\n</think>\n\nHi",
            vec![reasoning("So.\n\nWell"), content("Hi")],
        ),
        (QWEN, "<think>\n\n</think>\n\n", "Hi", vec![content("Hi")]),
        (QWEN, "<think>", "cut off ", vec![reasoning("cut off")]),
        (
            QWEN,
            "",
            "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Bern\", \"days\": 2}}\n</tool_call>\n\
            <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
            vec![content("I look."), call("f", bern()), call("g", json!({}))],
        ),
        (
            QWEN,
            "",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"city\": \"a </tool_call> b\"}}</tool_call> Done",
            vec![call("f", json!({"city": "a </tool_call> b"})), content("Done")],
        ),
        (QWEN, "", "<tool_call>{\"name\": \"g\", \"arguments\": {}}", vec![call("g", json!({}))]),
        (QWEN, "", "<tool_call>{\"name\": \"g\", \"arguments\": {}}\n</tool", vec![call("g", json!({}))]),
        // what is no call is text
        (
            QWEN,
            "",
            "<tool_call>{\"name\": 3}</tool_call>",
            vec![content("<tool_call>{\"name\": 3}</tool_call>")],
        ),
        (QWEN, "", "<tool_call>{\"name\" \"g\"", vec![content("<tool_call>{\"name\" \"g\"")]),
        (QWEN, "", "<tool_call>{\"name\": \"g\", \"arg", vec![content("<tool_call>{\"name\": \"g\", \"arg")]),
        (
            QWEN,
            "",
            "<tool_call>{oops}</tool_call> <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
            vec![content("<tool_call>{oops}</tool_call>"), call("g", json!({}))],
        ),
        (QWEN, "", "a < b <tool", vec![content("a < b <tool")]),
        // Qwen3-Coder and GLM
        (
            QWEN,
            "",
            "<tool_call>\n<function=f>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n\
            <parameter=zip>\n3000\n</parameter>\n<parameter=x>\n[1]\n</parameter>\n</function>\n</tool_call>",
            vec![call("f", json!({"city": "Bern", "days": 2, "zip": "3000", "x": [1]}))],
        ),
        (
            QWEN,
            "",
            "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n<arg_key>days</arg_key>\n\
            <arg_value>2</arg_value>\n</tool_call>",
            vec![call("f", bern())],
        ),
        (QWEN, "", "<tool_call>now</tool_call>", vec![call("now", json!({}))]),
        (QWEN, "", "<tool_call>is a tag</tool_call>", vec![content("<tool_call>is a tag</tool_call>")]),
        // Llama 3
        (
            LLAMA,
            "",
            "{\"name\": \"f\", \"parameters\": {\"city\": \"Bern\", \"days\": 2}}",
            vec![call("f", bern())],
        ),
        (
            LLAMA,
            "",
            "\n{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}\n{\"name\": \"g\", \"parameters\": {}}",
            vec![call("f", json!({})), call("g", json!({}))],
        ),
        (LLAMA, "", "{\"a\": 1} is JSON", vec![content("{\"a\": 1} is JSON")]),
        (LLAMA, "", " {a {\"name\"", vec![content(" {a {\"name\"")]),
        (
            LLAMA,
            "",
            "So {\"name\": \"f\", \"parameters\": {}}",
            vec![content("So {\"name\": \"f\", \"parameters\": {}}")],
        ),
        (LLAMA, "", "<|python_tag|>{\"name\": \"g\", \"parameters\": {}}", vec![call("g", json!({}))]),
        (
            LLAMA,
            "",
            "<|python_tag|>brave_search.call(query=\"a \\\"b\\\", c\")",
            vec![call("brave_search", json!({"query": "a \"b\", c"}))],
        ),
        (
            LLAMA,
            "",
            "<|python_tag|>print(1)\nx = 2",
            vec![call("python", json!({"code": "print(1)\nx = 2"}))],
        ),
        // Functionary 3.1
        (
            "<function=",
            "",
            "Well <function=f>{\"city\": \"</function>\"}</function><function=g>{}</function>",
            vec![content("Well"), call("f", json!({"city": "</function>"})), call("g", json!({}))],
        ),
        ("<function=", "", "<function=f>{bad}</function>", vec![content("<function=f>{bad}</function>")]),
        // Mistral
        (
            MISTRAL,
            "",
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"city\": \"Bern\", \"days\": 2}, \"id\": \"abcdef123\"}]",
            vec![call_with_id("f", bern(), "abcdef123")],
        ),
        (
            MISTRAL,
            "",
            "[THINK]Hm[/THINK][TOOL_CALLS]f[ARGS]{\"city\": \"Bern\", \"days\": 2}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{}",
            vec![reasoning("Hm"), call("f", bern()), call_with_id("g", json!({}), "x1")],
        ),
        (MISTRAL, "", "[TOOL_CALLS] no, [1]", vec![content("[TOOL_CALLS] no, [1]")]),
        (MISTRAL, "", "[TOOL_CALLS]f[ARGS]{\"city\": ", vec![content("[TOOL_CALLS]f[ARGS]{\"city\": ")]),
        // gpt-oss
        (
            GPT_OSS,
            "<|start|>assistant",
            "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>!\n",
            vec![reasoning("So."), content("Hi <b>!\n")],
        ),
        (
            GPT_OSS,
            "",
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f \
            <|constrain|>json<|message|>{\"city\": \"Bern\", \"days\": 2}<|call|>",
            vec![content("I look."), call("f", bern())],
        ),
        (GPT_OSS, "", " to=functions.g<|channel|>commentary json<|message|>{}", vec![call("g", json!({}))]),
        (
            GPT_OSS,
            "",
            "<|channel|>commentary to=functions.f<|message|>{oops",
            vec![content("<|channel|>commentary to=functions.f<|message|>{oops")],
        ),
        (GPT_OSS, "", "Just text <|", vec![content("Just text <|")]),
        (GPT_OSS, "", "<|channel|>final", vec![content("<|channel|>final")]),
        // DeepSeek
        (
            DEEPSEEK,
            "<think>\n",
            "So.</think>Hi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"city\": \"Bern\", \"days\": 2}\n\
            ```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            vec![reasoning("So."), content("Hi"), call("f", bern()), call("g", json!({}))],
        ),
        (
            DEEPSEEK,
            "",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
            vec![call("g", json!({}))],
        ),
        (DEEPSEEK, "", "<｜tool▁calls▁begin｜>oops", vec![content("<｜tool▁calls▁begin｜>oops")]),
        // Gemma
        (
            "<start_function_call>",
            "",
            "<start_function_call>call:f{city:<escape>Bern, {x}<escape>,days:2,list:[1,true,{a:null}]}<end_function_call>",
            vec![call("f", json!({"city": "Bern, {x}", "days": 2, "list": [1, true, {"a": null}]}))],
        ),
        (
            "<|tool_call><tool_call|>",
            "",
            "<|tool_call>call:f{city:<|\"|>Bern<|\"|>}<tool_call|><|tool_call>call:g{}<tool_call|>",
            vec![call("f", json!({"city": "Bern"})), call("g", json!({}))],
        ),
        (
            "<start_of_turn>",
            "",
            "Sure:\n```tool_code\nf(city='Bern', days=2)\n```\n",
            vec![content("Sure:"), call("f", bern())],
        ),
        ("<start_of_turn>", "", "```tool_code\nprint(1)\n```", vec![content("```tool_code\nprint(1)\n```")]),
        // others
        (
            "<|tool_calls_section_begin|>",
            "",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"days\": 2}\
            <|tool_call_end|><|tool_calls_section_end|>",
            vec![call_with_id("f", json!({"days": 2}), "functions.f:0")],
        ),
        (
            "<minimax:tool_call>",
            "",
            "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"city\">Bern</parameter>\n\
            <parameter name=\"days\">2</parameter>\n</invoke>\n</minimax:tool_call>",
            vec![call("f", bern())],
        ),
        (
            "<|START_ACTION|><|START_THINKING|><|END_THINKING|>",
            "",
            "<|START_THINKING|>So<|END_THINKING|><|START_ACTION|>[\n{\"tool_call_id\": \"0\", \"tool_name\": \"f\", \
            \"parameters\": {\"days\": 2}}\n]<|END_ACTION|>",
            vec![reasoning("So"), call_with_id("f", json!({"days": 2}), "0")],
        ),
        (
            "<|tool_call_start|>",
            "",
            "<|tool_call_start|>[f(city=\"Bern\", days=2), g(on=True, off=None)]<|tool_call_end|>",
            vec![call("f", bern()), call("g", json!({"on": true, "off": null}))],
        ),
        (
            "<|tool_call|>",
            "",
            "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"days\": 2}}]",
            vec![call("f", json!({"days": 2}))],
        ),
        (
            "<TOOLCALL>",
            "",
            "<TOOLCALL>[{\"name\": \"f\", \"arguments\": \"{\\\"days\\\": 2}\"}]</TOOLCALL>",
            vec![call("f", json!({"days": 2}))],
        ),
    ]
}

#[test]
fn texts_are_taken_apart() {
    for (template, prompt, text, expected) in cases() {
        assert_eq!(parse(template, prompt, &[text]), expected, "{template} {text}");
    }
}

#[test]
fn the_pieces_that_a_text_comes_in_change_nothing() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (template, prompt, text, expected) in cases() {
        let places: Vec<usize> = (1..text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        for at in &places {
            let (first, second) = text.split_at(*at);
            assert_eq!(
                parse(template, prompt, &[first, second]),
                expected,
                "{template} {first:?} | {second:?}"
            );
        }
        for share in [1, 2, 5, 20] {
            let mut cuts: Vec<usize> = places.iter().copied().filter(|_| rng.usize(..share) == 0).collect();
            cuts.push(text.len());
            let mut start = 0;
            let pieces: Vec<&str> =
                cuts.iter().map(|end| &text[std::mem::replace(&mut start, *end)..*end]).collect();
            assert_eq!(parse(template, prompt, &pieces), expected, "{template} {pieces:?}");
        }
    }
}

#[test]
fn no_text_is_lost_and_pieces_change_nothing_when_models_write_nonsense() {
    let mut rng = fastrand::Rng::with_seed(3);
    let all = cases();
    let marks = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        "[TOOL_CALLS]",
        "\"name\": \"f\"",
        "<|python_tag|>",
        "<|channel|>final<|message|>",
        "<|end|>",
        "to=",
        "[",
        "]",
        " ",
        "\n",
        "é",
        ",",
        "x",
        ":",
        "<function=",
        ">",
    ];
    for _ in 0..3000 {
        let template = all[rng.usize(..all.len())].0;
        let text: String = (0..rng.usize(1..12)).map(|_| marks[rng.usize(..marks.len())]).collect();
        let whole = parse(template, "", &[&text]);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(parse(template, "", &letters), whole, "{template} {text:?}");
        // every x that is written is found again
        let count = |text: &str| text.matches('x').count();
        let told: usize = whole
            .iter()
            .map(|event| match event {
                Event::Content(text) | Event::Reasoning(text) => count(text),
                Event::ToolCall(call) => {
                    count(&call.name) + count(&Value::Object(call.arguments.clone()).to_string())
                }
            })
            .sum();
        let in_headers = template == GPT_OSS; // whose headers are no text
        assert!(told == count(&text) || in_headers, "{template} {text:?}: {whole:?}");
    }
}

#[test]
fn text_goes_on_as_soon_as_it_is_certain() {
    let mut parser = OutputParser::new(OutputFormat::of(QWEN), "", &[]);
    assert_eq!(parser.push("Hi <b> <to"), [content("Hi <b>")]);
    assert_eq!(parser.push("y"), [content(" <toy")]);
    assert_eq!(parser.push("<think>a"), [reasoning("a")]);
    assert_eq!(parser.push(" b</thin"), [reasoning(" b")]);
    assert_eq!(parser.finish(), [reasoning("</thin")]);
}

#[test]
fn deep_values_are_no_calls() {
    let text = format!("<|tool_call_start|>f(a={}", "[".repeat(100_000));
    assert_eq!(parse("<|tool_call_start|>", "", &[&text]), [content(&text)]);
    let text = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {}", "{\"a\":".repeat(100_000));
    assert_eq!(parse(QWEN, "", &[&text]), [content(&text)]);
}

#[test]
fn families_are_known_by_their_templates() {
    for (template, name) in [
        ("{{ '<tool_call>' }}", "Hermes"),
        ("<|python_tag|>", "Llama 3"),
        ("<|start_header_id|>{\"name\": .., \"parameters\": ..}", "Llama 3"),
        ("[TOOL_CALLS]", "Mistral"),
        ("<start_of_turn>", "Gemma"),
        ("<|im_start|>", "plain"),
    ] {
        assert_eq!(OutputFormat::of(template).name(), name);
    }
}
