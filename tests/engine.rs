//! The engine as its callers see it: events, turns, what is kept between requests, and where answers end.

use crate::edit::{Edit, F32, Tensor};
use crate::fixtures::{all_logits, contents, decoder, files, path, stories};
use candlewick::backend::cpu::Cpu;
use candlewick::backend::op::{Embed, Linear, Norm, Project};
use candlewick::backend::{Backend, Program, Step};
use candlewick::engine::{
    Context, Device, Engine, Event, FinishReason, Generation, Options, Prompt, Settings, Truncation,
};
use candlewick::format::gguf::TensorType;
use candlewick::sampling::Sampling;
use candlewick::store::{MemorySource, Source};
use candlewick::{Code, Error, Result};
use futures_util::future::{FutureExt, LocalBoxFuture, join3};
use pollster::block_on;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

fn load(bytes: Vec<u8>) -> Result<Engine> {
    let source = MemorySource::new("model.gguf", bytes);
    block_on(Engine::load(
        Rc::new(source),
        &Options { device: crate::DEVICE, ..Options::default() },
        &mut |_| Ok(()),
    ))
}

fn story_teller() -> Engine {
    load(contents(&stories())).unwrap()
}

fn greedy(max_tokens: usize) -> Settings {
    Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        ..Settings::default()
    }
}

fn random(seed: u64, max_tokens: usize) -> Settings {
    let sampling = Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() };
    Settings { sampling, max_tokens, ..Settings::default() }
}

fn start(engine: &Engine, prompt: &[u32], settings: Settings) -> Generation {
    block_on(engine.generate(Prompt::Tokens(prompt.to_vec()), settings)).unwrap()
}

fn finish(mut generation: Generation) -> Vec<Event> {
    std::iter::from_fn(|| block_on(generation.next()).unwrap()).collect()
}

/// All that comes after the prompt.
fn answer(engine: &Engine, prompt: &[u32], settings: Settings) -> Vec<Event> {
    let mut events = finish(start(engine, prompt, settings));
    events.retain(|event| !matches!(event, Event::Prompt { .. }));
    events
}

fn tokens(events: &[Event]) -> Vec<u32> {
    let token = |event: &Event| match event {
        Event::Prompt { .. } | Event::Recovery(_) => None,
        Event::Token { token, .. } => Some(*token),
        Event::Finish { token, .. } => *token,
    };
    events.iter().filter_map(token).collect()
}

