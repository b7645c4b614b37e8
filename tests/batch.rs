//! Many answers at once: each is what it would be alone, whatever the others do and whenever they come and go.

use crate::fixtures::{contents, path, stories};
use candlewick::Code;
use candlewick::engine::{Context, Engine, Event, Generation, Options, Prompt, Settings};
use candlewick::sampling::Sampling;
use candlewick::store::MemorySource;
use futures_util::FutureExt;
use futures_util::future::join_all;
use pollster::block_on;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

fn load(bytes: &[u8], context: usize) -> Engine {
    let options =
        Options { device: crate::DEVICE, context: Some(Context::Exactly(context)), ..Options::default() };
    let source = Rc::new(MemorySource::new("model.gguf", bytes.to_vec()));
    block_on(Engine::load(source, &options, &mut |_| Ok(()))).unwrap()
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

fn on_cpu() -> bool {
    crate::DEVICE == candlewick::engine::Device::Cpu
}

fn settings(random: &mut Random) -> Settings {
    Settings {
        sampling: Sampling {
            // A draw tells the least difference, and those of a GPU's kernels are larger.
            temperature: [0.0, 0.8, 1.3][random.below(if on_cpu() { 3 } else { 1 })],
            top_k: [0, 40][random.below(2)],
            seed: Some(random.below(3) as u64),
            ..Sampling::default()
        },
        max_tokens: 1 + random.below(40),
        choices: [1, 1, 1, 3][random.below(4)],
        ignore_eos: random.below(2) == 0,
        ..Settings::default()
    }
}

/// What was asked for: a prompt and settings.
type Asked = (Vec<u32>, Settings);

/// The tokens of each answer.
fn tokens(events: &[Event], choices: usize) -> Vec<Vec<u32>> {
    let mut tokens = vec![Vec::new(); choices];
    for event in events {
        if let Event::Token { choice, token, .. } | Event::Finish { choice, token: Some(token), .. } = event {
            tokens[*choice].push(*token);
        }
    }
    tokens
}

/// An answer that has begun, and what there was of it.
struct Begun {
    generation: Generation,
    asked: Asked,
    events: Vec<Event>,
}

/// Answers by an engine of their own, remembered.
struct Alone {
    bytes: Vec<u8>,
    context: usize,
    /// For all of them, where it takes long to load one.
    engine: Option<Engine>,
    known: HashMap<String, Vec<Vec<u32>>>,
}

impl Alone {
    /// Holds both tokens to be equally good after `tokens`.
    fn is_tie(&self, tokens: &[u32], [a, b]: [u32; 2], what: &str) {
        let engine = self.engine.as_ref().unwrap();
        let mut last = Vec::new();
        block_on(engine.logits(tokens, &mut |_, row| last = row.to_vec())).unwrap();
        let difference = (last[a as usize] - last[b as usize]).abs();
        assert!(difference < 0.02, "{what}: {a} in the place of {b}, {difference} apart");
    }

    fn answers(&mut self, (prompt, settings): &Asked) -> Vec<Vec<u32>> {
        let key = format!("{prompt:?} {settings:?}");
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let engine = self.engine.clone().unwrap_or_else(|| load(&self.bytes, self.context));
        let mut answers = Vec::new();
        for choice in 0..settings.choices {
            let mut alone = settings.clone();
            alone.choices = 1;
            alone.sampling.seed = settings.sampling.seed.map(|seed| seed + choice as u64);
            let mut generation = block_on(engine.generate(Prompt::Tokens(prompt.clone()), alone)).unwrap();
            let mut events = Vec::new();
            while let Some(event) = block_on(generation.next()).unwrap() {
                events.push(event);
            }
            answers.extend(tokens(&events, 1));
        }
        self.known.insert(key, answers.clone());
        answers
    }
}

/// What comes of a future that waits for others now and then; it is given up where it waits too long.
fn polled<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    block_on(async {
        for _ in 0..20 {
            if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
                return Some(done);
            }
        }
        None
    })
}

