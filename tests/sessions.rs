//! Conversations that go on: forked, taken back, saved and read back; beginnings that are pinned.

use crate::fixtures::{contents, path};
use candlewick::Code;
use candlewick::chat::{Conversation, message};
use candlewick::engine::{
    Context, Engine, Event, FinishReason, Options, Prompt, Saved, Session, Settings, Truncation,
};
use candlewick::sampling::Sampling;
use candlewick::store::MemorySource;
use pollster::block_on;
use std::rc::Rc;

fn load(model: &str, context: usize) -> Engine {
    let options =
        Options { device: crate::DEVICE, context: Some(Context::Exactly(context)), ..Options::default() };
    let source = Rc::new(MemorySource::new("model.gguf", contents(&path(model))));
    block_on(Engine::load(source, &options, &mut |_| Ok(()))).unwrap()
}

fn settings(max_tokens: usize) -> Settings {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Settings { sampling, max_tokens, ..Settings::default() }
}

fn ask(session: &mut Session, text: &str, settings: Settings) -> (String, usize) {
    block_on(async {
        let mut turn = session.send(message("user", text), settings).await.unwrap();
        let mut answer = String::new();
        while let Some(event) = turn.next().await.unwrap() {
            if let Event::Token { text, .. } | Event::Finish { text, .. } = event {
                answer += &text;
            }
        }
        (answer, turn.usage().prompt_tokens_details.cached_tokens)
    })
}

fn begin(engine: &Engine) -> Session {
    let system = message("system", "You answer in as few words as you can, and never say anything twice.");
    Session::new(engine.clone(), Conversation::new(vec![system]))
}

const MODEL: &str = "models/qwen2.gguf";

#[test]
fn a_session_goes_on_forks_and_goes_back() {
    let engine = load(MODEL, 512);
    let mut session = begin(&engine);
    let (first, _) = ask(&mut session, "Hello", settings(12));
    let (_, cached) = ask(&mut session, "And now?", settings(5));
    assert!(cached > 12, "{cached} tokens were there");
    assert_eq!(session.conversation().messages.len(), 5);
    assert_eq!(session.conversation().messages[2], message("assistant", &first));

    let mut fork = session.fork();
    fork.rewind(1).unwrap();
    let (again, cached) = ask(&mut fork, "Hello", settings(12));
    assert_eq!(again, first);
    assert!(cached > 12, "{cached} tokens were there");
    assert_eq!((session.conversation().messages.len(), fork.conversation().messages.len()), (5, 3));

    let error = fork.rewind(4).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    // What does not come to an end changes nothing.
    drop(block_on(fork.send(message("user", "Never mind"), settings(5))).unwrap());
    let many = Settings { choices: 2, ..settings(1) };
    assert!(block_on(fork.send(message("user", "Two"), many)).is_err());
    assert_eq!(fork.conversation().messages.len(), 3);
}

#[test]
fn a_saved_session_goes_on_in_another_engine() {
    let first = load(MODEL, 512);
    let mut session = begin(&first);
    ask(&mut session, "Tell me of the sea, of the land, and of the sky above them", settings(40));
    let bytes = block_on(session.save(&mut |_| ())).unwrap();
    let (expected, cached) = ask(&mut session, "More", settings(12));
    drop(first);

    // Its context may be another.
    let engine = load(MODEL, 384);
    let (mut again, restored) = block_on(Session::restore(engine.clone(), &bytes)).unwrap();
    assert_eq!(restored.reason, None);
    assert!(restored.tokens >= cached, "{} of {cached}", restored.tokens);
    let (found, found_cached) = ask(&mut again, "More", settings(12));
    assert_eq!(found, expected);
    assert!(found_cached >= cached, "{found_cached} of {cached} tokens");

    // Written out again it is the same, but for what lies behind its end.
    let (back, _) = block_on(Session::restore(engine, &bytes)).unwrap();
    let saved = block_on(back.save(&mut |_| ())).unwrap();
    let (saved, bytes) = (block_on(Saved::read(&saved)).unwrap(), block_on(Saved::read(&bytes)).unwrap());
    assert_eq!((saved.0.form, saved.0.tokens), (bytes.0.form, bytes.0.tokens));
    assert_eq!(saved.1.len(), bytes.1.len());
}

#[test]
fn a_foreign_session_is_read_again_by_the_model() {
    let mut session = begin(&load(MODEL, 512));
    ask(&mut session, "Hello", settings(12));
    let bytes = block_on(session.save(&mut |_| ())).unwrap();
    let other = load("models/gemma3.gguf", 512);
    let (mut session, restored) = block_on(Session::restore(other.clone(), &bytes)).unwrap();
    assert_eq!(restored.tokens, 0);
    assert!(restored.reason.unwrap().contains("another model"));
    let mut fresh = Session::new(other, session.conversation().clone());
    let (found, cached) = ask(&mut session, "More", settings(12));
    assert_eq!((found, 0), (ask(&mut fresh, "More", settings(12)).0, cached));
}

