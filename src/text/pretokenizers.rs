//! Cutting text into words before byte-pair encoding: the rules that `tokenizer.ggml.pre` names.
//!
//! The expressions are those of the models' own tokenizers in the form llama.cpp gives them. They run
//! on an automaton that takes linear time, which has no look-ahead; the few that need one are matched
//! without it, see [`Split`].

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
    /// Whether tokens are written in GPT-2's characters; otherwise spaces are "▁".
    pub byte_level: bool,
    /// Whether there is a BOS token when the file does not name one.
    pub has_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// The common pattern since GPT-4; what follows differs in how it takes digits.
macro_rules! contractions {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}
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

/// `~` is no symbol here, as in llama.cpp.
macro_rules! deepseek3 {
    ($tail:literal) => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
            r"|[^\r\n\p{L}\p{P}[\p{S}--~]]?[\p{L}\p{M}]+| ?[\p{P}[\p{S}--~]]+",
            $tail,
            r"|\s+(?!\S)|\s+"
        )
    };
}
const DEEPSEEK3: &str = deepseek3!(r"[\r\n]*|\s*[\r\n]+");
const CHINESE_JAPANESE: &str = "[一-龥぀-ゟ゠-ヿ]+";
const CHINESE_KOREAN: &str = "[一-龥ࠀ-一가-퟿]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// Where spaces are "▁" and words are not cut apart.
const LINES: &str = r"[^\n]+|[\n]+";

const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

// Expressions with a look-ahead in the middle, which `Split` knows by name.
const JAIS2_SPACES: &str = r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const SUPERBPE_DIGITS: &str = r"(?=(\d{3})+(?!\d))";
const TINY_AYA_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
const AFMOE_DIGITS: &str = r"\p{AFMoE_digits}";
const TRAILING_SPACE: &str = r"\s+$";

impl Rules {
    /// The rules called `name` in `tokenizer.ggml.pre`; without that key, llama.cpp's default.
    pub fn named(name: Option<&str>) -> Option<Rules> {
        let splits: &[&str] = match name.unwrap_or("default") {
            "default" => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => &[LLAMA3],
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
            | "solar-open" | "grok-2" => &[QWEN2],
            "qwen35" => &[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )],
            "minicpm5" => &[r"\p{N}{1,3}", gpt4!(r"\p{N}+")],
            "laguna" => &[LINES, QWEN2],
            "ufakzeka" => &[concat!(
                r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )],
            "seed-coder" => &[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
            )],
            "bailingmoe" | "bailingmoe2" | "llada-moe" => &[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            )],
            "exaone-moe" => &[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            )],
            "jais-2" => &[concat!(
                contractions!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
                r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
            )],
            "kimi-k2" => &[KIMI],
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de"
            | "a.x-4.0" | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe"
            | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" => &[GPT2],
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
            | "mellum2" => &[r"\p{N}", GPT2],
            "falcon" => &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
            "chameleon" => &[
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                "([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2,
            ],
            "deepseek-llm" => &[
                "[\r\n]",
                DEEPSEEK_LETTERS,
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                TRAILING_SPACE,
                CHINESE_KOREAN,
                r"\p{N}+",
            ],
            "deepseek-coder" => &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE_KOREAN, r"\p{N}"],
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
                &[r"\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK3]
            }
            "spark2_5" => &[r"\p{N}{1,3}", CHINESE_JAPANESE, deepseek3!(r"|[\r\n]"), r"\p{N}"],
            "afmoe" => {
                &[AFMOE_DIGITS, "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+", DEEPSEEK3]
            }
            "youtu" => {
                &["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", uncased!(r"\p{N}")]
            }
            "tekken" => &[cased!(r"\p{L}", "", r"\p{N}")],
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => {
                &[cased!(r"\p{L}", concat!(contractions!(), "?"), r"\p{N}{1,3}")]
            }
            "granite-embed-multi-97m" => {
                &[cased!(r"\p{L}\p{M}", concat!(contractions!(), "?"), r"\p{N}{1,3}")]
            }
            "tiny_aya" | "cohere2moe" => &[TINY_AYA_DIGITS, uncased!(r"\p{N}{1,3}")],
            "superbpe" => &[r"\p{N}+", SUPERBPE_DIGITS],
            "poro-chat" | "bloom" | "gpt3-finnish" => &[BLOOM],
            "viking" => &[BLOOM, r"\p{N}"],
            "gemma4" | "granite-embed-multi-311m" | "sarvam-moe" => &[LINES],
            _ => return None,
        };
        let name = name.unwrap_or("default");
        let is_llama3 = matches!(
            name,
            "llama3"
                | "llama-v3"
                | "llama-bpe"
                | "falcon3"
                | "falcon-h1"
                | "pixtral"
                | "midm-2.0"
                | "lfm2"
                | "jina-v5-nano"
        );
        Some(Rules {
            splits,
            ignore_merges: is_llama3
                || matches!(name, "minicpm5" | "youtu" | "tekken" | "granite-embed-multi-97m"),
            add_bos: is_llama3
                || matches!(name, "tekken" | "chameleon" | "gemma4" | "granite-embed-multi-311m"),
            byte_level: splits != [LINES],
            has_bos: !matches!(name, "glm4" | "chatglm-bpe"),
        })
    }
}

