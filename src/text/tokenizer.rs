//! The tokenizer of a file.

use super::bpe::{Bpe, byte_of};
use super::detokenizer::Detokenizer;
use super::merges::Word;
use super::pretokenizers::Rules;
use super::special::{Fragment, SpecialTokens};
use super::spm::Spm;
use super::vocabulary::{Kind, Vocabulary};
use super::wordpiece::WordPiece;
use crate::format::gguf::Metadata;
use crate::turns::Turns;
use crate::{Error, Result};
use futures_util::FutureExt;
use std::borrow::Cow;

/// More than any context holds. Joining its pieces takes some forty bytes for each of its own.
const MAX_TEXT: usize = 8 << 20;

/// Text to ids and back, as llama.cpp has it.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    model: Algorithm,
    special: SpecialTokens,
    /// Whether encoding puts a space in front of a text.
    space_prefix: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    end_of_generation: Vec<u32>,
    warnings: Vec<String>,
}

#[derive(Debug)]
enum Algorithm {
    Spm(Spm),
    Bpe(Bpe),
    WordPiece(WordPiece),
}

impl Tokenizer {
    /// From the `tokenizer.ggml` keys of a file.
    ///
    /// Fails with `unsupported_model` for kinds of tokenizer that candlewick does not have, and with
    /// `corrupt_model` where the keys contradict each other.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        let name = metadata.text("tokenizer.ggml.model")?;
        let Some(name) = name.as_deref() else {
            return Err(Error::corrupt_model("the file has no tokenizer (tokenizer.ggml.model)"));
        };
        if !matches!(name, "llama" | "gpt2" | "gemma4" | "bert") {
            return Err(Error::unsupported_model(format!(
                "tokenizers of the kind {name:?} are not supported, only llama, gpt2, gemma4 and bert"
            )));
        }
        let mut vocabulary = Vocabulary::from_metadata(metadata)?;
        let pre = metadata.text("tokenizer.ggml.pre")?;
        let pre = match name {
            "gemma4" => Some("gemma4"),
            _ => pre.as_deref().filter(|pre| !pre.is_empty()),
        };
        let rules = Rules::named(pre);
        let has_bos = rules.is_none_or(|rules| rules.has_bos);
        // What llama.cpp takes for BOS, EOS, unknown, separator and padding when the file does not say.
        let defaults = match name {
            "llama" => [Some(1), Some(2), Some(0), None, None],
            "gpt2" => [has_bos.then_some(11), Some(11), None, None, None],
            "bert" => [Some(101), None, Some(100), Some(102), Some(0)],
            _ => [None; 5],
        };
        let mut given = Given { metadata, warnings: Vec::new() };
        let [bos, eos, unknown, separator, padding] = special_ids(&mut given, &vocabulary, defaults)?;