#[test]
fn a_damaged_session_is_refused() {
    let engine = load(MODEL, 256);
    let prompt = || Prompt::Tokens((3..150).collect());
    let bytes = block_on(engine.save(prompt(), &mut |_| ())).unwrap();
    for end in [0, 7, 8, 15, 16, 17, 40, 200, bytes.len() / 2, bytes.len() - 1] {
        let error = block_on(engine.restore(&bytes[..end])).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{end} bytes: {error}");
    }
    for at in [0, 9, 12, 13, 20, 100, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        let error = block_on(engine.restore(&damaged)).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "byte {at}: {error}");
    }
    // It is no conversation's, but it is a state.
    assert!(block_on(Session::restore(engine.clone(), &bytes)).is_err());
    assert_eq!(block_on(engine.restore(&bytes)).unwrap().tokens, 147);
}

/// Headers whose hash is right, and which lie.
#[test]
fn a_state_that_lies_is_refused() {
    use sha2::{Digest, Sha256};
    let engine = load(MODEL, 256);
    let bytes = block_on(engine.save(Prompt::Tokens(vec![5; 70]), &mut |_| ())).unwrap();
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[16..16 + len]).unwrap();
    let pages = &bytes[16 + len..bytes.len() - 32];
    let forged = |header: &str, len: usize| {
        let mut forged = [&bytes[..12], &(len as u32).to_le_bytes(), header.as_bytes(), pages].concat();
        let hash = Sha256::digest(&forged);
        forged.extend_from_slice(&hash);
        block_on(engine.restore(&forged))
    };
    let text = header.to_string();
    assert_eq!(forged(&text, text.len()).unwrap().tokens, 70);
    assert!(forged(&text, usize::MAX).is_err());
    assert!(forged("{}", 2).is_err());
    for (key, value) in [
        ("tokens", serde_json::json!(vec![5; 129])),
        ("tokens", serde_json::json!(vec![u64::MAX; 70])),
        ("page_size", serde_json::json!(u64::MAX)),
        ("page_size", serde_json::json!(0)),
    ] {
        let mut header = header.clone();
        header[key] = value;
        let text = header.to_string();
        assert_eq!(forged(&text, text.len()).unwrap_err().code, Code::InvalidArgument, "{key}");
    }
    // More than there is room for is read again when it is needed.
    let small = load(MODEL, 64);
    assert_eq!(block_on(small.restore(&bytes)).unwrap().tokens, 0);
}

#[test]
fn the_oldest_turns_go_and_the_system_stays() {
    let engine = load(MODEL, 256);
    let mut session = begin(&engine);
    let how = || Settings { truncation: Truncation::Oldest, ..settings(16) };
    let (mut reused, mut dropped) = (0, Vec::new());
    for turn in 0..12 {
        let text = format!("This is message {turn}, and it says as much as the others do.");
        let mut answer = block_on(session.send(message("user", &text), how())).unwrap();
        while block_on(answer.next()).unwrap().is_some() {}
        let usage = answer.usage();
        assert!(usage.prompt_tokens <= 256 - 16, "{usage:?}");
        reused += usize::from(2 * usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens);
        dropped.push(usage.prompt_tokens_details.dropped_messages);
    }
    assert_eq!(session.conversation().messages.len(), 25);
    assert!(dropped[0] == 0 && dropped.is_sorted() && dropped[11] > 10, "{dropped:?}");
    // It seldom begins anew.
    assert!(reused >= 7, "{reused} of 12; {dropped:?}");

    // It is saved as what was said: nobody knows what the next request leaves room for.
    let bytes = block_on(session.save(&mut |_| ())).unwrap();
    let (again, restored) = block_on(Session::restore(engine.clone(), &bytes)).unwrap();
    assert_eq!((again.conversation(), restored.tokens), (session.conversation(), 0));

    // The model reads the system's message and the turns that are left.
    let mut left = session.conversation().clone();
    left.messages.truncate(24);
    let dropped = dropped[11];
    left.messages.drain(1..1 + dropped);
    let expected = block_on(engine.generate(Prompt::Chat(left), settings(16))).unwrap().prompt().to_vec();
    let mut whole = session.conversation().clone();
    whole.messages.truncate(24);
    let found = block_on(engine.generate(Prompt::Chat(whole.clone()), how())).unwrap().prompt().to_vec();
    assert_eq!(found, expected);

    // Otherwise that is an error, as is a last turn that does not fit.
    let error = block_on(engine.generate(Prompt::Chat(whole), settings(16))).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::ContextLengthExceeded);
    let long = message("user", &"many words ".repeat(300));
    let error = block_on(session.send(long, how())).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::ContextLengthExceeded);
}