/// Starts, readers that take turns or stop reading for a while, drops, prompts that are pinned, written out and read back;
/// checks every answer against the same alone, as far as it was read.
///
/// Gives the numbers of prompts that were written out, and read back.
fn schedule(engine: &Engine, alone: &mut Alone, seed: u64) -> [usize; 2] {
    let mut random = Random(seed * 2 + 1);
    let mut begun: Vec<Begun> = Vec::new();
    let base: Vec<u32> = (0..150).map(|index| 3 + (index * 7 + index / 50) % 200).collect();
    let mut states: Vec<Vec<u8>> = Vec::new();
    let (mut written, mut read) = (0, 0);
    for _ in 0..80 {
        match random.below(10) {
            0 if begun.len() < 8 => {
                // Prompts that begin alike, at page borders and beside them; some go on from where another answer is, or
                // was some tokens ago.
                let shared = [0, 1, 63, 64, 65, 100, 128, 140][random.below(8)];
                let mut prompt = base[..shared].to_vec();
                if !begun.is_empty() && random.below(3) == 0 {
                    let other = &begun[random.below(begun.len())];
                    prompt = other.asked.0.clone();
                    prompt.extend(tokens(&other.events, other.asked.1.choices)[0].iter());
                    prompt.truncate((prompt.len() - random.below(5).min(prompt.len())).min(200));
                }
                let more = 1 + random.below(20);
                let salt = random.below(2) as u32;
                prompt.extend((0..more as u32).map(|index| 3 + (index * 11 + salt) % 200));
                let asked = (prompt.clone(), settings(&mut random));
                let generation = block_on(engine.generate(Prompt::Tokens(prompt), asked.1.clone())).unwrap();
                begun.push(Begun { generation, asked, events: Vec::new() });
            }
            1 if !begun.is_empty() && random.below(4) == 0 => {
                let index = random.below(begun.len());
                check(begun.swap_remove(index), alone, false);
            }
            2 => {
                let prompt = Prompt::Tokens(base[..1 + random.below(150)].to_vec());
                match (random.below(3), states.len()) {
                    (0, _) => {
                        let name = ["a", "b"][random.below(2)];
                        polled(engine.pin(name, prompt, &mut |_| ())).transpose().unwrap();
                    }
                    (1, _) => _ = block_on(engine.unpin("a")).unwrap(),
                    (_, 0..2) => {
                        let saved = polled(engine.save(prompt, &mut |_| ()));
                        states.extend(saved.and_then(Result::ok));
                        written = written.max(states.len());
                    }
                    _ => {
                        let state = states.swap_remove(random.below(states.len()));
                        let restored = polled(engine.restore(&state)).transpose().unwrap();
                        read += usize::from(restored.is_some_and(|restored| restored.tokens > 0));
                    }
                }
            }
            _ if !begun.is_empty() => {
                let index = random.below(begun.len());
                // Who waits for room gives up waiting, and comes again.
                let event = begun[index].generation.next().now_or_never();
                match event {
                    Some(Ok(Some(event))) => begun[index].events.push(event),
                    Some(Ok(None)) => check(begun.swap_remove(index), alone, true),
                    Some(Err(error)) => panic!("seed {seed}: {error}"),
                    None => {}
                }
            }
            _ => {}
        }
    }
    // Together: who waits for room waits for the others' readers.
    let rest = begun.into_iter().map(|mut last| async {
        while let Some(event) = last.generation.next().await.unwrap() {
            last.events.push(event);
        }
        last
    });
    for last in block_on(join_all(rest)) {
        check(last, alone, true);
    }
    // No page is lost: one answer can have them all.
    let all = Settings { max_tokens: alone.context, ..Settings::default() };
    let mut whole = block_on(engine.generate(Prompt::Tokens(vec![1]), all)).unwrap();
    let begins = (0..3).any(|_| whole.next().now_or_never().is_some());
    assert!(begins, "seed {seed}: pages are missing");
    [written, read]
}

