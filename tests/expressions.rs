//! What templates' expressions give, against jinja2.

use candlewick::Code;
use candlewick::chat::{ChatTemplate, Conversation, SpecialTokens, message};
use serde_json::{Value, json};

fn render(source: &str, variables: Value) -> candlewick::Result<String> {
    let Value::Object(variables) = variables else { panic!("not an object") };
    let template = ChatTemplate::new("test", source, None, SpecialTokens::new())?;
    template.render(&Conversation { variables, ..Conversation::new(vec![message("user", "Hi")]) })
}

/// Expected is what jinja2 3.1.6 gives, in the environment that transformers makes.
#[test]
fn as_jinja2_has_them() {
    let variables = json!({
        "list": [3, 1], "none": null, "text": " a b ", "pairs": [[[1, 2], 3], [[4, 5], 6]],
        "map": {"items": 1, "b": [1.0, 1e-7, true, null, "it's"]},
    });
    let cases = [
        (
            "{% macro f(a, b, c=[3], d=a) %}{{ a }}{{ b }}{{ c }}{{ d }};{% endmacro %}{{ f(1, 2) }}{{ f(1, b=text ~ 2, d=(4, 5)) }}",
            "12[3]1;1 a b 2[3](4, 5);",
        ),
        (
            "{% macro f(a, b) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, e=4) }}",
            "12(3,){'e': 4}",
        ),
        (
            "{% macro m(n) %}{{ caller(n, n + 1) }}{% endmacro %}{% call(v, w) m(4) %}{{ v }}{{ w }}{% endcall %}",
            "45",
        ),
        (
            "{% for (k, v) in map.items() %}{{ k }};{% endfor %}{% for ((a, b), c) in pairs %}{{ a }}{{ b }}{{ c }};{% endfor %}",
            "items;b;123;456;",
        ),
        (
            "{% with (a, b) = list, c = (1, 2) %}{{ a }}{{ b }}{{ c }}{% endwith %}{% set (a, (b, c)) = (1, (2, 3)) %}{{ a }}{{ b }}{{ c }}",
            "31(1, 2)123",
        ),
        ("{{ 4 is divisibleby(2) }}{{ -4 is divisibleby 3 }}{{ 4.5 is divisibleby(1.5) }}", "TrueFalseTrue"),
        (
            "{{ 3 * 1e-3 }} {{ 7 % 1E+1 }} {{ 2.5e-1 * 2 - 1e-1 }} {{ 0x1f * 1_0 }} {{ 5*1e2-1 }}",
            "0.003 7.0 0.4 310 499.0",
        ),
        ("{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{{ loop . cycle(*list) }}{% endfor %}", "a3b1a3"),
        (
            "{{ 'x'.ljust(3, 'é') }}{{ 'x'.center(4, '-') }}{{ '-7'.zfill(4) }}{{ 'abc'.rjust(2, '.') }}",
            "xéé-x---007abc",
        ),
        (
            "{{ 'a-b cde-fgh  ijklmnop--qr'|wordwrap(4) }}|{{ '   ab\\n\\n c'|wordwrap(2, false, '/') }}|{{ 'aa-bbbb cc'|wordwrap(3, wrapstring='/') }}|{{ ''|wordwrap }}|{{ 'ab cd ef-ghi'|wordwrap(5, break_on_hyphens=false) }}",
            "a-b\ncde-\nfgh\nijkl\nmnop\n--qr|ab// c|aa-/bbb/b/cc||ab cd\nef-gh\ni",
        ),
        (
            "{{ 'a-- bb--cc ddd-eee-ff --g'|wordwrap(3, wrapstring='/') }}|{{ 'abcdefgh ij  '|wordwrap(4, true, '/') }}|{{ '    abcd'|wordwrap(2, true, '/') }}|{{ 'abcdefgh  i'|wordwrap(3, false, '/') }}",
            "a--/bb/--/cc /ddd/-ee/e-/ff/--g|abcd/efgh/ij|  /ab/cd|abcdefgh/i",
        ),
        (
            "{{ '99999999999999999999'|int }} {{ 1e20|int }} {{ '1_000'|int }} {{ '1__0'|int }} {{ '_1'|int(5) }} {{ '-0x1_F'|int(0, 16) }} {{ '0b11'|int(0, 2) }} {{ '0x0x1'|int(7, 16) }} {{ '-+1'|int }} {{ ' 12 '|int }} {{ '1e3'|int }} {{ '1_0.5'|float }} {{ true|int }} {{ 3.9|int }} {{ 'inf'|int }}",
            "99999999999999999999 100000000000000000000 1000 0 5 -31 3 7 0 12 1000 10.5 1 3 0",
        ),
        (
            "{{ '½'.isdigit() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '٣9'.isdecimal() }}{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ '½'.isnumeric() }}",
            "FalseTrueFalseTrueTrueFalseTrue",
        ),
        ("{{ '&amp;lt; &#65;&#x42; &x; &;a <b>c</b> &'|striptags }}", "&lt; AB &x; &;a c &"),
        (
            "{{ 'xyxaxy'.strip('yx') }}{{ '--a--'.lstrip('-') }}{{ '--a--'.rstrip('-') }}{{ 'xax'|trim('x') }}",
            "aa----aa",
        ),
        (
            "{{ {'a b': 'c/d', 'e': 'é'}|urlencode }} {{ [['a', 1], ['b', 2]]|urlencode }} {{ 'a/b c'|urlencode }}",
            "a+b=c%2Fd&e=%C3%A9 a=1&b=2 a/b%20c",
        ),
        (
            "[{{ {'a': '<b>', 'c': none, 'd': 1}|xmlattr }}][{{ {'a': 1}|xmlattr(false) }}][{{ {}|xmlattr }}]",
            "[ a=\"&lt;b&gt;\" d=\"1\"][a=\"1\"][]",
        ),
        (
            "{{ [1, 2.5]|sum }} {{ [[1], [2]]|sum(start=[0]) }} {{ [{'a': 1}, {'a': 2}]|sum(attribute='a') }} {{ []|sum }}",
            "3.5 [0, 1, 2] 3 0",
        ),
        ("{{ 'a\"b'|pprint }} {{ [1, 'x']|pprint }}", "'a\"b' [1, 'x']"),
        (
            "{{ ['a', 'B']|map('upper')|join }}{{ ['a', 'b']|map('replace', 'a', 'c')|list }}{{ [{'a': 1}, {}]|map(attribute='a', default=2)|list }}{{ none|map('upper')|list }}{{ undefined|map('upper')|list }}",
            "AB['c', 'b'][1, 2][][]",
        ),
        ("{{ 'b' in ['a', 'b'] + ['c'] }}{{ 'x' not in 'a' ~ 'b' }}{{ [1] in [[1]] * 3 }}", "TrueTrueTrue"),
        (
            "{{ map.b[1]|abs }} {{ map.b[1]|round(8) }} {{ map.b[1]|float < 1 }} {{ map.b[1] * 2 }}",
            "1e-07 1e-07 True 2e-07",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, variables.clone()).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn as_python_refuses_them() {
    for (source, words) in [
        ("{{ 4 is divisibleby(0) }}", "division by zero"),
        ("{{ 4.5 is divisibleby(0) }}", "division by zero"),
        ("{{ [4]|select('divisibleby', 0)|list }}", "division by zero"),
        ("{% for x in [1] %}{{ loop.cycle() }}{% endfor %}", "no items for cycling"),
        ("{% for x in [1] %}{{ loop.cycle(*[]) }}{% endfor %}", "no items for cycling"),
        ("{% for x in [1] %}{% set l = loop %}{{ l\n. cycle () }}{% endfor %}", "no items for cycling"),
        ("{{ 'x'.ljust(9, 'ab') }}", "exactly one character"),
        ("{{ 'x'.center(9, '') }}", "exactly one character"),
        ("{{ 'x'.rjust(1000000, 'a' * 1000000) }}", "exactly one character"),
        ("{{ 'x'.zfill(9, '1') }}", "too many arguments"),
        ("{{ ['a', 'b']|sum(start='') }}", "strings"),
        ("{{ 1e300|int }}", "too large"),
        // Python has these; here there is a word for it.
        ("{{ '{:>{}}'.format(1, 5) }}", "is not supported"),
    ] {
        let error = render(source, json!({})).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{source}: {error}");
        assert!(error.message.contains(words), "{source}: {error}");
    }
    // The one remainder that has no place in 128 bits on the way there.
    let least = "{% set least = -170141183460469231731687303715884105727 - 1 %}";
    let divisible = render(&format!("{least}{{{{ least is divisibleby(-1) }}}}"), json!({}));
    assert_eq!(divisible.as_deref(), Ok("True"));
}
