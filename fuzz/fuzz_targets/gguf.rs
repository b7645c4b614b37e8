//! Any bytes as a model file: header, sizes, vocabulary, template and weights.

#![no_main]

use candlewick::Result;
use candlewick::chat::{Conversation, message};
use candlewick::engine::{Engine, Language, Options};
use candlewick::format::gguf::Header;
use candlewick::model::Config;
use candlewick::store::MemorySource;
use libfuzzer_sys::fuzz_target;
use std::rc::Rc;

async fn use_file(bytes: &[u8]) -> Result<()> {
    let source = Rc::new(MemorySource::new("fuzz.gguf", bytes.to_vec()));
    let header = Header::read(&*source).await?;
    let _ = Config::from_header(&header);
    let language = Language::from_header(&header)?;
    let ids = language.tokenizer.encode_with_special("Once upon <|im_start|> ät 世 12", true)?;
    language.tokenizer.decode(&ids);
    let _ = language.render(&Conversation::new(vec![message("system", "S"), message("user", "Hi")]));
    let options = Options { context: Some(8.into()), ..Options::default() };
    Engine::load(source, &options, &mut |_| Ok(())).await?;
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = pollster::block_on(use_file(bytes));
});
