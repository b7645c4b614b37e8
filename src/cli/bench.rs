//! `candlewick bench`: tokens per second.

use super::arguments::{BenchArguments, Common};
use super::output::stdout;
use super::{Outcome, load, load_with, options};
use crate::backend::KernelTime;
use crate::engine::{Engine, Options, Prompt, Settings, Timings};
use crate::sampling::Sampling;
use crate::{Error, Result};
use serde::Serialize;
use std::io::Write;

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

async fn measure(engine: &Engine, round: usize, prompt: usize, predict: usize) -> Result<Timings> {
    // Every round begins with another token, so that none finds its prompt in the KV cache.
    let vocabulary = engine.language().tokenizer.len();
    let tokens = (0..prompt).map(|index| ((round + index * 7919) % vocabulary) as u32).collect();
    let settings = Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: predict,
        ignore_eos: true,
        ..Settings::default()
    };
    let mut generation = engine.generate(Prompt::Tokens(tokens), settings).await?;
    while generation.next().await?.is_some() {}
    Ok(generation.timings())
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
