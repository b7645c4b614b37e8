//! Conversations in the forms of OpenAI's API, on templates that want one form or another.

use candlewick::Code;
use candlewick::chat::{ChatTemplate, Conversation, SpecialTokens, formats, message};
use serde_json::{Value, json};

/// Walks over parts for users; of a system message takes the first part only, as Gemma 3's does.
const WALKS: &str = r#"{%- for m in messages -%}
<{{ m.role }}>
{%- if m.role == "system" -%}
{{ m.content if m.content is string else m.content[0].text }}
{%- elif m.content is string -%}{{ m.content }}
{%- else -%}{% for part in m.content %}{% if part.type == "text" %}[{{ part.text | trim }}]{% endif %}{% endfor %}
{%- endif -%}
{%- endfor -%}"#;
/// Knows nothing but parts, and only these roles.
const ONLY_PARTS: &str = "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}[{{ part.text }}]{% endif %}{% endfor %}{% endfor %}";
/// Writes content as it comes, in Python's way.
const PRINTS: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
const DUMPS: &str = "{% for m in messages %}{{ m | tojson }}{% endfor %}";
/// Has a role of its own for developers, as gpt-oss, and one for a tool's output.
const DEVELOPER: &str = "{% for m in messages %}{% if m.role == 'developer' %}<dev>{{ m.content }}{% elif m['role'] in ['environment', \"tool_response\"] %}<env>{{ m.content }}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}";
/// Writes nobody but users and assistants.
const TWO: &str = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% elif m.role == 'assistant' %}<a>{{ m.content }}{% endif %}{% endfor %}";
/// Wants the system message first.
const FIRST: &str = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}";
/// Of several system messages writes the last, before all else.
const LAST: &str = "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.s = m.content %}{% endif %}{% endfor %}{{ ns.s }}{% for m in messages if m.role != 'system' %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}";
/// Parts in all places, but no system messages.
const PARTS_NO_SYSTEM: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}<{{ m.role[0] }}>{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endif %}{% endfor %}";

fn render(source: &str, messages: Value) -> candlewick::Result<String> {
    let template = ChatTemplate::new("model", source, None, SpecialTokens::new())?;
    template.render(&Conversation::new(messages.as_array().unwrap().clone()))
}

fn parts(texts: &[&str]) -> Value {
    texts.iter().map(|text| json!({"type": "text", "text": text})).collect()
}