fn text_of(choice: usize, events: &[Event]) -> String {
    let text = |event: &Event| match event {
        Event::Token { choice: of, text, .. } | Event::Finish { choice: of, text, .. } if *of == choice => {
            Some(text.clone())
        }
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn text(events: &[Event]) -> String {
    text_of(0, events)
}

fn reason(events: &[Event]) -> FinishReason {
    match events.last() {
        Some(Event::Finish { reason, .. }) => *reason,
        other => panic!("the last event is {other:?}"),
    }
}

/// A prompt of `len` tokens that make some sense.
fn prompt(engine: &Engine, len: usize) -> Vec<u32> {
    let text = "Once upon a time, there was a little girl named Lily. She loved to play. ".repeat(40);
    let mut tokens = engine.language().tokenizer.encode_with_special(&text, false).unwrap();
    tokens.truncate(len);
    tokens
}

#[test]
fn events_come_in_order() {
    let engine = story_teller();
    let prompt = prompt(&engine, 150);
    let mut generation = start(&engine, &prompt, greedy(20));
    assert_eq!(generation.prompt(), prompt);
    let mut events = Vec::new();
    while let Some(event) = block_on(generation.next()).unwrap() {
        events.push(event);
    }
    assert_eq!(block_on(generation.next()), Ok(None));
    let steps = (0..150).step_by(crate::STEP).map(|from| 150.min(from + crate::STEP));
    let processed: Vec<Event> = steps.map(|processed| Event::Prompt { processed, total: 150 }).collect();
    let (before, after) = events.split_at(processed.len());
    assert_eq!(before, processed);
    let (last, rest) = after.split_last().unwrap();
    assert!(rest.iter().all(|event| matches!(event, Event::Token { choice: 0, .. })));
    assert!(matches!(last, Event::Finish { choice: 0, reason: FinishReason::Length, token: Some(_), .. }));

    // The text is that of the tokens: nothing comes twice or goes missing.
    let tokens = tokens(&events);
    assert_eq!(tokens.len(), 20);
    let tokenizer = &engine.language().tokenizer;
    let mut detokenizer = tokenizer.detokenizer(false);
    let mut expected: String = tokens.iter().map(|&token| detokenizer.push(tokenizer, token)).collect();
    expected += &detokenizer.finish();
    assert_eq!(text(&events), expected);

    let usage = generation.usage();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (150, 20, 170));
    let timings = generation.timings();
    assert_eq!((timings.prompt_n, timings.predicted_n), (150, 20));
    assert!(timings.prompt_per_second > 0.0 && timings.time_to_first_token_ms > 0.0);
}

#[test]
fn an_answer_may_be_dropped_after_every_step() {
    let engine = story_teller();
    let wanted = prompt(&engine, 140);
    let expected = answer(&engine, &wanted, greedy(12));
    // Shares its beginning, so that a part of the cache is used again.
    let mut other = prompt(&engine, 140);
    other[70..].reverse();
    let steps = finish(start(&engine, &other, random(1, 12))).len();
    for step in 0..=steps {
        let mut dropped = start(&engine, &other, random(step as u64, 12));
        for _ in 0..step {
            block_on(dropped.next()).unwrap();
        }
        drop(dropped);
        assert_eq!(answer(&engine, &wanted, greedy(12)), expected, "after {step} steps");
    }
    // Never begun.
    drop(engine.generate(Prompt::Tokens(other), greedy(1)));
    assert_eq!(answer(&engine, &wanted, greedy(12)), expected);
}

#[test]
fn requests_begin_in_their_order_where_there_is_room() {
    let engine = story_teller();
    let alone = answer(&engine, &[1], greedy(30));
    let context = engine.info().context_length;

    // As much as the whole context holds: nobody else has room.
    let request = |max_tokens| engine.generate(Prompt::Tokens(vec![1]), greedy(max_tokens));
    let mut first = block_on(request(context)).unwrap();
    block_on(first.next()).unwrap();
    let [mut second, mut third, mut fourth] = [(); 3].map(|()| block_on(request(30)).unwrap());
    for waiting in [&mut second, &mut third, &mut fourth] {
        // The first's reader takes what there is only so far ahead.
        for _ in 0..10 {
            assert!(waiting.next().now_or_never().is_none());
        }
    }
    // A clone is the same engine, and whoever gives up waiting does not hold up the others.
    let mut fifth = block_on(engine.clone().generate(Prompt::Tokens(vec![1]), greedy(1))).unwrap();
    assert!(fifth.next().now_or_never().is_none());
    drop(second);
    block_on(first.next()).unwrap();
    assert!(third.next().now_or_never().is_none());
    drop(first);
    // Whoever drives goes on for all.
    let fourth = tokens(&finish(fourth));
    assert_eq!(fourth, tokens(&alone));
    assert_eq!(tokens(&finish(third)), fourth);
    assert_eq!(tokens(&finish(fifth)), fourth[..1]);

    let request = || request(30);
    // All at once.
    let whole = || async { finish(request().await.unwrap()) };
    let (a, b, c) = block_on(join3(whole(), whole(), whole()));
    for events in [a, b, c] {
        assert_eq!(tokens(&events), tokens(&alone));
    }
}

#[test]
fn a_prompt_seen_before_costs_nothing() {
    let engine = story_teller();
    let long = prompt(&engine, 130);
    let mut fork = long.clone();
    fork[100] = 5;
    for (prompt, cached) in [(&long[..], 0), (&long, 129), (&fork, 100), (&long[..40], 39)] {
        let mut generation = start(&engine, prompt, random(3, 10));
        let mut events = Vec::new();
        while let Some(event) = block_on(generation.next()).unwrap() {
            events.push(event);
        }
        assert_eq!(generation.usage().prompt_tokens_details.cached_tokens, cached);
        assert_eq!(generation.timings().prompt_n, prompt.len() - cached);
        events.retain(|event| !matches!(event, Event::Prompt { .. }));
        // To the last bit, or the same seed would not give the same tokens.
        assert_eq!(events, answer(&story_teller(), prompt, random(3, 10)));
    }
    // What was generated is in the cache as well: a conversation goes on where it stopped.
    let first = answer(&engine, &long, greedy(10));
    let conversation = [&long[..], &tokens(&first), &long[..5]].concat();
    let second = start(&engine, &conversation, greedy(5));
    assert_eq!(second.usage().prompt_tokens_details.cached_tokens, 130 + 9);
    drop(second);
    assert_eq!(answer(&engine, &conversation, greedy(5)), answer(&story_teller(), &conversation, greedy(5)));

    let rows = |engine: &Engine| {
        let mut rows: Vec<Vec<u32>> = Vec::new();
        block_on(engine.logits(&conversation, &mut |_, row| {
            rows.push(row.iter().map(|logit| logit.to_bits()).collect())
        }))
        .unwrap();
        rows
    };
    assert!(rows(&engine) == rows(&story_teller()));
}

#[test]
fn several_choices() {
    let engine = story_teller();
    let prompt = prompt(&engine, 20);
    let events = answer(&engine, &prompt, Settings { choices: 3, ..random(11, 15) });
    for choice in 0..3 {
        let single = answer(&engine, &prompt, random(11 + choice, 15));
        assert_eq!(text_of(choice as usize, &events), text(&single), "{choice}");
    }
    assert_ne!(text_of(0, &events), text_of(1, &events));
    let order: Vec<usize> = (events.iter())
        .map(|event| match event {
            Event::Token { choice, .. } | Event::Finish { choice, .. } => *choice,
            Event::Prompt { .. } | Event::Recovery(_) => unreachable!(),
        })
        .collect();
    // Together: the second begins before the first has ended.
    let firsts: Vec<usize> =
        (0..3).map(|choice| order.iter().position(|of| *of == choice).unwrap()).collect();
    assert!(firsts.is_sorted());
    assert!(firsts[1] < order.iter().rposition(|of| *of == 0).unwrap());
    let mut generation = start(&engine, &prompt, Settings { choices: 3, ..greedy(4) });
    while block_on(generation.next()).unwrap().is_some() {}
    assert_eq!((generation.usage().prompt_tokens, generation.usage().completion_tokens), (20, 12));
}

#[test]
fn stop_strings_end_an_answer() {
    let engine = story_teller();
    let whole = text(&answer(&engine, &[1], greedy(60)));
    // One within a token, one over several, one with a space, and the first of two.
    for (stops, stop) in [
        (vec!["girl"], "girl"),
        (vec!["a little girl named"], "a little girl named"),
        (vec![", there"], ", there"),
        (vec!["nowhere", "", "time", "girl"], "time"),
    ] {
        let stop_strings = stops.iter().map(|stop| stop.to_string()).collect();
        let events = answer(&engine, &[1], Settings { stop: stop_strings, ..greedy(60) });
        assert_eq!(text(&events), whole[..whole.find(stop).unwrap()], "{stops:?}");
        assert_eq!(reason(&events), FinishReason::Stop);
        // No part of the stop string was ever shown.
        assert!(events.iter().all(|event| match event {
            Event::Token { text, .. } | Event::Finish { text, .. } => whole.contains(text.as_str()),
            Event::Prompt { .. } | Event::Recovery(_) => false,
        }));
    }
    // What only looks like the beginning of one comes in the end.
    let half = whole[whole.len() - 3..].to_owned() + "?";
    let events = answer(&engine, &[1], Settings { stop: vec![half], ..greedy(60) });
    assert_eq!((text(&events), reason(&events)), (whole, FinishReason::Length));
}

#[test]
fn answers_end() {
    let engine = story_teller();
    for max_tokens in [1, 2, 17] {
        let events = answer(&engine, &[1], greedy(max_tokens));
        assert_eq!((tokens(&events).len(), reason(&events)), (max_tokens, FinishReason::Length));
    }
    let events = answer(&engine, &[1], greedy(5000));
    assert_eq!((tokens(&events).len(), reason(&events)), (345, FinishReason::Stop));

    // Where the context is full; not a token earlier.
    let context = engine.info().context_length;
    for len in [context - 1, context - 2, context - 10] {
        let settings = Settings { ignore_eos: true, ..greedy(5000) };
        let events = answer(&engine, &prompt(&engine, len), settings);
        assert_eq!((tokens(&events).len(), reason(&events)), (context - len, FinishReason::Length));
    }
}

#[test]
fn prompts_that_are_too_long() {
    let engine = story_teller();
    let context = engine.info().context_length;
    for len in [context, context + 1, context + 300] {
        let long = prompt(&engine, len);
        assert_eq!(long.len(), len);
        let error = block_on(engine.generate(Prompt::Tokens(long.clone()), greedy(1))).err().unwrap();
        assert_eq!(error.code, Code::ContextLengthExceeded);
        for number in [len, context] {
            assert!(error.message.contains(&number.to_string()), "{error}");
        }

        for (max_tokens, kept) in [(100, context - 100), (10_000, context / 2)] {
            let settings = Settings { truncation: Truncation::Middle, ..greedy(max_tokens) };
            let mut generation = start(&engine, &long, settings);
            let cut = generation.prompt().to_vec();
            assert_eq!(cut.len(), kept);
            let (head, tail) = cut.split_at(kept / 2);
            assert!(long.starts_with(head) && long.ends_with(tail));
            (0..10).for_each(|_| assert!(block_on(generation.next()).unwrap().is_some()));
        }
    }
    // One that fits stays whole.
    let settings = Settings { truncation: Truncation::Middle, ..greedy(400) };
    assert_eq!(start(&engine, &prompt(&engine, 200), settings).prompt(), prompt(&engine, 200));
}

#[test]
fn requests_that_make_no_sense() {
    let engine = story_teller();
    let refuse =
        |prompt: Prompt, settings: Settings| block_on(engine.generate(prompt, settings)).err().unwrap().code;
    let once = || Prompt::Text("Once".to_owned());
    assert_eq!(refuse(once(), Settings { choices: 0, ..greedy(1) }), Code::InvalidArgument);
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert_eq!(refuse(once(), Settings { sampling: hot, ..greedy(1) }), Code::InvalidArgument);
    let foreign = Sampling { logit_bias: [(512, 1.0)].into(), ..Sampling::default() };
    assert_eq!(refuse(once(), Settings { sampling: foreign, ..greedy(1) }), Code::InvalidArgument);
    let conversation = candlewick::chat::Conversation::new(vec![candlewick::chat::message("user", "Hi")]);
    assert_eq!(refuse(Prompt::Chat(conversation), greedy(1)), Code::InvalidArgument);

    // The engine goes on after a token that is none, and an empty prompt begins a text.
    let expected = answer(&engine, &[1], greedy(10));
    for prompt in [vec![1, 2, 512], vec![u32::MAX]] {
        assert_eq!(refuse(Prompt::Tokens(prompt), greedy(1)), Code::InvalidArgument);
        assert_eq!(answer(&engine, &[], greedy(10)), expected);
    }
}

#[test]
fn loading_may_be_given_up() {
    let source = Rc::new(MemorySource::new("model.gguf", contents(&stories())));
    let mut reports = 0;
    let count = &mut |_| {
        reports += 1;
        Ok(())
    };
    block_on(Engine::load(source.clone(), &Options::default(), count)).unwrap();
    assert!(reports > 10);
    for last in 0..reports {
        let mut left = last;
        let stop = &mut |_| match left {
            0 => Err(Error::aborted("enough")),
            _ => {
                left -= 1;
                Ok(())
            }
        };
        let error = block_on(Engine::load(source.clone(), &Options::default(), stop)).err().unwrap();
        assert_eq!(error, Error::aborted("enough"));
    }
}

#[test]
fn loading_has_one_total() {
    for (name, bytes) in files() {
        let source = Rc::new(MemorySource::new(name.clone(), bytes));
        let mut reports = Vec::new();
        let options = Options { device: crate::DEVICE, ..Options::default() };
        let heard = &mut |report| {
            reports.push(report);
            Ok(())
        };
        let loaded = block_on(Engine::load(source.clone(), &options, heard)).is_ok();
        let told: Vec<(u64, u64)> = reports.iter().map(|report| (report.loaded, report.total)).collect();
        assert!(told.is_sorted() && told.iter().all(|(_, total)| *total == source.len()), "{name}: {told:?}");
        assert_eq!(told.last() == Some(&(source.len(), source.len())), loaded, "{name}: {told:?}");
    }
}

/// Fixtures are small. This one says that it was trained for longer contexts.
fn long(trained: u32) -> Rc<MemorySource> {
    let bytes = Edit::new(&contents(&stories())).u32("llama.context_length", trained).bytes();
    Rc::new(MemorySource::new("model.gguf", bytes))
}

#[test]
fn a_context_may_be_a_maximum() {
    let load = |trained, context, max_memory| {
        let options =
            Options { device: Device::Cpu, context: Some(context), max_memory, ..Options::default() };
        let source = long(trained);
        block_on(candlewick::engine::fits(source.as_ref(), &options))?;
        let inspection = block_on(candlewick::engine::inspect(source.as_ref(), &options))?;
        let info = block_on(Engine::load(source, &options, &mut |_| Ok(())))?.info();
        assert_eq!(inspection.context_length, Some(info.context_length));
        assert_eq!(inspection.context_note, info.context_note);
        Ok::<_, Error>((info.context_length, info.context_note.clone()))
    };
    for (trained, context, tokens) in
        [(8192, Context::MAX, 8192), (8192, Context::AtMost(3000), 3000), (300, Context::MAX, 300)]
    {
        assert_eq!(load(trained, context, None).unwrap(), (tokens, None));
    }
    let (tokens, note) = load(8192, Context::AtMost(10_000), None).unwrap();
    assert_eq!(tokens, 8192);
    assert_eq!(
        note.unwrap(),
        "The context is 8192 tokens instead of 10000: the model was trained for no more."
    );
    let wanted = load(8192, Context::Exactly(10_000), None).unwrap_err();
    assert!(wanted.code == Code::InvalidArgument && wanted.message.contains("1 to the 8192"), "{wanted}");

    // Keys and values of 5 layers, 4 heads, 8 numbers of 4 bytes.
    let a_token = 2 * 5 * 4 * 8 * 4;
    let weights: u64 =
        Edit::new(&contents(&stories())).tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
    let limit = |tokens: u64| Some(weights + tokens * a_token + 100);
    let (tokens, note) = load(8192, Context::MAX, limit(2000)).unwrap();
    assert_eq!((tokens, tokens % 256), (1792, 0));
    assert_eq!(note.unwrap(), "The context is 1792 tokens instead of 8192: there is no memory for more.");
    assert_eq!(load(8192, Context::AtMost(1500), limit(2000)).unwrap(), (1500, None));
    for context in [Context::Exactly(4000), Context::MAX] {
        let tokens = if context == Context::MAX { 100 } else { 2000 };
        assert_eq!(load(8192, context, limit(tokens)).unwrap_err().code, Code::ResourceExhausted);
    }
}

/// Hears of every read.
struct Heard {
    file: MemorySource,
    reads: RefCell<Vec<Range<u64>>>,
}

impl Source for Heard {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        let mut reads = self.reads.borrow_mut();
        reads.push(offset..offset + len as u64);
        // Every other one takes longer than the one after it.
        let mut polls = 1 + 3 * (reads.len() % 2);
        Box::pin(async move {
            poll_fn(|context| {
                polls -= 1;
                context.waker().wake_by_ref();
                if polls == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            self.file.read(offset, len).await
        })
    }
}

#[test]
fn weights_are_read_once_and_in_the_order_of_the_file() {
    let story = Edit::new(&contents(&stories()));
    let expected = answer(&story_teller(), &[1], greedy(40));
    let weights: u64 = story.tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
    let mut backwards = story.clone();
    backwards.tensors.reverse();
    let mut by_name = story.clone();
    by_name.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    // What nobody asks for lies after every tenth tensor.
    let mut scattered = by_name.clone();
    for index in (0..scattered.tensors.len()).step_by(10).rev() {
        let [name, data] = [format!("unused.{index}"), "0".repeat(1 << 18)];
        let unused = Tensor { name, data: data.into(), kind: F32, dimensions: vec![1 << 16], offset: None };
        scattered.tensors.insert(index, unused);
    }
    for (edit, pieces) in [(story, 1), (backwards, 1), (by_name, 1), (scattered, 5)] {
        let file = MemorySource::new("model.gguf", edit.bytes());
        let source = Rc::new(Heard { file, reads: RefCell::default() });
        let engine = block_on(Engine::load(source.clone(), &Options::default(), &mut |_| Ok(()))).unwrap();
        // The first read is of the header.
        let reads = source.reads.borrow()[1..].to_vec();
        assert_eq!(reads.len(), pieces);
        assert!(reads.is_sorted_by(|a, b| a.end <= b.start), "{reads:?}");
        let read: u64 = reads.iter().map(|read| read.end - read.start).sum();
        // Tensors begin at multiples of 32 bytes.
        assert!((weights..weights + 32 * 50).contains(&read), "{read} of {weights}");
        assert_eq!(answer(&engine, &[1], greedy(40)), expected);
    }
}

#[test]
fn every_architecture_answers() {
    let mut answered = 0;
    for (name, bytes) in files() {
        let engine = match load(bytes) {
            Ok(engine) => engine,
            Err(error) => {
                // Splits lack tensors; others are of families that are still to come.
                let split = name.contains("-of-") && error.code == Code::CorruptModel;
                assert!(split || error.code == Code::UnsupportedModel, "{name}: {error}");
                continue;
            }
        };
        if engine.is_encoder() {
            // Those have tests of their own.
            continue;
        }
        let prompt: Vec<u32> = (0..100).map(|index| index * 7 % 256).collect();
        let settings = Settings { ignore_eos: true, ..random(1, 30) };
        let events = answer(&engine, &prompt, settings.clone());
        assert_eq!(tokens(&events).len(), 30, "{name}");
        assert_eq!(answer(&engine, &prompt, settings), events, "{name}");
        answered += 1;
    }
    assert!(answered > 20, "{answered}");
}

/// One of each architecture's peculiarities, and every weight type.
const TO_THE_BIT: [&str; 24] = [
    "llama",
    "gemma3",
    "phi3-swa",
    "gpt2",
    "quant-f16",
    "quant-bf16",
    "quant-q4_0",
    "quant-q4_1",
    "quant-q5_0",
    "quant-q5_1",
    "quant-q8_0",
    "quant-q2_k",
    "quant-q3_k",
    "quant-q4_k",
    "quant-q5_k",
    "quant-q6_k",
    "quant-mixed-q4_k_m",
    "quant-q1_0",
    "quant-q2_0",
    "quant-tq1_0",
    "quant-iq4_nl",
    "quant-iq4_xs",
    "quant-iq3_s",
    "quant-mxfp4",
];

#[test]
fn neither_steps_nor_threads_change_a_bit() {
    for model in TO_THE_BIT {
        let tokens: Vec<u32> = (0..100).map(|index| index * 7 % 256).collect();
        let rows = |threads, step| {
            let backend = Cpu::with_threads(NonZeroUsize::new(threads));
            all_logits(&mut decoder(&format!("{model}.gguf"), backend, 128), &tokens, step)
        };
        let whole = rows(1, 64);
        for (threads, step) in [(1, 1), (1, 7), (1, 33), (2, 64), (3, 33), (4, 1)] {
            assert!(rows(threads, step) == whole, "{model}, {threads} threads, steps of {step}");
        }
    }
    // Large enough that a single token is shared out.
    for kind in [TensorType::Q4_0, TensorType::Q8_0, TensorType::Q4_K, TensorType::Q6_K, TensorType::F16] {
        let alone = products(Cpu::new(), kind, 515, 1024);
        for threads in [2, 5] {
            let shared = products(Cpu::with_threads(NonZeroUsize::new(threads)), kind, 515, 1024);
            assert!(shared == alone, "{kind:?}, {threads} threads");
        }
    }
}

#[test]
fn too_many_threads() {
    let source = Rc::new(MemorySource::new("stories", contents(&stories())));
    let options = Options { threads: NonZeroUsize::new(65), ..Options::default() };
    let error = block_on(Engine::load(source, &options, &mut |_| Ok(()))).err().unwrap();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("65 threads"), "{}", error.message);
}

/// The products of a matrix of arbitrary numbers with one of its own rows.
fn products(mut backend: Cpu, kind: TensorType, rows: usize, columns: usize) -> Vec<f32> {
    // Bytes below 0x3C make scales below 1.
    let len = rows as u64 * columns as u64 / kind.block().0 * kind.block().1;
    let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 0x3C) as u8).collect();
    let mut program = Program::default();
    let (weight, scale) = (program.matrix(rows, columns, kind), program.vector(columns));
    let (x, out) = (program.buffer(1, columns), program.buffer(1, rows));
    program.push(Embed { table: weight, scale: 1.0, out: x });
    let norm = Some(Norm::rms(scale, 1e-5));
    program.push(Project { x, norm, outputs: vec![(Linear { weight, bias: None }, out)] });
    backend.prepare(&Rc::new(program)).unwrap();
    backend.write_rows(weight, 0, &bytes).unwrap();
    backend.write_vector(scale, &vec![1.0; columns]).unwrap();
    block_on(backend.loaded()).unwrap();
    backend.run(&Step::single([2], 0, 0)).unwrap();
    let mut products = Vec::new();
    block_on(backend.read(out, 0, 1, &mut products)).unwrap();
    products
}

