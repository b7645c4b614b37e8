//! `candlewick bench`: tokens per second.

use super::arguments::{BenchArguments, Common};
use super::output::stdout;
use super::{Outcome, load, load_with, options};
use crate::backend::KernelTime;
use crate::engine::{Engine, Event, Generation, Options, Prompt, Settings, Timings};
use crate::sampling::Sampling;
use crate::{Error, Result};
use event_listener::Event as Notice;
use futures_util::future::{try_join, try_join_all};
use serde::Serialize;
use std::cell::RefCell;
use std::io::Write;
use web_time::Instant;

/// Of several rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Spread { median, min: values[0], max: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:.1} tokens/s ({:.1} to {:.1})", self.median, self.min, self.max)
    }
}

pub(super) async fn bench(arguments: &BenchArguments, common: &Common) -> Outcome {
    if arguments.profile {
        return profile(arguments, common).await;
    }
    if !arguments.together.is_empty() {
        return together(arguments, common).await;
    }
    let engine = load(&arguments.model, common).await?;
    let (prompt, predict) = (arguments.prompt.get(), arguments.predict.get());
    let mut rounds = Vec::new();
    for round in 0..=arguments.rounds.get() {
        let timings = measure(&engine, round, prompt, predict).await?;
        // The first one warms caches and threads up.
        if round > 0 {
            rounds.push(timings);
        }
    }
    let prompt_per_second = Spread::of(rounds.iter().map(|t| t.prompt_per_second).collect());
    let predicted_per_second = Spread::of(rounds.iter().map(|t| t.predicted_per_second).collect());
    let mut stdout = stdout();
    if arguments.json {
        let result = serde_json::json!({
            "device": engine.info().device,
            "prompt_per_second": prompt_per_second,
            "predicted_per_second": predicted_per_second,
        });
        writeln!(stdout, "{result}")?;
    } else {
        let threads = engine.info().threads.map_or_else(String::new, |count| format!(", {count} threads"));
        writeln!(stdout, "device  {}{threads}", engine.info().device)?;
        writeln!(stdout, "prompt  {prompt_per_second}, {prompt} tokens")?;
        writeln!(stdout, "answer  {predicted_per_second}, {predict} tokens")?;
    }
    Ok(())
}

/// Several answers at once.
#[derive(Serialize)]
struct Together {
    answers: usize,
    /// Tokens of all of them, from when all have begun until one ends.
    predicted_per_second: Spread,
    /// The longest time between two tokens of one of them.
    longest_wait_ms: Spread,
}

async fn together(arguments: &BenchArguments, common: &Common) -> Outcome {
    let engine = load(&arguments.model, common).await?;
    let (prompt, predict) = (arguments.prompt.get(), arguments.predict.get());
    let mut results = Vec::new();
    let mut stdout = stdout();
    for answers in arguments.together.iter().map(|count| count.get()) {
        let needed = answers * (prompt + predict) + arguments.joining;
        if needed > engine.info().context_length {
            let message =
                format!("{answers} answers take {needed} tokens: give --ctx, with at least as many");
            return Err(Error::invalid_argument(message).into());
        }
        let (mut speeds, mut waits) = (Vec::new(), Vec::new());
        for round in 0..=arguments.rounds.get() {
            let (speed, wait) = measure_together(&engine, round, answers, arguments).await?;
            if round > 0 {
                speeds.push(speed);
                waits.push(1e3 * wait);
            }
        }
        let result = Together {
            answers,
            predicted_per_second: Spread::of(speeds),
            longest_wait_ms: Spread::of(waits),
        };
        if !arguments.json {
            let (speed, wait) = (result.predicted_per_second, result.longest_wait_ms);
            writeln!(stdout, "{answers:>3} answers  {speed}, longest wait {:.1} ms", wait.median)?;
        }
        results.push(result);
    }
    if arguments.json {
        let results = serde_json::json!({ "device": engine.info().device, "together": results });
        writeln!(stdout, "{results}")?;
    }
    Ok(())
}