fn said(role: &str, content: Value) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn content_is_what_the_template_takes() {
    let user = |content: Value| json!([said("user", content)]);
    let two = parts(&["one", " two"]);
    let system = json!([said("system", two.clone()), said("user", two.clone())]);
    let cases = [
        (WALKS, user(two.clone()), "<user>[one][two]"),
        (WALKS, user(json!("a")), "<user>a"),
        (WALKS, user(json!([])), "<user>"),
        (WALKS, system.clone(), "<system>one\n two<user>[one][two]"),
        (ONLY_PARTS, user(two.clone()), "<user>[one][ two]"),
        (ONLY_PARTS, user(json!("a")), "<user>[a]"),
        (ONLY_PARTS, user(json!(null)), "<user>[]"),
        (ONLY_PARTS, json!([message("system", "s"), message("user", "u")]), "<system>[s]<user>[u]"),
        (PRINTS, user(two.clone()), "<user>one\n two"),
        (PRINTS, user(json!(null)), "<user>"),
        (PRINTS, json!([{"role": "user"}, message("user", "b")]), "<user><user>b"),
        (PRINTS, system, "<system>one\n two<user>one\n two"),
        (
            PRINTS,
            json!([said("assistant", two.clone()), said("tool", two.clone())]),
            "<assistant>one\n two<tool>one\n two",
        ),
        (DUMPS, user(two), r#"{"role": "user", "content": "one\n two"}"#),
        (
            PRINTS,
            user(json!([{"type": "input_text", "text": "a"}, {"type": "refusal", "refusal": "no"}])),
            "<user>a\nno",
        ),
        (PRINTS, user(parts(&["", "a", ""])), "<user>\na\n"),
    ];
    for (source, messages, expected) in cases {
        assert_eq!(render(source, messages.clone()).as_deref(), Ok(expected), "{source} {messages}");
    }
}

#[test]
fn what_no_text_model_reads_is_refused_by_its_place() {
    let picture = json!({"type": "image_url", "image_url": {"url": "data:,"}});
    let text = json!({"type": "text", "text": "a"});
    for (second, place) in [
        (said("user", json!([text, picture])), "messages[1].content[1]"),
        (said("user", json!([{"type": "image"}])), "messages[1].content[0]"),
        (said("tool", json!([{"type": "image", "image": "x"}, text])), "messages[1].content[0]"),
        (said("user", json!([{"type": "input_audio", "input_audio": {}}])), "messages[1].content[0]"),
        (said("user", json!([{"type": "file", "file": {}}])), "messages[1].content[0]"),
        (said("user", json!([{"type": "wonder"}])), "messages[1].content[0]"),
        (said("user", json!([{"type": 3, "text": "a"}])), "messages[1].content[0]"),
        (said("user", json!([{"text": "a"}])), "messages[1].content[0]"),
        (said("user", json!(["a"])), "messages[1].content[0]"),
        (said("user", json!([null])), "messages[1].content[0]"),
        (said("user", json!([{"type": "text"}])), "messages[1].content[0]"),
        (said("user", json!([{"type": "text", "text": 1}])), "messages[1].content[0]"),
        (said("user", json!(1)), "messages[1].content"),
        (said("user", json!(true)), "messages[1].content"),
        (said("assistant", json!(2.5)), "messages[1].content"),
        (said("system", json!({"type": "text", "text": "a"})), "messages[1].content"),
        (said("narrator", json!("a")), "messages[1].role"),
        (said("", json!("a")), "messages[1].role"),
        (said("User", json!("a")), "messages[1].role"),
        (said("function", json!("a")), "messages[1].role"),
        (json!({"role": 1, "content": "a"}), "messages[1].role"),
        (json!({"role": null, "content": "a"}), "messages[1]"),
        (json!({"content": "a"}), "messages[1]"),
        (json!("a"), "messages[1]"),
        (json!(null), "messages[1]"),
    ] {
        for source in [WALKS, ONLY_PARTS, PRINTS] {
            let error = render(source, json!([message("user", "Hi"), second])).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{second}");
            assert!(
                error.message.starts_with(&format!("{place} "))
                    || error.message.starts_with(&format!("{place}.")),
                "{second}: {error}"
            );
        }
    }
    for format in formats::names() {
        let template = ChatTemplate::named(format, SpecialTokens::new()).unwrap();
        let with_picture = Conversation::new(vec![said("user", json!([picture]))]);
        assert_eq!(template.render(&with_picture).unwrap_err().code, Code::InvalidArgument, "{format}");
    }
}

#[test]
fn developers_and_a_templates_own_roles() {
    let developer = json!([message("developer", "D"), message("user", "u")]);
    for (source, expected) in [
        (PRINTS, "<system>D<user>u"),
        (DEVELOPER, "<dev>D<user>u"),
        (TWO, "<u>D\nu"),
        (WALKS, "<system>D<user>u"),
    ] {
        assert_eq!(render(source, developer.clone()).as_deref(), Ok(expected), "{source}");
    }
    let environment =
        json!([message("user", "u"), message("environment", "E"), message("tool_response", "R")]);
    assert_eq!(render(DEVELOPER, environment.clone()).as_deref(), Ok("<user>u<env>E<env>R"));
    assert_eq!(render(PRINTS, environment).unwrap_err().code, Code::InvalidArgument);
    // A name in a tag that speaks of roles, before it or behind another name; and none elsewhere.
    let other = json!([message("other", "O")]);
    for (source, known) in [
        ("{% set roles = ['a', 'other'] %}{{ messages[0].role }}", true),
        ("{% set r = 'other' if messages[0].role else 'other' %}{{ r }}", true),
        ("{{ messages[0].role if messages[0]['role'] ==  'other' }}", true),
        ("role {{ 'other' }}{{ messages[0].content }}", false),
        ("'other' role {% set x = 'other' %}{{ messages[0].role }}", false),
    ] {
        assert_eq!(render(source, other.clone()).is_ok(), known, "{source}");
    }
    // However often a template has a name, and far from any tag.
    let often = format!("{{% if true %}}{{% endif %}}{}", "'other' \n".repeat(25_000));
    let start = std::time::Instant::now();
    assert_eq!(render(&often, json!([message("other", "O")])).unwrap_err().code, Code::InvalidArgument);
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn system_messages_go_where_the_template_shows_them() {
    let say = |messages: &[(&str, &str)]| -> Value {
        messages.iter().map(|(role, text)| message(role, text)).collect()
    };
    let first = say(&[("system", "S"), ("user", "u"), ("assistant", "a"), ("user", "v")]);
    let late = say(&[("user", "u"), ("assistant", "a"), ("system", "S"), ("user", "v")]);
    let both = say(&[("system", "S"), ("user", "u"), ("assistant", "a"), ("system", "T"), ("user", "v")]);
    let two = say(&[("system", "S"), ("developer", "T"), ("user", "u")]);
    let last = say(&[("user", "u"), ("system", "S")]);
    let alone = say(&[("system", "S")]);
    let before_answer = say(&[("system", "S"), ("assistant", "a"), ("user", "u")]);
    let empty = say(&[("system", ""), ("user", "u"), ("system", ""), ("user", "v")]);
    for (source, messages, expected) in [
        (TWO, &first, "<u>S\nu<a>a<u>v"),
        (TWO, &late, "<u>u<a>a<u>S\nv"),
        (TWO, &both, "<u>S\nu<a>a<u>T\nv"),
        (TWO, &two, "<u>S\nT\nu"),
        (TWO, &last, "<u>u\nS"),
        (TWO, &alone, "<u>S"),
        (TWO, &before_answer, "<u>S<a>a<u>u"),
        (TWO, &empty, "<u>u<u>v"),
        (FIRST, &first, "<s>S<u>u<a>a<u>v"),
        (FIRST, &late, "<u>u<a>a<u>S\nv"),
        (FIRST, &both, "<s>S<u>u<a>a<u>T\nv"),
        (FIRST, &two, "<s>S\nT<u>u"),
        (FIRST, &alone, "<s>S"),
        (FIRST, &empty, "<s><u>u<u>v"),
        (LAST, &late, "S<u>u<a>a<u>v"),
        (LAST, &both, "S<u>u<a>a<u>T\nv"),
        (PRINTS, &both, "<system>S<user>u<assistant>a<system>T<user>v"),
        (PRINTS, &two, "<system>S<system>T<user>u"),
    ] {
        assert_eq!(render(source, messages.clone()).as_deref(), Ok(expected), "{source} {messages}");
    }
    let in_parts = json!([said("system", parts(&["S", "T"])), said("user", parts(&["u", "v"]))]);
    assert_eq!(render(PARTS_NO_SYSTEM, in_parts).as_deref(), Ok("<u>[S\nT\nu][v]"));
    // What the template says of the rest of a conversation is still said.
    let error = render(
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('Never!') }}{% endif %}{{ m.content }}{% endfor %}",
        first,
    );
    assert!(error.unwrap_err().message.ends_with(": Never!"));
}

