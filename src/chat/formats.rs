//! Formats for models whose files carry no template, by architecture, name and special tokens.

use crate::Result;
use crate::format::gguf::Metadata;

/// Every format's name and template.
const SOURCES: [(&str, &str); 10] = [
    ("chatml", include_str!("formats/chatml.jinja")),
    ("deepseek", include_str!("formats/deepseek.jinja")),
    ("gemma", include_str!("formats/gemma.jinja")),
    ("llama2", include_str!("formats/llama2.jinja")),
    ("llama3", include_str!("formats/llama3.jinja")),
    ("mistral", include_str!("formats/mistral.jinja")),
    ("mistral-v3", include_str!("formats/mistral-v3.jinja")),
    ("mistral-tekken", include_str!("formats/mistral-tekken.jinja")),
    ("phi3", include_str!("formats/phi3.jinja")),
    ("zephyr", include_str!("formats/zephyr.jinja")),
];

/// The names of all formats.
pub fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| *name)
}

/// Defines `text(message)`, which all formats use.
const TEXT: &str = include_str!("formats/text.jinja");

/// The template of a format.
pub(super) fn source(name: &str) -> Option<String> {
    let (_, source) = SOURCES.iter().find(|(other, _)| *other == name)?;
    Some(format!("{TEXT}{source}"))
}

/// The format that files and llama.cpp's users call `name`, which has some more names for them.
pub(super) fn by_name(name: &str) -> Option<&'static str> {
    let name = match name {
        "llama2-sys" | "llama2-sys-bos" | "llama2-sys-strip" => "llama2",
        "mistral-v1" => "mistral",
        "mistral-v3-tekken" => "mistral-tekken",
        "deepseek3" => "deepseek",
        name => name,
    };
    names().find(|other| *other == name)
}

/// The format for a model. `None` if nothing suggests that it was made for conversations.
pub(super) fn choose(metadata: &Metadata, vocabulary: &[&[u8]]) -> Result<Option<&'static str>> {
    let markers = [
        "<|im_start|>",
        "<|start_header_id|>",
        "<start_of_turn>",
        "<｜User｜>",
        "[INST]",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
    ];
    // One pass over what may be 256,000 tokens.
    let mut found = [false; 8];
    for token in vocabulary {
        if let Some(index) = markers.iter().position(|marker| marker.as_bytes() == *token) {
            found[index] = true;
        }
    }
    let has = |marker: &str| markers.iter().zip(found).any(|(other, found)| *other == marker && found);

    let architecture = metadata.text("general.architecture")?.unwrap_or_default();
    let mut name = String::new();
    for key in ["general.name", "general.basename", "general.finetune"] {
        name.push_str(&metadata.text(key)?.unwrap_or_default().to_lowercase());
        name.push(' ');
    }
    let sentence_piece = metadata.text("tokenizer.ggml.model")?.as_deref() == Some("llama");

    Ok(Some(if has("<|im_start|>") {
        "chatml"
    } else if has("<|start_header_id|>") {
        "llama3"
    } else if has("<start_of_turn>") {
        "gemma"
    } else if has("<｜User｜>") {
        "deepseek"
    } else if has("[INST]") {
        if sentence_piece { "mistral-v3" } else { "mistral-tekken" }
    } else if has("<|user|>") && has("<|end|>") {
        "phi3"
    } else if has("<|user|>") || has("<|assistant|>") {
        "zephyr"
    } else if architecture != "llama" {
        return Ok(None);
    // The tokens of these families are plain text, or only <s> and </s>: the name must tell.
    } else if ["zephyr", "tinyllama"].iter().any(|family| name.contains(family))
        && !name.contains("intermediate")
    {
        "zephyr"
    } else if ["mistral", "mixtral"].iter().any(|family| name.contains(family)) && name.contains("instruct") {
        "mistral"
    } else if ["llama 2", "llama-2", "llama2", "llama-v2", "llama v2"]
        .iter()
        .any(|family| name.contains(family))
        && name.contains("chat")
    {
        "llama2"
    } else {
        return Ok(None);
    }))
}
