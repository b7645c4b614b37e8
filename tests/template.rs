//! Chat templates against what Hugging Face transformers renders.

use candlewick::Code;
use candlewick::chat::{ChatTemplate, Conversation, LocalTime, SpecialTokens, formats, message};
use candlewick::format::gguf::{Header, Metadata};
use candlewick::store::MemorySource;
use serde_json::{Value, json};
use std::path::Path;

fn fixture(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tokens(pairs: &[(&str, &Value)]) -> SpecialTokens {
    pairs
        .iter()
        .filter(|(_, text)| text.is_string())
        .map(|(name, text)| (name.to_string(), (*text).clone()))
        .collect()
}

fn template(source: &str) -> candlewick::Result<ChatTemplate> {
    let tokens = tokens(&[("bos_token", &json!("<s>")), ("eos_token", &json!("</s>"))]);
    ChatTemplate::new("test", source, None, tokens)
}

fn render(source: &str, variables: Value) -> candlewick::Result<String> {
    let Value::Object(variables) = variables else { panic!("not an object") };
    template(source)?.render(&Conversation { variables, ..Conversation::new(vec![message("user", "Hi")]) })
}

/// 2024-07-26T12:34:56, where the goldens were made.
const NOW: LocalTime = LocalTime { unix_seconds: 1_721_997_296, utc_offset: 0 };

#[test]
fn goldens_of_transformers() {
    let goldens: Value = serde_json::from_str(&fixture("goldens/templates.json")).unwrap();
    assert_eq!(goldens["now"], NOW.strftime("%Y-%m-%dT%H:%M:%S"));
    let mut wrong = Vec::new();
    let cases = goldens["cases"].as_array().unwrap();
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let tokens = tokens(&[("bos_token", &case["bos_token"]), ("eos_token", &case["eos_token"])]);
        let template =
            ChatTemplate::new("model", &fixture(&format!("templates/{name}")), None, tokens).unwrap();
        let mut request: Conversation = serde_json::from_value(case.clone()).unwrap();
        request.now = Some(NOW);
        request.variables = case["kwargs"].as_object().cloned().unwrap_or_default();
        let rendered = template.render(&request);
        let agrees = match case["text"].as_str() {
            Some(text) => rendered.as_deref() == Ok(text),
            // What the template says itself is passed on; other messages are Python's.
            None => rendered.as_ref().is_err_and(|error| {
                error.code == Code::InvalidArgument
                    && (case["raised"] == false || error.message.ends_with(case["error"].as_str().unwrap()))
            }),
        };
        if !agrees {
            wrong.push(format!("{name} {}\n{rendered:?}\nnot {}", case["messages"], case["text"]));
        }
    }
    assert!(cases.len() >= 100);
    assert!(wrong.is_empty(), "{} of {} differ, first: {}", wrong.len(), cases.len(), wrong[0]);
}

#[test]
fn expressions_mean_what_they_do_in_python() {
    let variables = json!({"list": [3, 1], "none": null, "map": {"items": 1, "b": [1.0, 1e-7, true, null, "it's"]}, "text": " a b "});
    let cases = [
        // Where minijinja differs, or panics.
        (
            "{{ [][::-1] }}{{ list[::-1] }}{{ text[1:4:2] }}{{ list[5:1] }}{{ list[1:5:-1] }}",
            "[][1, 3]ab[][]",
        ),
        ("{{ map }}", "{'items': 1, 'b': [1.0, 1e-07, True, None, \"it's\"]}"),
        ("{{ map|tojson }}", r#"{"items": 1, "b": [1.0, 1e-07, true, null, "it's"]}"#),
        ("{{ 'é<\"\\n'|tojson }}{{ 'é'|tojson(ensure_ascii=true) }}", "\"é<\\\"\\n\"\"\\u00e9\""),
        ("{{ [1, {}]|tojson(indent=2) }}", "[\n  1,\n  {}\n]"),
        ("{{ map.items is defined and map.items != 1 }}{{ map['items'] }}", "True1"),
        ("{% for k, v in map.items() %}{{ k }}{{ loop.last }};{% endfor %}", "itemsFalse;bTrue;"),
        ("{% set ns = namespace(items=[]) %}{% set ns.items = ns.items + [1] %}{{ ns.items }}", "[1]"),
        (
            "{% if list|select('>', 5) %}t{% endif %}{{ none is iterable }}{{ undefined is iterable }}",
            "tFalseTrue",
        ),
        ("{{ undefined|length }}{{ undefined|first }}{{ undefined ~ 1 }}{{ none ~ true }}", "01NoneTrue"),
        (
            "{{ text.split(none, 1) }}{{ 'a,b'.rsplit(',', maxsplit=1) }}{{ \"they're\".title() }}",
            "['a', 'b ']['a', 'b']They'Re",
        ),
        ("{%- generation -%} a {% endgeneration %}\nb{% for x in list %}{% break %}{% endfor %}", "a b"),
        ("a\r\n  {% if true %}\n  b\n  {% endif %}\n", "a\n  b\n"),
        (
            "{{ range(-9223372036854775807, 9223372036854775807, -5) }}{{ range(5, 0, -2)|list }}",
            "range(-9223372036854775807, 9223372036854775807, -5)[5, 3, 1]",
        ),
        ("{% raw %}{{ x[1:] }}{% endraw %}", "{{ x[1:] }}"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, variables.clone()).as_deref(), Ok(expected), "{source}");
    }
    for source in [
        "{{ undefined.x }}",
        "{{ undefined + 'x' }}",
        "{% for x in none %}{% endfor %}",
        "{{ [].append(1) }}",
    ] {
        assert_eq!(render(source, json!({})).unwrap_err().code, Code::InvalidArgument, "{source}");
    }
    let error = render("{{ raise_exception('Roles must ' ~ 'alternate') }}", json!({})).unwrap_err();
    assert!(
        error.code == Code::InvalidArgument && error.message.ends_with(": Roles must alternate"),
        "{error}"
    );
    assert_eq!(template("{% if %}").unwrap_err().code, Code::UnsupportedModel);
}

