//! Templates that make values which are much larger than they, and walk over them.

use crate::allocator::peak;
use candlewick::Code;
use candlewick::chat::{ChatTemplate, Conversation, SpecialTokens, message};
use std::time::{Duration, Instant};

/// What renderings may take, in builds without optimization on a busy machine.
const MOST_TIME: Duration = Duration::from_secs(20);
const MOST_BYTES: usize = 400 << 20;

/// Renders it within the bounds, to an error if `fails`. It must parse: what does not shows nothing.
fn bounded(source: &str, fails: bool) {
    let start = Instant::now();
    let (rendered, bytes) = peak(|| {
        let template = ChatTemplate::new("model", source, None, SpecialTokens::new()).unwrap();
        template.render(&Conversation::new(vec![message("user", "Hi")]))
    });
    let what: String = source.chars().take(300).collect();
    let time = start.elapsed();
    assert!(time < MOST_TIME && bytes < MOST_BYTES, "{time:?}, {bytes} bytes: {what}");
    match rendered {
        Err(error) => {
            assert!(matches!(error.code, Code::UnsupportedModel | Code::InvalidArgument), "{what}: {error}")
        }
        Ok(_) => assert!(!fails, "{what}"),
    }
}

/// What is done with the nested values `ns.s` and `ns.t`.
const WALKS: [&str; 26] = [
    "{{ ns.s }}",
    "{{ ns.s == ns.t }}",
    "{% if ns.s != ns.t %}{% endif %}",
    "{{ ns.s < ns.t }}",
    "{{ ns.s|string|length }}",
    "{{ ns.s|tojson|length }}",
    "{{ ns.s|join|length }}",
    "{{ ns.s|pprint|length }}",
    "{{ ns.s in [ns.t] }}",
    "{{ [ns.t].index(ns.s) }}",
    "{{ [ns.t].count(ns.s) }}",
    "{{ [ns.s, ns.t]|sort|length }}",
    "{{ [ns.s, ns.t]|unique|list|length }}",
    "{{ [ns.s, ns.t]|min|length }}",
    "{{ [ns.s, ns.t]|map('string')|list|length }}",
    "{{ [ns.s]|select('eq', ns.t)|list|length }}",
    "{{ [ns.s] is eq [ns.t] }}",
    "{{ {ns.s: 1}|length }}",
    "{{ {'a': ns.s}|dictsort|length }}",
    "{{ dict([[ns.s, 1]])|length }}",
    "{{ '%s' % (ns.s,) }}",
    "{{ '{}'.format(ns.s) }}",
    "{{ ns.s ~ '' }}",
    "{{ (ns.s ~ ns.s)|length }}",
    "{{ ns|tojson|length }}",
    "{{ ns }}",
];

#[test]
fn values_that_share_their_parts_are_as_large_as_they_look() {
    let steps = ["[ns.s, ns.s]", "[ns.s] + [ns.s]", "{'a': ns.s, 'b': ns.s}", "(ns.s, ns.s)", "[ns.s] * 2"];
    for (n, walk) in WALKS.iter().enumerate() {
        let step = steps[n % steps.len()];
        let nested = |levels: usize| {
            format!(
                "{{% set ns = namespace(s=[1, 2], t=[1, 2]) %}}{{% for i in range({levels}) %}}{{% set ns.s = {step} %}}{{% set ns.t = {} %}}{{% endfor %}}",
                step.replace("ns.s", "ns.t")
            )
        };
        bounded(&format!("{}{walk}", nested(40)), true);
        // As large as they may be, and over and over again: seconds each, so that some stand for all.
        if n % 4 == 0 {
            bounded(&format!("{}{{% for i in range(99999) %}}{walk}{{% endfor %}}", nested(14)), false);
        }
    }
    // Without a variable that is set: by macros, loops and scopes.
    let with = format!("{{% with a=[1] %}}{}{{{{ a }}}}", "{% with a=[a, a] %}".repeat(60) + "");
    bounded(&format!("{with}{}", "{% endwith %}".repeat(61)), true);
    for call in
        ["f([x, x])", "f((x, x))", "f({'a': x, 'b': x})", "f(([x, x]))", "f([[x, x], [x, x]])", "f(x=[x, x])"]
    {
        bounded(
            &format!("{{% macro f(x) %}}{{{{ {call} }}}}{{{{ x }}}}{{% endmacro %}}{{{{ f(1) }}}}"),
            true,
        );
    }
    bounded("{% for x in [[1]] recursive %}{{ loop([[x, x]]) }}{{ x }}{% endfor %}", true);
    // A namespace in itself.
    bounded("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", true);
    bounded("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns|tojson }}", true);
    bounded("{% set ns = namespace() %}{% set n = namespace(a=ns) %}{% set ns.a = n %}{{ ns == n }}", true);
}