        let model = match name {
            "llama" => Algorithm::Spm(Spm::new(metadata, &vocabulary, unknown)?),
            "bert" => Algorithm::WordPiece(WordPiece::new(metadata, &vocabulary, unknown)?),
            _ => {
                let rules = rules.ok_or_else(|| {
                    let pre = pre.unwrap_or_default();
                    Error::unsupported_model(format!(
                        "the pre-tokenizer {pre:?} (tokenizer.ggml.pre) is not known"
                    ))
                })?;
                Algorithm::Bpe(Bpe::new(metadata, &mut vocabulary, &rules)?)
            }
        };
        let end_of_generation = end_of_generation(&mut given, &mut vocabulary, eos)?;
        let flag = |key: &str| metadata.bool(key);
        let by_default = match &model {
            Algorithm::Spm(_) | Algorithm::WordPiece(_) => true,
            Algorithm::Bpe(_) => rules.is_some_and(|rules| rules.add_bos),
        };
        // Published files of Gemma 4 say that it has none, and the model makes no sense without
        // (ggml-org/llama.cpp#21500).
        let add_bos = match name {
            "gemma4" => true,
            _ => flag("tokenizer.ggml.add_bos_token")?.unwrap_or(by_default),
        };
        let space_prefix = flag("tokenizer.ggml.add_space_prefix")?;
        let tokenizer = Tokenizer {
            special: SpecialTokens::new(metadata, &vocabulary)?,
            space_prefix: matches!(model, Algorithm::Spm(_)) && space_prefix.unwrap_or(true),
            add_bos,
            add_eos: flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocabulary,
            model,
            bos,
            eos,
            unknown,
            separator,
            padding,
            end_of_generation,
            warnings: given.warnings,
        };
        tokenizer.affixes()?;
        Ok(tokenizer)
    }

    /// The tokens of `text`, without BOS and EOS. Control tokens that are written out in it become
    /// their ids with `parse_special`, and are text like any other without.
    ///
    /// Fails with `invalid_argument` for texts of more than 8 MiB.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let turns = &mut Turns::none();
        self.encode_in_turns(text, parse_special, turns).now_or_never().expect("it does not pause")
    }

    /// As [`encode`](Self::encode), and lets others work meanwhile: a long text takes seconds under some vocabularies.
    pub(crate) async fn encode_in_turns(
        &self,
        text: &str,
        parse_special: bool,
        turns: &mut Turns,
    ) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT {
            return Err(Error::invalid_argument(format!(
                "a text of {} bytes is too long: at most {MAX_TEXT} are made into tokens at once",
                text.len()
            )));
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut word = Word::default();
        let mut begins_text = true;
        for fragment in self.special.partition(text, parse_special) {
            turns.step().await;
            let text = match fragment {
                Fragment::Text(range) => &text[range],
                Fragment::Token(id) => {
                    ids.push(id);
                    begins_text = true;
                    continue;
                }
            };
            match &self.model {
                Algorithm::Spm(spm) => {
                    let prefix = if self.space_prefix && begins_text { "▁" } else { "" };
                    let text = prefix.to_owned() + &text.replace(' ', "▁");
                    spm.encode(&self.vocabulary, &text, &mut word, turns, &mut ids).await;
                }
                Algorithm::Bpe(bpe) => bpe.encode(&self.vocabulary, text, &mut word, turns, &mut ids).await,
                Algorithm::WordPiece(wordpiece) => wordpiece.encode(text, turns, &mut ids).await,
            }
            begins_text = false;
        }
        Ok(ids)
    }

    /// The tokens of `text` between BOS and EOS, or CLS and SEP, as far as the file wants them.
    pub fn encode_with_special(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let turns = &mut Turns::none();
        self.encode_with_special_in_turns(text, parse_special, turns)
            .now_or_never()
            .expect("it does not pause")
    }

    /// As [`encode_with_special`](Self::encode_with_special), and lets others work meanwhile.
    pub(crate) async fn encode_with_special_in_turns(
        &self,
        text: &str,
        parse_special: bool,
        turns: &mut Turns,
    ) -> Result<Vec<u32>> {
        let (first, last) = self.affixes()?;
        let mut ids = Vec::from_iter(first);
        ids.extend(self.encode_in_turns(text, parse_special, turns).await?);
        ids.extend(last);
        Ok(ids)
    }

    /// What `encode_with_special` puts in front and behind.
    fn affixes(&self) -> Result<(Option<u32>, Option<u32>)> {
        if let Algorithm::WordPiece(_) = self.model {
            return Ok((self.bos, self.separator));
        }
        let wanted = |wanted: bool, id: Option<u32>, name: &str| match (wanted, id) {
            (true, None) => Err(Error::corrupt_model(format!(
                "tokenizer.ggml.add_{name}_token is set, but there is no {name}_token_id"
            ))),
            (true, id) => Ok(id),
            (false, _) => Ok(None),
        };
        Ok((wanted(self.add_bos, self.bos, "bos")?, wanted(self.add_eos, self.eos, "eos")?))
    }

    /// The text of `ids`, without control tokens. For SPM and BPE this is [`encode`](Self::encode)
    /// backwards, except that SPM encodes text after a special token with a space in front.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut detokenizer = self.detokenizer(true);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(self, id)).collect();
        text += &detokenizer.finish();
        text
    }

    /// Fails with `invalid_argument` if one of `ids` is not in the vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.len()) {
            Some(id) => Err(Error::invalid_argument(format!(
                "token {id} is outside the vocabulary of {}",
                self.len()
            ))),
            None => Ok(()),
        }
    }

    /// A detokenizer for a stream of tokens. Where they begin a text rather than continue one, the
    /// space that encoding puts in front of a text is left out.
    pub fn detokenizer(&self, begins_text: bool) -> Detokenizer {
        Detokenizer::new(self.space_prefix && begins_text)
    }

    /// Number of tokens.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// How the vocabulary writes a token: "▁Hello", "ĠHello", "<0x0A>". What is not UTF-8 in it shows as U+FFFD.
    pub fn token_text(&self, id: u32) -> Option<Cow<'_, str>> {
        let text = self.vocabulary.text(id).filter(|_| self.vocabulary.is_token(id));
        text.map(String::from_utf8_lossy)
    }

    /// What a token adds to a text; perhaps part of a character. Control tokens give their names.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        let text = self.vocabulary.text(id).unwrap_or_default();
        match (self.kind(id), &self.model) {
            (Kind::Unused, _) => Cow::Borrowed(&[]),
            (Kind::Control | Kind::UserDefined | Kind::Unknown, _) => Cow::Borrowed(text),
            (Kind::Byte, _) => {
                let byte = text.strip_prefix(b"<0x").and_then(|text| text.strip_suffix(b">"));
                let byte = byte.and_then(|byte| u8::from_str_radix(std::str::from_utf8(byte).ok()?, 16).ok());
                byte.map_or(Cow::Borrowed(text), |byte| Cow::Owned(vec![byte]))
            }
            (Kind::Normal, Algorithm::Bpe(bpe)) if bpe.is_byte_level() => {
                let mut bytes = Vec::with_capacity(text.len());
                let mut utf8 = [0; 4];
                for chunk in text.utf8_chunks() {
                    for character in chunk.valid().chars() {
                        match byte_of(character) {
                            Some(byte) => bytes.push(byte),
                            None => bytes.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes()),
                        }
                    }
                    bytes.extend_from_slice(chunk.invalid());
                }
                Cow::Owned(bytes)
            }
            (Kind::Normal, _) => with_spaces(text),
        }
    }

    /// The token that the vocabulary writes as `text`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.token(text.as_bytes())
    }

    /// What a token is for; ids outside the vocabulary are unused.
    pub fn kind(&self, id: u32) -> Kind {
        self.vocabulary.kind(id)
    }

    /// The token that begins a sequence; for BERT, CLS.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for what the vocabulary cannot express.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The token between two texts.
    pub fn separator(&self) -> Option<u32> {
        self.separator
    }

    /// The token that fills up a batch.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Whether [`encode_with_special`](Self::encode_with_special) puts a BOS token in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`encode_with_special`](Self::encode_with_special) puts an EOS token behind.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// What in the file is wrong, and was passed over.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a model that writes this token is done.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.contains(&id)
    }
}