#[test]
fn hostile_templates_end_in_errors() {
    let many = |part: &str| part.repeat(20_000);
    let doubling = |op: &str| {
        format!(
            "{{% set ns = namespace(s='x') %}}{{% for i in range(99) %}}{{% set ns.s = ns.s {op} ns.s %}}{{% endfor %}}"
        )
    };
    let templates = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(10000) %}{{ 'x' * 1000000 }}{% endfor %}".to_owned(),
        "{% set x %}{% for i in range(10000) %}{{ 'x' * 1000000 }}{% endfor %}{% endset %}".to_owned(),
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('xx') }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}"
            .to_owned(),
        doubling("~"),
        doubling("+"),
        format!("{{% with a='x' %}}{}{}", "{% with a=a~a %}".repeat(60), "{% endwith %}".repeat(61)),
        "{{ ('x' * 9999999)|replace('x', 'y' * 9999999) }}".to_owned(),
        "{{ range(99999)|join('y' * 9999999) }}".to_owned(),
        "{{ ([0] * 99999999)|list }}".to_owned(),
        "{{ '%999999999d'|format(1) }}".to_owned(),
        "{{ '{:999999999}'.format(1) }}".to_owned(),
        "{{ 'x'.ljust(9999999999) }}".to_owned(),
        "{{ [1]|batch(9999999999, 'x')|list }}".to_owned(),
    ];
    for source in templates {
        let error = runs(&source).unwrap_err();
        assert!(matches!(error.code, Code::UnsupportedModel | Code::InvalidArgument), "{source}: {error}");
    }
    let refused = [
        format!("{{{{ {}1 }}}}", many("not ")),
        format!("{{{{ {}1 }}}}", many("-")),
        format!("{{{{ 1{} }}}}", many("|string")),
        format!("{{{{ x{} }}}}", many(".a")),
        format!("{{{{ {}{} }}}}", many("["), many("]")),
        many("{% if 1 %}"),
        // No chat template has others to load, and minijinja panics on this one.
        "{% import 'x' as y|list %}".to_owned(),
        "x".repeat(1 << 20),
    ];
    for source in refused {
        let start: String = source.chars().take(80).collect();
        assert_eq!(template(&source).map(drop).unwrap_err().code, Code::UnsupportedModel, "{start}");
    }
}

/// Renders a template that must parse: one that does not shows nothing about rendering.
fn runs(source: &str) -> candlewick::Result<String> {
    let start: String = source.chars().take(150).collect();
    let template = template(source).unwrap_or_else(|error| panic!("{start}: {error}"));
    template.render(&Conversation::new(vec![message("user", "Hi")]))
}

