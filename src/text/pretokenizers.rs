//! Cutting text into words before byte-pair encoding: the rules that `tokenizer.ggml.pre` names.
//!
//! The expressions are those of the models' own tokenizers in the form llama.cpp gives them. They run
//! on an automaton that takes linear time, which has no look-ahead; the few that need one are matched
//! without it, see [`Split`]. Characters are written as numbers because editors normalize some of them.

use crate::{Error, Result};
use regex_automata::Input;
use regex_automata::meta::Regex;

/// What a pre-tokenizer's name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Each cuts up what the ones before it left.
    pub splits: &'static [&'static str],
    /// Whether words that are tokens are taken as they are.
    pub ignore_merges: bool,
    /// Whether a BOS token comes first when the file does not say.
    pub add_bos: bool,
    /// Whether tokens are written in GPT-2's characters; otherwise they are text.
    pub byte_level: bool,
    /// Whether spaces are "▁" in them.
    pub escapes_spaces: bool,
    /// Whether there is a BOS token when the file does not name one.
    pub has_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

macro_rules! contractions {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}
/// The common pattern since GPT-4. Models differ in how many digits they keep together.
macro_rules! gpt4 {
    ($numbers:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
const LLAMA3: &str = gpt4!(r"\p{N}{1,3}");
const QWEN2: &str = gpt4!(r"\p{N}");

/// Words whose capitals, if any, come first. `$letters` is what counts as a letter.
macro_rules! cased {
    ($letters:literal, $suffix:expr, $numbers:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[[",
            $letters,
            r"]--[a-z]]*[[",
            $letters,
            r"]--[A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[[",
            $letters,
            r"]--[a-z]]+[[",
            $letters,
            r"]--[A-Z]]*",
            $suffix,
            "|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
/// The same where the model's expression has `\p{Lu}` and its like, which llama.cpp reads as `\p{L}`.
macro_rules! uncased {
    ($numbers:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
            contractions!(),
            "?|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

macro_rules! deepseek3 {
    ($tail:literal) => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+",
            $tail,
            r"|\s+(?!\S)|\s+"
        )
    };
}
const DEEPSEEK3: &str = deepseek3!(r"[\r\n]*|\s*[\r\n]+");
const CHINESE_JAPANESE: &str = r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
// In this and the next, spaces within the ranges are left out, as llama.cpp does by accident.
const CHINESE_KOREAN: &str = r"[[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]--\s]+";
const DEEPSEEK_PUNCTUATION: &str =
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3001}-\u{3002}]+";
const BLOOM: &str = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+";
const AFMOE_SCRIPTS: &str = concat!(
    r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{FAFF}\u{3040}-\u{309F}\u{30A0}-\u{30FF}",
    r"\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}\u{E80}-\u{EFF}\u{1780}-\u{17FF}",
    r"\u{1000}-\u{109F}\u{AA60}-\u{AA7F}\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]+"
);
const YOUTU_SCRIPTS: &str = concat!(
    r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+",
    r"|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}\u{2019}\u{2014}\u{FF1A}\u{FF1B}\u{FF0C}",
    r"\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+|[\u{3105}-\u{312F}]+",
    r"|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"
);
/// Where spaces are "▁" and words are not cut apart.
const LINES: &str = r"[^\n]+|[\n]+";

/// Letters with a case.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}",
    r"\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}",
    r"\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}",
    r"\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}",
    r"\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}",
    r"\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}",
    r"\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}",
    r"\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}",
    r"\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}",
    r"\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}",
    r"\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}",
    r"\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}",
    r"\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}",
    r"\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}",
    r"\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}",
    r"\u{1E900}-\u{1E943}",
    "]+"
);

/// Chinese characters.
macro_rules! han {
    () => {
        concat!(
            r"\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
            r"\u{2B740}-\u{2EBEF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}"
        )
    };
}
const KIMI: &str = concat!(
    "[",
    han!(),
    r"]+|[^\r\n\p{L}\p{N}]?[\p{L}--[",
    han!(),
    "]]+",
    contractions!(),
    r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

// Expressions with a look-ahead that `Split` knows by name.
macro_rules! jais2_spaces {
    () => {
        concat!(
            r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)",
            r"|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
        )
    };
}
const SUPERBPE_DIGITS: &str = r"(?=(\d{3})+(?!\d))";
const TINY_AYA_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
const AFMOE_DIGITS: &str = r"\p{AFMoE_digits}";
const TRAILING_SPACE: &str = r"\s+$";

impl Rules {
    /// The rules called `name` in `tokenizer.ggml.pre`; without that key, llama.cpp's default.
    pub(super) fn named(name: Option<&str>) -> Option<Rules> {
        let rules = |splits| Rules {
            splits,
            ignore_merges: false,
            add_bos: false,
            byte_level: true,
            escapes_spaces: false,
            has_bos: true,
        };
        let whole = |splits| Rules { ignore_merges: true, ..rules(splits) };
        Some(match name.unwrap_or("default") {
            "default" => rules(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" => Rules { add_bos: true, ..whole(&[LLAMA3]) },
            "dbrx" | "smaug-bpe" => rules(&[LLAMA3]),
            "chatglm-bpe" => Rules { has_bos: false, ..rules(&[LLAMA3]) },
            "glm4" | "glm5" => Rules { has_bos: false, ..whole(&[LLAMA3]) },
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
            | "solar-open" | "grok-2" => rules(&[QWEN2]),
            "qwen35" => rules(&[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )]),
            "minicpm5" => whole(&[r"\p{N}{1,3}", gpt4!(r"\p{N}+")]),
            "laguna" => rules(&[LINES, QWEN2]),
            "ufakzeka" => rules(&[concat!(
                r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )]),
            "seed-coder" => rules(&[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
            )]),
            "bailingmoe" | "bailingmoe2" | "llada-moe" => rules(&[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            )]),
            "exaone-moe" => rules(&[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            )]),
            "jais-2" => rules(&[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
                jais2_spaces!()
            )]),
            "kimi-k2" => rules(&[KIMI]),
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de"
            | "a.x-4.0" | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe"
            | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" => rules(&[GPT2]),
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
            | "mellum2" => rules(&[r"\p{N}", GPT2]),
            "falcon" => rules(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
            "chameleon" => Rules {
                add_bos: true,
                ..rules(&[
                    "<sentinel:[0-9]+>",
                    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                    "([\t\n]|    |  )",
                    r"\p{N}",
                    r"[\p{P}!-/:-@\[-`{-~]",
                    GPT2,
                ])
            },
            "deepseek-llm" => rules(&[
                "[\r\n]",
                DEEPSEEK_LETTERS,
                DEEPSEEK_PUNCTUATION,
                TRAILING_SPACE,
                CHINESE_KOREAN,
                r"\p{N}+",
            ]),
            "deepseek-coder" => rules(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE_KOREAN, r"\p{N}"]),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
                rules(&[r"\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK3])
            }
            "spark2_5" => rules(&[r"\p{N}{1,3}", CHINESE_JAPANESE, deepseek3!(r"|[\r\n]"), r"\p{N}"]),
            "afmoe" => rules(&[AFMOE_DIGITS, AFMOE_SCRIPTS, DEEPSEEK3]),
            "youtu" => whole(&[YOUTU_SCRIPTS, uncased!(r"\p{N}")]),
            "tekken" => Rules { add_bos: true, ..whole(&[cased!(r"\p{L}", "", r"\p{N}")]) },
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => {
                rules(&[cased!(r"\p{L}", concat!(contractions!(), "?"), r"\p{N}{1,3}")])
            }
            "granite-embed-multi-97m" => {
                whole(&[cased!(r"\p{L}\p{M}", concat!(contractions!(), "?"), r"\p{N}{1,3}")])
            }
            "tiny_aya" | "cohere2moe" => rules(&[TINY_AYA_DIGITS, uncased!(r"\p{N}{1,3}")]),
            "superbpe" => rules(&[r"\p{N}+", SUPERBPE_DIGITS]),
            "poro-chat" | "bloom" | "gpt3-finnish" => rules(&[BLOOM]),
            "viking" => rules(&[BLOOM, r"\p{N}"]),
            "gemma4" | "granite-embed-multi-311m" => {
                Rules { byte_level: false, escapes_spaces: true, add_bos: true, ..rules(&[LINES]) }
            }
            "sarvam-moe" => Rules { byte_level: false, escapes_spaces: true, ..rules(&[LINES]) },
            // Of jina-embeddings-v2-base-zh.
            "whitespace" => Rules { byte_level: false, ..rules(&[r"\S+"]) },
            _ => return None,
        })
    }
}