/// `text` with spaces for "▁".
fn with_spaces(text: &[u8]) -> Cow<'_, [u8]> {
    const SPACE: &[u8] = "▁".as_bytes();
    if !text.windows(SPACE.len()).any(|window| window == SPACE) {
        return Cow::Borrowed(text);
    }
    let mut spaced = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let (byte, after) = rest.strip_prefix(SPACE).map_or((first, &rest[1..]), |after| (b' ', after));
        spaced.push(byte);
        rest = after;
    }
    Cow::Owned(spaced)
}

/// The special tokens that a file names by their ids.
struct Given<'a> {
    metadata: &'a Metadata,
    warnings: Vec<String>,
}

impl Given<'_> {
    /// An id; nothing where it is no token, as published files have it: like llama.cpp, warns and passes it over.
    fn id(&mut self, name: &str, vocabulary: &Vocabulary) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(given) = self.metadata.integer(&key)? else { return Ok(None) };
        let id = u32::try_from(given).ok().filter(|&id| vocabulary.is_token(id));
        if id.is_none() {
            let tokens = vocabulary.len();
            self.warnings.push(format!("{key} is {given}, of {tokens} tokens; it is passed over"));
        }
        Ok(id)
    }
}

/// BOS, EOS, unknown, separator and padding.
fn special_ids(
    given: &mut Given,
    vocabulary: &Vocabulary,
    defaults: [Option<u32>; 5],
) -> Result<[Option<u32>; 5]> {
    // "seperator" is how converters spell it.
    let names = ["bos", "eos", "unknown", "seperator", "padding"];
    let mut ids = defaults.map(|id| id.filter(|&id| vocabulary.is_token(id)));
    for (name, id) in names.iter().zip(&mut ids) {
        *id = given.id(name, vocabulary)?.or(*id);
    }
    if !given.metadata.contains("tokenizer.ggml.bos_token_id") {
        ids[0] = given.id("cls", vocabulary)?.or(ids[0]);
    }
    Ok(ids)
}

/// Tokens that end an answer whatever the file says of them.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens for filling in the middle, by key; the first that exists is a control token.
const FILL_IN: [(&str, &[&str]); 6] = [
    (
        "fim_pre",
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        "fim_suf",
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        "fim_mid",
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// The tokens that end an answer, by llama.cpp's rules. Like it, makes control tokens of those that
/// files wrongly have as text.
fn end_of_generation(given: &mut Given, vocabulary: &mut Vocabulary, eos: Option<u32>) -> Result<Vec<u32>> {
    let mut ends = Vec::from_iter(eos);
    for key in ["eot", "eom"] {
        ends.extend(given.id(key, vocabulary)?);
    }
    for (key, texts) in FILL_IN {
        let mut id = given.id(key, vocabulary)?;
        if id.is_none() {
            id = texts.iter().find_map(|text| vocabulary.token(text.as_bytes()));
            id.into_iter().for_each(|id| vocabulary.set_kind(id, Kind::Control));
        }
        if matches!(key, "fim_pad" | "fim_rep" | "fim_sep") {
            ends.extend(id);
        }
    }
    for text in ENDS {
        if let Some(id) = vocabulary.token(text.as_bytes()) {
            vocabulary.set_kind(id, Kind::Control);
            ends.push(id);
        }
    }
    for text in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
        let id = vocabulary.token(text.as_bytes());
        id.into_iter().for_each(|id| vocabulary.set_kind(id, Kind::UserDefined));
    }

    // Where others end the answer, <|end|> ends a part of it, and </s> is but text.
    let has = |text: &str| vocabulary.token(text.as_bytes()).filter(|id| ends.contains(id));
    let calls = has("<|call|>").or(has("<|calls|>")).is_some();
    let part = has("<|end|>").filter(|_| calls && (has("<|return|>").or(has("<|flush|>")).is_some()));
    let text = has("</s>").filter(|_| has("<|tool_response>").is_some());
    ends.retain(|&id| Some(id) != part && Some(id) != text);
    part.into_iter().for_each(|id| vocabulary.set_kind(id, Kind::UserDefined));
    text.into_iter().for_each(|id| vocabulary.set_kind(id, Kind::Normal));
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}