/// Chinese characters stay among themselves.
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
    /// Runs of digits in groups of three, counted from the right.
    Digits { runs: Regex, rule: Digits },
}

/// Which cuts a run of digits gets besides those between its groups of three.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Digits {
    /// In front, when the first group is a whole one.
    SuperBpe,
    /// In front and behind, unless a letter follows: then none at all.
    TinyAya,
    /// Behind.
    Afmoe,
}

impl Split {
    fn new(expression: &str) -> Result<Split> {
        let digits = |runs, rule| Ok(Split::Digits { runs: compile(&[runs])?, rule });
        match expression {
            TRAILING_SPACE => return Ok(Split::TrailingSpace),
            SUPERBPE_DIGITS => return digits("[0-9]+", Digits::SuperBpe),
            TINY_AYA_DIGITS => return digits("[0-9]+", Digits::TinyAya),
            AFMOE_DIGITS => return digits(r"\p{N}+", Digits::Afmoe),
            _ => {}
        }
        if let Some(rest) = expression.strip_suffix(JAIS2_SPACES).and_then(|rest| rest.strip_suffix('|')) {
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
            Split::Digits { runs, rule } => {
                for run in runs.find_iter(text) {
                    cut_digits(*rule, text, run.range(), &mut cut);
                }
            }
        }
    }
}

fn compile(patterns: &[&str]) -> Result<Regex> {
    Regex::new_many(patterns).map_err(|error| Error::internal(format!("pre-tokenizer: {error}")))
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

fn cut_digits(rule: Digits, text: &str, run: std::ops::Range<usize>, cut: &mut impl FnMut(usize)) {
    let is_word = |c: char| c.is_ascii_alphabetic() || c == '_';
    if rule == Digits::TinyAya && text[run.end..].starts_with(is_word) {
        return;
    }
    let digits = text[run.clone()].chars().count();
    if rule == Digits::TinyAya || rule == Digits::SuperBpe && digits % 3 == 0 {
        cut(run.start);
    }
    for (place, (at, _)) in text[run.clone()].char_indices().enumerate().skip(1) {
        if (digits - place) % 3 == 0 {
            cut(run.start + at);
        }
    }
    if rule != Digits::SuperBpe {
        cut(run.end);
    }
}

/// Cuts text into words.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    splits: Vec<Split>,
}

impl PreTokenizer {
    pub fn new(splits: &[&str]) -> Result<PreTokenizer> {
        Ok(PreTokenizer { splits: splits.iter().map(|split| Split::new(split)).collect::<Result<_>>()? })
    }

    /// Where each word ends.
    pub fn split(&self, text: &str) -> Vec<usize> {
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