/// One expression, made to cut without look-ahead.
#[derive(Debug)]
enum Split {
    /// Matches, and what lies between them.
    Pattern(Regex),
    /// `…|\s+(?!\S)|\s+`. The second pattern is `\s+`; its match gives its last character back when
    /// more text follows, as the look-ahead makes it do.
    Spaces(Regex),
    /// `…|\s{512}(?!\S)|\s{256}(?!\S)|…`, likewise.
    PowersOfTwo(Regex),
    /// `\s+$`.
    TrailingSpace,
    /// Runs of digits in groups of three, counted from the right, with a cut behind the last.
    Digits(Regex),
    /// The same with no cut behind, but one in front when the first group is a whole one.
    WholeGroups(Regex),
}

impl Split {
    fn new(expression: &str) -> Result<Split> {
        match expression {
            TRAILING_SPACE => return Ok(Split::TrailingSpace),
            AFMOE_DIGITS | TINY_AYA_DIGITS => return Ok(Split::Digits(compile(&[r"\p{N}+"])?)),
            SUPERBPE_DIGITS => return Ok(Split::WholeGroups(compile(&["[0-9]+"])?)),
            _ => {}
        }
        if let Some(rest) = expression.strip_suffix(jais2_spaces!()) {
            return Ok(Split::PowersOfTwo(compile(&[rest, r"\s+"])?));
        }
        let rest = expression.strip_suffix(r"|\s+").unwrap_or(expression);
        match rest.strip_suffix(r"|\s+(?!\S)") {
            Some(rest) => Ok(Split::Spaces(compile(&[rest, r"\s+"])?)),
            None => Ok(Split::Pattern(compile(&[expression])?)),
        }
    }