/// Tokens per second, and seconds of the longest wait.
async fn measure_together(
    engine: &Engine,
    round: usize,
    answers: usize,
    arguments: &BenchArguments,
) -> Result<(f64, f64)> {
    let predict = arguments.predict.get();
    // When each token of each answer came.
    let times = RefCell::new(vec![Vec::new(); answers]);
    let half_way = Notice::new();
    let one = |index: usize| {
        let (times, half_way) = (&times, &half_way);
        async move {
            let mut generation =
                begin(engine, answers * round + index, arguments.prompt.get(), predict).await?;
            while let Some(event) = generation.next().await? {
                if matches!(event, Event::Token { .. } | Event::Finish { .. }) {
                    let mut times = times.borrow_mut();
                    times[index].push(Instant::now());
                    if index == 0 && times[0].len() == predict / 2 {
                        half_way.notify(1);
                    }
                }
            }
            Ok::<_, Error>(())
        }
    };
    let joining = async {
        let half_way = half_way.listen();
        if arguments.joining > 0 {
            half_way.await;
            let mut joining = begin(engine, answers * (round + 1) + 1, arguments.joining, 1).await?;
            while joining.next().await?.is_some() {}
        }
        Ok(())
    };
    try_join(try_join_all((0..answers).map(one)), joining).await?;
    let times = times.into_inner();
    let all = || times.iter().flatten();
    let begin = times.iter().filter_map(|times| times.first()).max();
    let end = times.iter().filter_map(|times| times.last()).min();
    let (Some(begin), Some(end)) = (begin, end) else { return Err(Error::internal("no tokens came")) };
    let count = all().filter(|time| (begin..=end).contains(time)).count();
    let seconds = end.duration_since(*begin).as_secs_f64().max(1e-9);
    // From when all have begun: before, prompts are in the way.
    let waits = times.iter().flat_map(|times| times.windows(2).filter(|pair| pair[0] >= *begin));
    let longest = waits.map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).fold(0.0, f64::max);
    Ok((count.saturating_sub(answers) as f64 / seconds, longest))
}

async fn measure(engine: &Engine, round: usize, prompt: usize, predict: usize) -> Result<Timings> {
    let mut generation = begin(engine, round, prompt, predict).await?;
    while generation.next().await?.is_some() {}
    Ok(generation.timings())
}

/// An answer to a prompt that begins with a token of its own, so that it is not found in the KV cache.
async fn begin(engine: &Engine, first: usize, prompt: usize, predict: usize) -> Result<Generation> {
    let vocabulary = engine.language().tokenizer.len();
    let tokens = (0..prompt).map(|index| ((first + index * 7919) % vocabulary) as u32).collect();
    let settings = Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: predict,
        ignore_eos: true,
        ..Settings::default()
    };
    engine.generate(Prompt::Tokens(tokens), settings).await
}

/// What one kernel costs, as it is printed.
#[derive(Serialize)]
struct Cost {
    kernel: String,
    calls: u64,
    microseconds_a_call: f64,
    /// Of the time in all kernels, 0 to 1.
    share: f64,
}

/// Time in each kernel: of a prompt, and of the tokens of an answer.
async fn profile(arguments: &BenchArguments, common: &Common) -> Outcome {
    let options = Options { profile: true, ..options(common)? };
    let engine = load_with(&arguments.model, common, options).await?;
    let (prompt, predict) = (arguments.prompt.get(), arguments.predict.get());
    // Makes the pipelines.
    measure(&engine, 0, prompt, 2).await?;
    engine.kernel_times().await?;
    let mut results = serde_json::Map::new();
    let mut stdout = stdout();
    for (title, prompt, predict) in [("prompt", prompt, 1), ("answer", 1, predict)] {
        measure(&engine, 1, prompt, predict).await?;
        let times = engine.kernel_times().await?;
        let total = times.iter().map(|time| time.nanoseconds).sum::<u64>() as f64;
        let cost = |time: KernelTime| Cost {
            kernel: time.kernel,
            calls: time.calls,
            microseconds_a_call: time.nanoseconds as f64 / time.calls as f64 / 1e3,
            share: time.nanoseconds as f64 / total,
        };
        let costs: Vec<Cost> = times.into_iter().map(cost).collect();
        if costs.is_empty() {
            return Err(Error::invalid_argument(format!(
                "the device ({}) cannot measure its kernels; the CPU can (--device cpu), and a GPU with timestamps",
                engine.info().device
            ))
            .into());
        }
        if !arguments.json {
            let calls: u64 = costs.iter().map(|cost| cost.calls).sum();
            let milliseconds = total / 1e6;
            writeln!(stdout, "{title}: {calls} calls, {milliseconds:.3} ms in kernels")?;
            writeln!(stdout, "{:>10} {:>8} {:>7}  kernel", "µs a call", "calls", "share")?;
            for Cost { kernel, calls, microseconds_a_call, share } in &costs {
                writeln!(stdout, "{microseconds_a_call:>10.2} {calls:>8} {:>6.1}%  {kernel}", 100.0 * share)?;
            }
        }
        results.insert(title.to_owned(), serde_json::to_value(&costs).map_err(Error::internal)?);
    }
    if arguments.json {
        results.insert("device".to_owned(), engine.info().device.into());
        writeln!(stdout, "{}", serde_json::Value::Object(results))?;
    }
    Ok(())
}