#[test]
fn arguments_of_calls_are_what_the_template_takes() {
    let call = |arguments: Value, content: Value| {
        let call =
            json!({"id": "123456789", "type": "function", "function": {"name": "f", "arguments": arguments}});
        json!([message("user", "u"), {"role": "assistant", "content": content, "tool_calls": [call]}])
    };
    let template = |call: &str| {
        format!(
            "{{% for m in messages %}}{{{{ m.content }}}}{{% for c in m.tool_calls or [] %}}{{% set f = c.function or c %}}{{{{ f.name }}}}({call}){{% endfor %}}{{% endfor %}}"
        )
    };
    let dumps = template("{{ f.arguments | tojson }}");
    let whole = template("{{ f | tojson }}");
    let walks = template("{% for k, v in f.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}");
    let joins = template("{{ '' + f.arguments }}");
    let prints = template("{{ f.arguments }}");
    let either = template("{{ f.arguments if f.arguments is string else f.arguments | tojson }}");
    let (text, object) =
        (json!("{\"a\":[1, 2.0],\"b\": {\"c\": \"é\"}}"), json!({"a": [1, 2.0], "b": {"c": "é"}}));
    let python = r#"{"a": [1, 2.0], "b": {"c": "é"}}"#;
    for (source, arguments, expected) in [
        (&dumps, &text, format!("uf({python})")),
        (&dumps, &object, format!("uf({python})")),
        (&whole, &text, format!(r#"uf({{"name": "f", "arguments": {python}}})"#)),
        (&walks, &text, "uf(<a>[1, 2.0]<b>{'c': 'é'})".to_owned()),
        (&joins, &text, format!("uf({})", text.as_str().unwrap())),
        (&joins, &object, format!("uf({python})")),
        (&prints, &text, format!("uf({})", text.as_str().unwrap())),
        (&prints, &object, format!("uf({python})")),
        (&either, &text, format!("uf({python})")),
        (&dumps, &json!(""), "uf({})".to_owned()),
        (&dumps, &json!("[1]"), "uf([1])".to_owned()),
        (&joins, &json!("no JSON"), "uf(no JSON)".to_owned()),
    ] {
        for content in [json!(""), json!(null)] {
            let rendered = render(source, call(arguments.clone(), content));
            assert_eq!(rendered, Ok(expected.clone()), "{source} {arguments}");
        }
    }
    for broken in ["{", "no JSON", "{\"a\": }", "{} {}"] {
        let error = render(&dumps, call(json!(broken), json!(""))).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.starts_with("messages[1].tool_calls[0].function.arguments "), "{error}");
    }
    // What is too long for one conversation is nothing to the next.
    let long = "\u{1}".repeat(9 << 20);
    assert_eq!(
        render(&joins, call(json!({"a": [long, 1]}), json!(""))).unwrap_err().code,
        Code::InvalidArgument
    );
    let long = "x".repeat(1 << 20);
    let rendered = render(&joins, call(json!({"a": long}), json!("")));
    assert_eq!(rendered, Ok(format!("uf({{\"a\": \"{long}\"}})")));
    // The key alone makes no call.
    let asks_for_key = "{% for m in messages %}{{ 'CALL' if 'tool_calls' in m else m.content }}{% endfor %}";
    for none in [json!(null), json!([])] {
        let messages = json!([{"role": "assistant", "content": "a", "tool_calls": none}]);
        assert_eq!(render(asks_for_key, messages).as_deref(), Ok("a"));
    }
    // Some templates show a call only where content is null.
    let null = "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls[0].function.name }}{{ m.tool_calls[0].function.arguments }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(render(null, call(json!("{}"), json!(null))).as_deref(), Ok("uf{}"));
}