    /// Calls `cut` with the end of each part of `text`, in order; the end of `text` may be left out,
    /// and any end may come twice.
    fn apply(&self, text: &str, mut cut: impl FnMut(usize)) {
        match self {
            Split::Pattern(regex) => {
                for found in regex.find_iter(text) {
                    cut(found.start());
                    cut(found.end());
                }
            }
            Split::Spaces(regex) => {
                cut_spaces(regex, text, cut, |run, at_end| match run.char_indices().last() {
                    Some((last, _)) if !at_end && last > 0 => last,
                    _ => run.len(),
                })
            }
            Split::PowersOfTwo(regex) => cut_spaces(regex, text, cut, |run, at_end| {
                let count = run.chars().take(513).count();
                let usable = if at_end { count } else { count - 1 };
                let step = (0..10).rev().map(|bit| 1 << bit).find(|step| *step <= usable).unwrap_or(1);
                run.char_indices().nth(step).map_or(run.len(), |(at, _)| at)
            }),
            Split::TrailingSpace => cut(text.trim_end().len()),
            Split::Digits(runs) => {
                for run in runs.find_iter(text) {
                    threes(&text[run.range()], |at| cut(run.start() + at));
                    cut(run.end());
                }
            }
            Split::WholeGroups(runs) => {
                for run in runs.find_iter(text) {
                    if run.len() % 3 == 0 {
                        cut(run.start());
                    }
                    threes(&text[run.range()], |at| cut(run.start() + at));
                }
            }
        }
    }
}

/// Calls `cut` between groups of three characters, counted from the right.
fn threes(digits: &str, mut cut: impl FnMut(usize)) {
    let count = digits.chars().count();
    for (place, (at, _)) in digits.char_indices().enumerate().skip(1) {
        if (count - place).is_multiple_of(3) {
            cut(at);
        }
    }
}

fn compile(patterns: &[&str]) -> Result<Regex> {
    Regex::new_many(patterns).map_err(|error| Error::internal(format!("pre-tokenizer {patterns:?}: {error}")))
}

/// Cuts at matches. A match of the second pattern, a run of spaces, is first given to `keep` with
/// whether it ends the text; it says how many bytes of it to take.
fn cut_spaces(regex: &Regex, text: &str, mut cut: impl FnMut(usize), keep: impl Fn(&str, bool) -> usize) {
    let mut at = 0;
    while let Some(found) = regex.find(Input::new(text).range(at..)) {
        cut(found.start());
        at = found.end();
        if found.pattern().as_usize() == 1 {
            at = found.start() + keep(&text[found.range()], at == text.len());
        }
        cut(at);
    }
}

/// Cuts text into words.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    splits: Vec<Split>,
}

impl PreTokenizer {
    pub(super) fn new(splits: &[&str]) -> Result<PreTokenizer> {
        Ok(PreTokenizer { splits: splits.iter().map(|split| Split::new(split)).collect::<Result<_>>()? })
    }

    /// Where each word ends.
    pub(super) fn split(&self, text: &str) -> Vec<usize> {
        let mut ends = vec![text.len()];
        for split in &self.splits {
            let before = std::mem::take(&mut ends);
            let mut start = 0;
            for end in before {
                split.apply(&text[start..end], |at| {
                    if start + at > ends.last().copied().unwrap_or(0) {
                        ends.push(start + at);
                    }
                });
                if ends.last() != Some(&end) {
                    ends.push(end);
                }
                start = end;
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(pre: &str, text: &'a str) -> Vec<&'a str> {
        let splitter = PreTokenizer::new(Rules::named(Some(pre)).unwrap().splits).unwrap();
        let mut start = 0;
        splitter.split(text).into_iter().map(|end| &text[std::mem::replace(&mut start, end)..end]).collect()
    }

    #[test]
    fn spaces_leave_one_for_the_next_word() {
        assert_eq!(words("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(
            words("llama-bpe", "a \n  b\u{3000}\u{3000}!"),
            ["a", " \n", " ", " b", "\u{3000}", "\u{3000}", "!"]
        );
        assert_eq!(words("jais-2", "a       b"), ["a", "    ", "  ", " b"]);
    }

    #[test]
    fn a_tilde_is_a_symbol() {
        for pre in ["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4", "spark2_5", "afmoe"] {
            assert_eq!(words(pre, "a ~ b~c ~~$ ~d"), ["a", " ~", " b", "~c", " ~~$", " ~", "d"], "{pre}");
        }
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!(words("superbpe", "a1234567"), ["a", "1", "234", "567"]);
        assert_eq!(words("tiny_aya", "12345 678x"), ["12", "345", " ", "678", "x"]);
        assert_eq!(words("afmoe", "  1234"), [" ", " ", "1", "234"]);
    }

    #[test]
    fn capitals_begin_words() {
        assert_eq!(words("gpt-4o", "HelloWorld's ÀÉx"), ["Hello", "World's", " ÀÉx"]);
        assert_eq!(words("tekken", "don't 12"), ["don", "'t", " ", "1", "2"]);
    }
}