/// Rows may have an odd number of blocks, though kernels like to take them in pairs.
#[test]
fn odd_numbers_of_blocks() {
    for kind in [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q5_0, TensorType::Q5_1, TensorType::Q8_0] {
        let (exact, rounded) = (products(Cpu::reference(), kind, 5, 96), products(Cpu::new(), kind, 5, 96));
        let largest = exact.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        for (exact, rounded) in exact.iter().zip(&rounded) {
            assert!((exact - rounded).abs() < 0.02 * largest, "{kind:?}: {exact} {rounded}");
        }
    }
}

#[test]
fn a_model_without_a_token_to_begin_with() {
    let edit = Edit::new(&contents(&path("models/qwen2.gguf"))).remove("tokenizer.ggml.bos_token_id");
    let engine = load(edit.bytes()).unwrap();
    match block_on(engine.generate(Prompt::Text(String::new()), greedy(1))) {
        Ok(generation) => assert_eq!(generation.prompt().len(), 1),
        Err(error) => assert_eq!(error.code, Code::InvalidArgument),
    }
}

/// So that whoever waits for it can give up.
#[test]
fn a_long_text_is_made_into_tokens_in_turns() {
    let engine = story_teller();
    let text = |len: usize| Prompt::Text("Once upon a time. ".repeat(len / 18));
    {
        let mut asking = pin!(engine.generate(text(4 << 20), greedy(1)));
        assert!(asking.as_mut().poll(&mut task::Context::from_waker(Waker::noop())).is_pending());
    }
    let ready = pin!(engine.generate(Prompt::Text("Once upon a time".into()), greedy(1)))
        .poll(&mut task::Context::from_waker(Waker::noop()));
    assert!(matches!(ready, Poll::Ready(Ok(_))));
    let error = block_on(engine.generate(text(9 << 20), greedy(1))).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("is too long"), "{error}");
}
