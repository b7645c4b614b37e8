use super::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Sample {
    count: u32,
    signed: i64,
    #[serde(alias = "ratio")]
    share: f32,
    flag: bool,
    text: Option<String>,
    list: Vec<u64>,
    table: BTreeMap<String, f64>,
    mode: Option<Mode>,
    inner: Option<Box<Sample>>,
    least: Option<NonZeroUsize>,
    #[serde(deserialize_with = "limit")]
    limit: Option<usize>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Slow,
    Fast,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
enum Tagged {
    One { value: u8 },
}

/// What none of our messages may have in it.
pub(super) const RUST: [&str; 24] = [
    "u8",
    "u32",
    "u64",
    "usize",
    "i32",
    "i64",
    "f32",
    "f64",
    "enum",
    "struct",
    "variant",
    "untagged",
    "sequence",
    "map",
    "integer",
    "floating point",
    "boolean",
    "unit",
    "serde",
    "Some(",
    "None",
    "expected",
    "invalid type",
    "unknown field",
];

fn fails(value: Value) -> String {
    let error = read::<Sample>("options", &value).unwrap_err();
    assert_eq!(error.code, crate::Code::InvalidArgument);
    for word in RUST {
        assert!(!error.message.contains(word), "{word:?} in {:?}", error.message);
    }
    error.message
}

#[test]
fn numbers_as_people_write_them() {
    let sample: Sample = read(
        "options",
        &json!({
            "count": 3.0, "signed": -4.0, "share": 1, "flag": null, "text": null, "list": [1.0, 2], "table": {"a": 1},
            "mode": "fast", "inner": { "count": 1e3, "signed": 9007199254740993i64 }, "limit": -1,
        }),
    )
    .unwrap();
    let inner = Sample { count: 1000, signed: 9007199254740993, ..Sample::default() };
    let expected = Sample {
        count: 3,
        signed: -4,
        share: 1.0,
        list: vec![1, 2],
        table: [("a".into(), 1.0)].into(),
        mode: Some(Mode::Fast),
        inner: Some(Box::new(inner)),
        limit: Some(usize::MAX),
        ..Sample::default()
    };
    assert_eq!(sample, expected);
    assert_eq!(read::<Tagged>("task", &json!({ "kind": "one", "value": 7.0 })).unwrap_err().message, {
        // serde keeps the fields of such types aside, where a float stays one.
        "task must be a whole number from 0 to 255, not 7"
    });
}

#[test]
fn plain_words() {
    for (value, message) in [
        (json!(5), "options must be an object, not 5"),
        (json!([]), "options must be an object, not a list"),
        (
            json!({ "count": "3" }),
            "options.count must be a whole number from 0 to 4294967295, not the text \"3\"",
        ),
        (json!({ "count": -3 }), "options.count must be a whole number from 0 to 4294967295, not -3"),
        (json!({ "count": 1.5 }), "options.count must be a whole number from 0 to 4294967295, not 1.5"),
        (json!({ "count": 1e300 }), "options.count must be a whole number from 0 to 4294967295, not 1"),
        (
            json!({ "count": 5e9 }),
            "options.count must be a whole number from 0 to 4294967295, not 5000000000",
        ),
        (json!({ "share": true }), "options.share must be a number, not true"),
        (json!({ "share": 1e39 }), "options.share must be a number up to 3.4e38, not 1"),
        (json!({ "share": 1, "ratio": 2 }), "options.share is given twice"),
        (json!({ "flag": "yes" }), "options.flag must be true or false, not the text \"yes\""),
        (json!({ "text": 5 }), "options.text must be a text, not 5"),
        (json!({ "list": {} }), "options.list must be a list, not an object"),
        (
            json!({ "list": [1, "x"] }),
            "options.list[1] must be a whole number from 0 to 18446744073709551615",
        ),
        (
            json!({ "list": [1, null] }),
            "options.list[1] must be a whole number from 0 to 18446744073709551615, not null",
        ),
        (json!({ "table": [] }), "options.table must be an object, not a list"),
        (json!({ "table": { "a b": [] } }), "options.table.a b must be a number, not a list"),
        (json!({ "mode": "medium" }), "options.mode must be \"slow\" or \"fast\", not \"medium\""),
        (json!({ "mode": 3 }), "options.mode must be \"slow\" or \"fast\", not 3"),
        (json!({ "mode": { "fast": 1 } }), "options.mode must be \"slow\" or \"fast\", not an object"),
        (
            json!({ "inner": { "inner": { "flag": 0 } } }),
            "options.inner.inner.flag must be true or false, not 0",
        ),
        (json!({ "inner": "x" }), "options.inner must be an object, not the text \"x\""),
        (json!({ "least": 0 }), "options.least must be a whole number of at least 1, not 0"),
        (json!({ "limit": -2 }), "options.limit must be a number of tokens, or -1 for no limit, not -2"),
        (json!({ "limit": "many" }), "options.limit must be a whole number, not the text \"many\""),
        (json!({ "cuont": 1 }), "options: there is no \"cuont\" here. Did you mean \"count\"?"),
        (json!({ "Count": 1 }), "options: there is no \"Count\" here. Did you mean \"count\"?"),
        (
            json!({ "inner": { "zebra": 1 } }),
            "options.inner: there is no \"zebra\" here. There is \"count\", ",
        ),
    ] {
        let found = fails(value.clone());
        assert!(found.starts_with(message), "{value}: {found:?}, not {message:?}");
    }
    let long = fails(json!({ "mode": "x".repeat(1000) }));
    assert!(long.len() < 120, "{long}");
    let message = read::<Tagged>("task", &json!({ "kind": "two" })).unwrap_err().message;
    assert!(message.starts_with("task"), "{message}");
    for (task, words) in [
        (json!({}), "kind is missing"),
        (json!({ "kind": "one" }), "value is missing"),
        (json!(3), "an object"),
    ] {
        let message = read::<Tagged>("task", &task).unwrap_err().message;
        assert!(message.contains(words) && RUST.iter().all(|word| !message.contains(word)), "{message}");
    }
}

#[test]
fn depth() {
    let nested = |levels: usize| {
        (1..levels).fold(
            json!([]),
            |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({ "a": inner }) },
        )
    };
    check_depth("x", [&nested(DEEPEST)]).unwrap();
    let error = check_depth("the request", [&nested(DEEPEST + 1)]).unwrap_err();
    assert!(error.message.contains("64 deep"), "{error}");
    check_depth("x", [&nested(1000)]).unwrap_err();
}
