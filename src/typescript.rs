//! `pkg/src/engine-types.ts`: what the engine says, in TypeScript, made from the types that say it.

use ts_rs::{Config, TS};

const HEAD: &str = "/** What the engine says. Made from Rust's types by `src/typescript.rs`, which a test compares: do not edit. */

import type { ErrorCode } from \"./errors.js\";
";

/// A type with its documentation.
fn exported<T: TS>(config: &Config) -> String {
    format!("\n{}export {}\n", T::docs().unwrap_or_default(), T::decl(config))
}

fn all() -> String {
    let config = &Config::new().with_large_int("number");
    let types = [
        exported::<crate::progress::Progress>(config),
        exported::<crate::engine::Info>(config),
        exported::<crate::engine::Inspection>(config),
        exported::<crate::engine::Estimate>(config),
        exported::<crate::engine::Verdict>(config),
        exported::<crate::engine::Usage>(config),
        exported::<crate::engine::Timings>(config),
        exported::<crate::engine::FinishReason>(config),
        exported::<crate::backend::GpuInfo>(config),
        exported::<crate::backend::gpu::Variant>(config),
        exported::<crate::backend::KernelTime>(config),
        exported::<crate::openai::PromptProgress>(config),
        exported::<crate::openai::Origin>(config),
        exported::<crate::http::Retrying>(config),
        exported::<crate::hub::Cached>(config),
        exported::<crate::hub::Verification>(config),
        exported::<crate::store::StoredSession>(config),
        exported::<crate::router::Capabilities>(config),
        exported::<crate::router::Comparison>(config),
        exported::<crate::remote::tasks::Label>(config),
        exported::<crate::remote::cost::Totals>(config),
    ];
    HEAD.to_owned() + &plain(&types.concat())
}

/// Comments of one line on one line, and no links, which are rustdoc's.
fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    let lines: Vec<&str> = text.lines().collect();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        match (line.trim(), lines.get(at + 1), lines.get(at + 2).map(|end| end.trim())) {
            ("/**", Some(only), Some("*/")) => {
                plain += &format!("/** {} */\n", only.trim().trim_start_matches("* "));
                at += 3;
            }
            _ => {
                plain += &format!("{line}\n");
                at += 1;
            }
        }
    }
    plain
}

/// The same but for how it is formatted, which is Prettier's.
fn squeezed(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_whitespace() && !matches!(c, ',' | ';')).collect();
    text.replace("=|", "=").replace(":|", ":").replace("/***", "/**").replace("**/", "*/").replace('*', "")
}

#[test]
fn what_pages_see_is_what_is_said() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/pkg/src/engine-types.ts");
    let made = all();
    if std::env::var_os("CANDLEWICK_WRITE_TYPES").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        squeezed(&there) == squeezed(&made),
        "types have changed: CANDLEWICK_WRITE_TYPES=1 cargo test --lib typescript, then npx prettier --write pkg/src"
    );
}