#[test]
fn what_a_template_holds_is_bounded() {
    let keep = |item: &str| {
        format!(
            "{{% set ns = namespace(a=[]) %}}{{% for i in range(200000) %}}{{% set ns.a = ns.a + [{item}] %}}{{% endfor %}}"
        )
    };
    for item in [
        "('x' * 1000000) ~ i",
        "'x' * 1000000",
        "('x' * 100) ~ i",
        "range(200000)|list",
        "[0] * 200000",
        "('x' * 1000000)|upper",
        "('x' * 500000)|replace('x', 'yz')",
        "('x ' * 100000).split()",
        "'%900000d' % i",
        "{'a': ('x' * 1000000) ~ i}",
        "[('x' * 900000) ~ i, ('y' * 900000) ~ i]",
        "('x' * 1000000)|list",
    ] {
        bounded(&keep(item), true);
    }
    let long = format!("{}\n", "x".repeat(999)).repeat(200);
    for source in [
        // Texts between the tags, macros, blocks.
        format!("{{% for i in range(250000) %}}{{% set a %}}{long}{{% endset %}}{{% endfor %}}"),
        format!("{{% macro m() %}}{long}{{% endmacro %}}{{% for i in range(250000) %}}{{% if m() == 1 %}}{{% endif %}}{{% endfor %}}"),
        format!("{{% for i in range(250000) %}}{long}{{% endfor %}}"),
        "{% set ns = namespace(a='') %}{% for i in range(250000) %}{% set ns.a = ns.a ~ 'x' * 1000 %}{% endfor %}".to_owned(),
        // Much work between two tags.
        "{% set a = 'x' * 900000 %}{% set b = 'x' * 900000 %}{% for i in range(250000) %}{% if a|upper == b|lower %}{% endif %}{% endfor %}".to_owned(),
        "{% set a = 'x' * 900000 %}{% for i in range(250000) %}{% if 'xy' in a %}{% endif %}{% endfor %}".to_owned(),
    ] {
        bounded(&source, true);
    }
    // What is let go of does not count.
    bounded("{% for i in range(2000) %}{% set a = ('x' * 200000) ~ i %}{% endfor %}", false);
}

#[test]
fn chains_of_filters_are_bounded() {
    // Some double a text each time, others add a little for each character.
    for (filter, start, fails) in [
        ("tojson", "'\"é'", true),
        ("tojson(ensure_ascii=true)", "'\"é'", true),
        ("pprint", "'\\\\'", false),
        ("e", "'&' * 250000", true),
        ("forceescape", "'&' * 250000", true),
        ("urlencode", "'%' * 250000", true),
    ] {
        let chain = format!("|{filter}").repeat(40);
        bounded(&format!("{{% set a = {start} %}}{{{{ (a{chain})|length }}}}"), fails);
    }
    for filter in ["string", "pprint", "tojson"] {
        let nested = format!("{}'\\\\'{}", "[".repeat(30), format!("]|{filter}").repeat(30));
        bounded(&format!("{{{{ {nested}|length }}}}"), true);
    }
}

#[test]
fn work_between_two_instructions_is_bounded() {
    let texts = "{% set s = 'a' * 1000000 %}{% set t = 'a' * 999999 ~ 'b' %}";
    for expression in [
        "([s] * 200000)|map('upper')|list|length",
        "(['a'] * 200000)|map('replace', 'a', s)|list|length",
        "(['a'] * 200000)|map('center', 9999)|list|length",
        "([s[:500]] * 200000)|map('list')|list|length",
        "([s] * 200000)|sort|length",
        "([s] * 200000)|unique|list|length",
        "([s] * 200000)|select('eq', t)|list|length",
        "([s] * 200000)|sum(start='')|length",
        "([[1] * 1000] * 200)|sum(start=[])|length",
        "([[1, 2]] * 80000)|sum(start=[])|length",
        "[s] * 200000 == [t] * 200000",
        "t in [s] * 200000",
        "[t] in [[s] * 200000]",
        "([1]|batch(16000, s)|first)|map('lower')|list|length",
    ] {
        bounded(&format!("{texts}{{{{ {expression} }}}}"), !expression.contains("[1] * 1000"));
    }
    for expression in [
        "s|wordwrap(1)|length",
        "(' ' * 1000000)|wordwrap(1)|length",
        "('a-' * 500000)|wordwrap(3)|length",
        "('&' * 1000000)|striptags|length",
        "(('&' * 1000000) ~ ';')|striptags|length",
        "s.strip('b' * 999999 ~ 'a')|length",
        "s|trim('b' * 999999 ~ 'a')|length",
        "s|wordwrap(1, wrapstring=s)|length",
        "{'a': s, 'b': s, 'c': s}|urlencode|length",
        "dict(range(9999)|map('string')|batch(2))|xmlattr|length",
        "{'a': s, 'b': s, 'c': s}|xmlattr|length",
    ] {
        bounded(&format!("{texts}{{{{ {expression} }}}}"), false);
    }
}

#[test]
fn honest_templates_have_room() {
    let template = |source: &str| ChatTemplate::new("model", source, None, SpecialTokens::new()).unwrap();
    let long = "word ".repeat(100_000);
    let many: Vec<_> =
        (0..1000).map(|n| message(["user", "assistant"][n % 2], &format!("message {n}"))).collect();
    for (source, messages, length) in [
        (
            "{% for m in messages %}{% set c = m.content ~ '' %}{{ c|trim }}{% endfor %}",
            vec![message("user", &long); 20],
            20 * 499_999,
        ),
        (
            "{% set ns = namespace(l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m] %}{% endfor %}{{ ns.l|length }}",
            many.clone(),
            4,
        ),
        (
            "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}{% endfor %}{{ ns.t|length }}",
            many.clone(),
            5,
        ),
        (
            "{% for m in messages %}{% set rest = messages[loop.index:] %}{% if m == messages[-1] %}last{% endif %}{% endfor %}",
            many,
            4,
        ),
    ] {
        let conversation = Conversation::new(messages);
        let render = || template(source).render(&conversation).map(|text| text.len());
        // There is a clock, too, and machines may be busy; what is in the way for another reason is so each time.
        let rendered = (0..5).map(|_| render()).find(Result::is_ok).unwrap_or_else(render);
        assert_eq!(rendered, Ok(length), "{source}");
    }
}