#[test]
fn what_is_pinned_goes_last() {
    let engine = load(MODEL, 512);
    let system =
        Conversation::new(vec![message("system", &"A long text that all prompts begin with. ".repeat(3))]);
    let tokens = block_on(engine.pin("rules", Prompt::Chat(system.clone()), &mut |_| ())).unwrap();
    assert_eq!(block_on(engine.pinned()).unwrap(), [("rules".to_owned(), tokens)]);
    let answer = |prompt: Prompt, max_tokens: usize| {
        block_on(async {
            let mut generation = engine.generate(prompt, settings(max_tokens)).await.unwrap();
            let mut last = None;
            while let Some(event) = generation.next().await.unwrap() {
                last = Some(event);
            }
            assert!(matches!(
                last,
                Some(Event::Finish { reason: FinishReason::Length | FinishReason::Stop, .. })
            ));
            generation.usage().prompt_tokens_details.cached_tokens
        })
    };
    // Many others come and go.
    for salt in 0..25 {
        answer(Prompt::Tokens((0..100).map(|index| 3 + (index * 7 + salt * 13) % 200).collect()), 3);
    }
    let mut asked = system.clone();
    asked.messages.push(message("user", "Well?"));
    assert_eq!(answer(Prompt::Chat(asked.clone()), 3), tokens);
    // Twice is as good as once.
    assert_eq!(block_on(engine.pin("rules", Prompt::Chat(system), &mut |_| ())).unwrap(), tokens);
    assert!(answer(Prompt::Chat(asked.clone()), 3) > tokens);
    // One that needs all the room gets it.
    assert_eq!(answer(Prompt::Tokens(vec![7; 500]), 12), 0);
    assert_eq!(answer(Prompt::Chat(asked), 1), 0);
    assert!(block_on(engine.unpin("rules")).unwrap());
    assert!(!block_on(engine.unpin("rules")).unwrap());
}

/// A quarter of the room, and states of their own.
#[test]
fn keys_and_values_in_8_bits_are_kept_too() {
    if crate::DEVICE != candlewick::engine::Device::Cpu {
        return;
    }
    let load_as = |kv_8bit| {
        let context = Some(Context::Exactly(256));
        let options = Options { device: crate::DEVICE, context, kv_8bit, ..Options::default() };
        let source = Rc::new(MemorySource::new("model.gguf", contents(&path(MODEL))));
        block_on(Engine::load(source, &options, &mut |_| Ok(()))).unwrap()
    };
    let [full, eight] = [false, true].map(load_as);
    assert_eq!(full.info().memory.kv_cache, 4 * eight.info().memory.kv_cache);
    let prompt = || Prompt::Tokens((3..200).collect());
    let answer = |engine: &Engine| {
        block_on(async {
            let mut generation = engine.generate(prompt(), settings(20)).await.unwrap();
            let mut tokens = Vec::new();
            while let Some(event) = generation.next().await.unwrap() {
                if let Event::Token { token, .. } | Event::Finish { token: Some(token), .. } = event {
                    tokens.push(token);
                }
            }
            (tokens, generation.usage().prompt_tokens_details.cached_tokens)
        })
    };
    let [of_full, of_eight] =
        [&full, &eight].map(|engine| block_on(engine.save(prompt(), &mut |_| ())).unwrap());
    assert!(3 * of_eight.len() < of_full.len(), "{} and {}", of_eight.len(), of_full.len());
    assert_eq!(block_on(full.restore(&of_eight)).unwrap().tokens, 0);
    let (expected, _) = answer(&eight);
    let again = load_as(true);
    assert_eq!(block_on(again.restore(&of_eight)).unwrap().tokens, 197);
    assert_eq!(answer(&again), (expected, 196));
}

/// With nothing to write, it makes the next answer begin at once.
#[test]
fn a_prompt_is_read_ahead() {
    let engine = load(MODEL, 512);
    let prompt: Vec<u32> = (3..203).collect();
    let mut ahead = block_on(engine.prefill(Prompt::Tokens(prompt.clone()))).unwrap();
    let mut last = None;
    let mut pieces = 0;
    while let Some(event) = block_on(ahead.next()).unwrap() {
        pieces += usize::from(matches!(event, Event::Prompt { .. }));
        last = Some(event);
    }
    assert!(
        pieces >= 200_usize.div_ceil(crate::STEP) && matches!(last, Some(Event::Finish { token: None, .. })),
        "{pieces} {last:?}"
    );
    let mut answer = block_on(engine.generate(Prompt::Tokens(prompt), settings(3))).unwrap();
    block_on(answer.next()).unwrap();
    assert_eq!(answer.usage().prompt_tokens_details.cached_tokens, 199);
}