fn check(Begun { events, asked, .. }: Begun, alone: &mut Alone, whole: bool) {
    let found = tokens(&events, asked.1.choices);
    for (choice, (found, expected)) in found.iter().zip(alone.answers(&asked)).enumerate() {
        let (prompt, settings) = &asked;
        let what = format!("answer {choice} to {} tokens, {settings:?}", prompt.len());
        let expected = if whole { &expected[..] } else { &expected[..found.len()] };
        let apart = found.iter().zip(expected).position(|(a, b)| a != b);
        match apart.filter(|_| !on_cpu()) {
            // A GPU's kernels round differently for different numbers of rows: what is as good as equal may change.
            Some(at) => alone.is_tie(&[prompt, &expected[..at]].concat(), [found[at], expected[at]], &what),
            None => assert_eq!(found, expected, "{what}"),
        }
    }
}

#[test]
fn whatever_happens_beside_it_an_answer_is_what_it_would_be_alone() {
    // Attention, windows, quantized weights; then recurrent layers, whose states cannot be rewound.
    let models = [
        (stories(), 100),
        (path("models/gemma3.gguf"), 100),
        (path("models/quant-q4_k.gguf"), 100),
        (path("models/lfm2.gguf"), 60),
        (path("models/qwen35.gguf"), 60),
        (path("models/granitehybrid.gguf"), 30),
        // No attention at all.
        (path("models/mamba2.gguf"), 30),
        // Experts.
        (path("models/qwen3moe.gguf"), 30),
    ];
    for (model, seeds) in models {
        let seeds = if on_cpu() { seeds } else { 3 };
        let bytes = contents(&model);
        let context = 320;
        let engine = load(&bytes, context);
        let engine_alone = (!on_cpu()).then(|| load(&bytes, context));
        let mut alone = Alone { bytes, context, engine: engine_alone, known: HashMap::new() };
        let counts = (0..seeds).map(|seed| schedule(&engine, &mut alone, seed));
        let counts = counts.reduce(|a, b| [a[0] + b[0], a[1] + b[1]]).unwrap();
        assert!(!on_cpu() || counts.iter().all(|count| *count >= seeds as usize / 8), "{counts:?}");
    }
}

/// Prompts come in pieces between the tokens of answers that go on.
#[test]
fn a_long_prompt_does_not_hold_up_an_answer() {
    let engine = load(&contents(&stories()), 512);
    let start = |prompt: Vec<u32>, max_tokens| {
        let settings = Settings { max_tokens, ignore_eos: true, ..Settings::default() };
        block_on(engine.generate(Prompt::Tokens(prompt), settings)).unwrap()
    };
    let mut going = start(vec![1], 60);
    block_on(going.next()).unwrap();
    block_on(going.next()).unwrap();
    let mut joining = start((0..300).map(|index| 3 + index % 200).collect(), 5);
    let (mut answered, mut pieces) = (0, 0);
    loop {
        match block_on(joining.next()).unwrap().unwrap() {
            Event::Prompt { processed, total } => {
                pieces += 1;
                if processed == total {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
        // What is there without another step.
        if matches!(going.next().now_or_never(), Some(Ok(Some(Event::Token { .. })))) {
            answered += 1;
        }
    }
    assert!(pieces > 300 / crate::STEP, "{pieces}");
    assert!(answered >= pieces - 2, "{answered} tokens beside {pieces} pieces");
}

/// An error is its own answer's; a reader that is gone makes room.
#[test]
fn one_answer_fails_alone() {
    let engine = load(&contents(&stories()), 256);
    let settings = Settings { max_tokens: 20, ..Settings::default() };
    let mut good = block_on(engine.generate(Prompt::Tokens(vec![1]), settings.clone())).unwrap();
    let error =
        block_on(engine.generate(Prompt::Tokens(vec![1; 256]), settings.clone())).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::ContextLengthExceeded);
    let mut count = 0;
    while let Some(event) = block_on(good.next()).unwrap() {
        count += usize::from(matches!(event, Event::Token { .. } | Event::Finish { .. }));
    }
    assert!(count > 1);
}