#[test]
fn the_last_message_can_be_continued() {
    let chatml = ChatTemplate::named("chatml", SpecialTokens::new()).unwrap();
    let continued =
        |messages: Vec<Value>| Conversation { continue_final_message: true, ..Conversation::new(messages) };
    let said = |text: &str| continued(vec![message("user", "Hi"), message("assistant", text)]);
    let start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(chatml.render(&said("I am ")).unwrap(), format!("{start}I am "));
    // A template that trims messages trims here as well.
    let llama = ChatTemplate::named("llama3", tokens(&[("bos_token", &json!("<s>"))])).unwrap();
    assert!(llama.render(&said("I am ")).unwrap().ends_with("<|end_header_id|>\n\nI am"));
    let parts = json!({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    assert!(chatml.render(&continued(vec![parts])).unwrap().ends_with("assistant\nab"));

    let refused = |request: Conversation| chatml.render(&request).unwrap_err().code == Code::InvalidArgument;
    assert!(refused(continued(vec![])));
    let empty = continued(vec![json!({"role": "assistant", "content": null})]);
    assert_eq!(chatml.render(&empty).unwrap(), "<|im_start|>assistant\n");
    assert!(refused(Conversation { add_generation_prompt: Some(true), ..said("x") }));
    assert!(refused(Conversation::new(vec![json!("not an object")])));
    // The template never shows what is to be continued.
    let deaf = template("{{ 'content' }}").unwrap();
    assert_eq!(deaf.render(&said("x")).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn variants_and_clocks() {
    let template = ChatTemplate::new("model", "plain", Some("with tools"), SpecialTokens::new()).unwrap();
    let mut request = Conversation::new(vec![message("user", "Hi")]);
    assert_eq!(template.render(&request).unwrap(), "plain");
    request.tools = Some(vec![]);
    assert_eq!(template.render(&request).unwrap(), "with tools");

    let source = "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no clock' }}";
    let template = ChatTemplate::new("model", source, None, SpecialTokens::new()).unwrap();
    assert_eq!(template.render(&request).unwrap(), "no clock");
    request.now = Some(NOW);
    assert_eq!(template.render(&request).unwrap(), "26 Jul 2024");
}

#[test]
fn named_formats() {
    let tokens = tokens(&[("bos_token", &json!("<s>")), ("eos_token", &json!("</s>"))]);
    let request = Conversation::new(vec![
        message("system", "Be brief."),
        json!({"role": "user", "content": [{"type": "text", "text": "Hi"}]}),
        message("assistant", "Hello."),
        message("user", "2+2?"),
    ]);
    let expected = [
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "deepseek",
            "<s>Be brief.<｜User｜>Hi<｜Assistant｜>Hello.<｜end▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜>",
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("llama2", "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] 2+2? [/INST]"),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s> [INST] Be brief.\n\nHi [/INST] Hello.</s> [INST] 2+2? [/INST]"),
        ("mistral-v3", "<s>[INST] Be brief.\n\nHi[/INST] Hello.</s>[INST] 2+2?[/INST]"),
        ("mistral-tekken", "<s>[INST]Be brief.\n\nHi[/INST]Hello.</s>[INST]2+2?[/INST]"),
        (
            "phi3",
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n<|user|>\n2+2?<|end|>\n<|assistant|>\n",
        ),
        (
            "zephyr",
            "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n<|user|>\n2+2?</s>\n<|assistant|>\n",
        ),
    ];
    assert_eq!(formats::names().collect::<Vec<_>>(), expected.map(|(name, _)| name));
    for (name, text) in expected {
        let template = ChatTemplate::named(name, tokens.clone()).unwrap();
        assert_eq!(template.name(), format!("named:{name}"));
        assert_eq!(template.render(&request).as_deref(), Ok(text), "{name}");
        // Without special tokens, with calls of tools and with nothing, they still render.
        let bare = ChatTemplate::named(name, SpecialTokens::new()).unwrap();
        let call = json!({"role": "assistant", "content": null, "tool_calls": []});
        bare.render(&Conversation::new(vec![call, json!({"role": "tool", "content": "3"})])).unwrap();
        bare.render(&Conversation::default()).unwrap();
    }
    assert_eq!(ChatTemplate::named("none such", tokens).unwrap_err().code, Code::InvalidArgument);
}

/// The metadata of a file with these keys, the vocabulary and the end token's id.
fn metadata(keys: &[(&str, &str)], vocabulary: &[&str], eos: u32) -> Metadata {
    metadata_with(keys, None, vocabulary, eos)
}

/// The same, with a key whose value is given as its type and its bytes.
fn metadata_with(
    keys: &[(&str, &str)],
    raw: Option<(&str, &[u8])>,
    vocabulary: &[&str],
    eos: u32,
) -> Metadata {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend((keys.len() as u64 + 2 + u64::from(raw.is_some())).to_le_bytes());
    if let Some((key, value)) = raw {
        bytes.extend([&string(key), value].concat());
    }
    for (key, value) in keys {
        bytes.extend([string(key), 8u32.to_le_bytes().to_vec(), string(value)].concat());
    }
    bytes.extend(
        [string("tokenizer.ggml.eos_token_id"), 4u32.to_le_bytes().to_vec(), eos.to_le_bytes().to_vec()]
            .concat(),
    );
    bytes.extend(
        [string("tokenizer.ggml.tokens"), 9u32.to_le_bytes().to_vec(), 8u32.to_le_bytes().to_vec()].concat(),
    );
    bytes.extend((vocabulary.len() as u64).to_le_bytes());
    vocabulary.iter().for_each(|token| bytes.extend(string(token)));
    bytes.resize(bytes.len() + 64, 0);
    pollster::block_on(Header::read(&MemorySource::new("test.gguf", bytes))).unwrap().metadata
}

#[test]
fn formats_are_chosen_by_metadata() {
    let choose = |keys: &[(&str, &str)], vocabulary: &[&str]| {
        let template = ChatTemplate::from_metadata(&metadata(keys, vocabulary, 1)).unwrap();
        template.map_or("none".to_owned(), |template| template.name().to_owned())
    };
    let llama = ("general.architecture", "llama");
    let named = |name| [llama, ("general.name", name)];
    let mistral_spm = [llama, ("tokenizer.ggml.model", "llama")];
    let plain = ["a", "</s>"];
    for (expected, keys, vocabulary) in [
        ("named:chatml", &[("general.architecture", "qwen2")][..], &["<|im_start|>", "<|im_end|>"][..]),
        ("named:llama3", &[llama], &["<|start_header_id|>", "<|eot_id|>"]),
        ("named:gemma", &[("general.architecture", "gemma2")], &["<start_of_turn>", "<end_of_turn>"]),
        ("named:deepseek", &[("general.architecture", "deepseek2")], &["<｜User｜>", "<｜Assistant｜>"]),
        ("named:mistral-v3", &mistral_spm, &["[INST]", "[/INST]"]),
        ("named:mistral-tekken", &[llama], &["[INST]", "[/INST]"]),
        ("named:phi3", &[("general.architecture", "phi3")], &["<|user|>", "<|end|>"]),
        ("named:zephyr", &[("general.architecture", "stablelm")], &["<|user|>", "<|endoftext|>"]),
        ("named:zephyr", &named("TinyLlama 1.1B Chat v1.0"), &plain),
        ("named:mistral", &named("Mistral 7B Instruct v0.2"), &plain),
        ("named:llama2", &named("LLaMA v2 7B Chat"), &plain),
        ("none", &named("Llama 2 7B"), &plain),
        ("none", &named("Mistral 7B v0.1"), &plain),
        ("none", &[("general.architecture", "gpt2")], &plain),
        ("model", &[llama, ("tokenizer.chat_template", "{{ 1 }}")], &["<|im_start|>", "a"]),
        ("model", &[llama, ("tokenizer.chat_template.tool_use", "{% set x = 1 %}")], &plain),
        // Empty ones, and the names of what llama.cpp has built in.
        ("named:chatml", &[llama, ("tokenizer.chat_template", "")], &plain),
        ("named:chatml", &[llama, ("tokenizer.chat_template", " \n")], &plain),
        ("named:gemma", &[llama, ("tokenizer.chat_template", "")], &["<start_of_turn>", "<end_of_turn>"]),
        ("named:chatml", &[llama, ("tokenizer.chat_template", "chatml")], &["[INST]"]),
        ("named:llama3", &[llama, ("tokenizer.chat_template", "llama3\n")], &plain),
        ("named:mistral-tekken", &[llama, ("tokenizer.chat_template", "mistral-v3-tekken")], &plain),
    ] {
        assert_eq!(choose(keys, vocabulary), expected, "{keys:?} {vocabulary:?}");
    }

    // The model's own end token.
    let zephyr = metadata(&[("general.architecture", "stablelm")], &["<|user|>", "<|endoftext|>"], 1);
    let template = ChatTemplate::from_metadata(&zephyr).unwrap().unwrap();
    let rendered = template.render(&Conversation::new(vec![message("user", "Hi")])).unwrap();
    assert_eq!(rendered, "<|user|>\nHi<|endoftext|>\n<|assistant|>\n");

    // What is wrong with a template is told when it is to be rendered: the model does the rest without.
    let text = |text: &[u8]| [&8u32.to_le_bytes()[..], &(text.len() as u64).to_le_bytes(), text].concat();
    let array = |count: u64, items: &[u8]| {
        [&9u32.to_le_bytes()[..], &8u32.to_le_bytes(), &count.to_le_bytes(), items].concat()
    };
    let item = [&1u64.to_le_bytes()[..], b"x"].concat();
    for value in [
        text(b"{% if %}"),
        text(b"{{ 1"),
        text(b"{{ messages | no_such_filter_at_all"),
        text(b"no Jinja at all"),
        text(b"vicuna"),
        text(b"{{ '\xff' }}"),
        text("{{ 1 }}".repeat(1 << 16).as_bytes()),
        array(2, &[&item[..], &item].concat()),
        array(0, &[]),
        [&4u32.to_le_bytes()[..], &7u32.to_le_bytes()].concat(),
        [&7u32.to_le_bytes()[..], &[1]].concat(),
    ] {
        for key in ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"] {
            let metadata = metadata_with(&[llama], Some((key, value.as_slice())), &plain, 1);
            let template = ChatTemplate::from_metadata(&metadata).unwrap().unwrap();
            assert_eq!(template.name(), "model");
            let error = template.render(&Conversation::new(vec![message("user", "Hi")])).unwrap_err();
            assert!(matches!(error.code, Code::UnsupportedModel | Code::CorruptModel), "{error}");
            assert!(error.message.contains("template"), "{error}");
        }
    }
}

/// Each of these once ended in a panic, an exhausted stack, all memory taken, or hours of work: if one
/// does again, this test does not end.
#[test]
fn templates_that_mean_harm() {
    let chain = |link: &str| format!("{{{{ a{} }}}}", link.repeat(100_000 / link.len()));
    let before = |prefix: &str| format!("{{{{ {}1 }}}}", prefix.repeat(100_000 / prefix.len()));
    let grow = |step: &str| {
        let start = "{% set ns = namespace(x='aaaaaaaaaa', y=[1, 2, 3], z=[]) %}";
        format!("{start}{{% for i in range(99999) %}}{{% set {step} %}}{{% endfor %}}{{{{ ns.z }}}}")
    };
    let links =
        [".b", "|e", "+1", "~1", " and 1", "<1", "()", "[0]", "[:]", "**1", " if 1 else 1", " is defined"];
    let steps = [
        "ns.x = ns.x ~ ns.x",
        "ns.x = ns.x + ns.x",
        "ns.x = ns.x|replace('a', 'aa')",
        "ns.x = [ns.x, ns.x]|join",
        "ns.x = [ns.x, ns.x]|tojson",
        "ns.x = '%s%s'|format(ns.x, ns.x)",
        "ns.y = ns.y + ns.y",
        "ns.z = [ns.z]",
    ];
    let refused = (links.into_iter().map(chain))
        .chain(["not ", "-", "(", "["].map(before))
        .chain(["{{", "{{}}", "{% raw %}", "{% if a %}", "{#", "{{ '", "{%"].map(|tag| tag.repeat(20_000)))
        .chain([
            format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000)),
            format!("{{{{ a{}{} }}}}", "[".repeat(30_000), ":]".repeat(30_000)),
            format!("{}{{{{", "x".repeat(70_000)),
            // Much to look through for each macro.
            "{% macro a(".repeat(21_000) + "varargs",
            "{% macro a(\\\"".repeat(19_000) + "varargs",
        ]);
    for source in refused {
        let what: String = source.chars().take(150).collect();
        match template(&source) {
            Err(error) => assert_eq!(error.code, Code::UnsupportedModel, "{what}: {error}"),
            Ok(_) => panic!("{what}"),
        }
    }
    let harmful = (steps.into_iter().map(grow)).chain([
        "{{ 'a' * 10000000000000 }}{{ [1] * 10000000000000 }}".to_owned(),
        "{{ range(10000000000000)|list|length }}".to_owned(),
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(1) }}".to_owned(),
        "{% macro m(s, n) %}{{ s }}{% if n %}{{ m(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ m('ab', 50) }}"
            .to_owned(),
        "{% for i in [[1]] recursive %}{{ loop([i]) }}{% endfor %}".to_owned(),
    ]);
    for source in harmful {
        let what: String = source.chars().take(150).collect();
        if let Err(error) = runs(&source) {
            assert!(matches!(error.code, Code::UnsupportedModel | Code::InvalidArgument), "{what}: {error}");
        }
    }
}
