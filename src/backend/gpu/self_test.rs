//! Before a model is loaded: the pipelines that it needs are made, and every kernel is compared with the CPU.
//!
//! Drivers miscompile shaders. What is wrong on the user's own device is replaced by the next safer variant;
//! where the safest is wrong too, the device is refused. The result is kept, by the names and versions of
//! all that it depends on.

use super::{Gpu, memo};
use crate::backend::Program;
use crate::backend::cpu::Cpu;
use crate::backend::trial::{self, Outcome, TOKENS, Trial};
use crate::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hash, Hasher};
use web_time::Instant;

/// Hears how many pipelines of how many are made; gives an error to stop.
pub(super) type Progress<'a> = dyn FnMut(usize, usize) -> Result<()> + 'a;

/// A fast way of doing that has a safer one beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "GPUFeature"))]
pub enum Variant {
    /// Sums over subgroups; else over shared memory.
    Subgroups,
    /// Keys and values as f16; else f32.
    F16,
    /// Halves decoded by the device's instructions; else by integers.
    Half,
    /// Products of integers; else of floats.
    Dp4a,
}

impl Variant {
    /// Tried in this order when a kernel is wrong: what costs least to go without comes first.
    pub const ALL: [Variant; 4] = [Variant::Half, Variant::Dp4a, Variant::Subgroups, Variant::F16];

    /// As in `disable`.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Subgroups => "subgroups",
            Variant::F16 => "f16",
            Variant::Half => "half",
            Variant::Dp4a => "dp4a",
        }
    }
}

/// What the self-test found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(optional_fields))]
pub struct SelfTest {
    /// The result is that of an earlier test.
    #[serde(default)]
    pub cached: bool,
    /// Variants that gave wrong numbers and are not used.
    #[cfg_attr(test, ts(inline))]
    pub off: Vec<SwitchedOff>,
    /// Why the device cannot be used at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Milliseconds that pipelines and test took.
    #[serde(default)]
    pub milliseconds: f64,
}

/// A variant that is not used, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct SwitchedOff {
    /// Which.
    pub variant: Variant,
    /// What it did.
    pub reason: String,
}

/// What is tried, and what the CPU makes of it.
struct Case<'a> {
    trial: &'a Trial,
    tokens: usize,
    expected: Outcome,
}

/// A case that the GPU fails.
#[derive(Clone)]
struct Wrong {
    case: usize,
    reason: String,
}

impl Gpu {
    /// Makes the pipelines that a model needs and tests them, unless that was done before. Says at once where the
    /// model is too large. The device comes back empty.
    pub async fn tested(mut self, program: &Program, progress: &mut Progress<'_>) -> Result<Gpu> {
        let start = Instant::now();
        self.check_needs(program)?;
        self.memory.expect(0);
        self.choose_products().await?;
        let trials = trial::trials(program);
        let key = self.key(&trials);
        let store = self.options.cache.clone();
        let known: Option<SelfTest> =
            memo::get(store.as_deref(), &key).await.and_then(|text| serde_json::from_str(&text).ok());
        let mut result = match known {
            Some(known) => {
                known.off.iter().for_each(|off| self.switch(off.variant, false));
                if known.failure.is_none() {
                    // A step of a few tokens is rare: its kernels are made when it comes.
                    self.compile(&steps(&trials, &[TOKENS[0], TOKENS[2]]), progress).await?;
                }
                SelfTest { cached: true, ..known }
            }
            None => {
                self.compile(&steps(&trials, &TOKENS), progress).await?;
                let result = self.test(&trials).await?;
                if let Ok(text) = serde_json::to_string(&result) {
                    memo::put(store.as_deref(), &key, &text).await;
                }
                result
            }
        };
        if let Some(failure) = &result.failure {
            return Err(Error::resource_exhausted(format!(
                "the GPU ({}) failed the self-test: {failure}",
                self.device.info.name
            )));
        }
        result.milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let mut gpu = self.emptied()?;
        gpu.self_test = Some(result);
        Ok(gpu)
    }

    /// All that the result depends on.
    fn key(&self, trials: &[Trial]) -> String {
        let info = &self.device.info;
        let mut hasher = DefaultHasher::new();
        format!("{trials:?}").hash(&mut hasher);
        self.recorder.pipelines.hash_sources(&mut hasher);
        format!(
            "{} {} {:x} {:x} {} {} {} {} {:?} {:?} {:x}",
            env!("CARGO_PKG_VERSION"),
            info.name,
            info.vendor,
            info.device,
            info.backend,
            info.driver,
            info.driver_info,
            memo::host(),
            self.device.limits,
            Variant::ALL.map(|variant| self.has(variant)),
            hasher.finish()
        )
    }

    /// Measures which products are faster; a driver that refuses one of them says so here.
    async fn choose_products(&mut self) -> Result<()> {
        if self.dp4a.is_some() {
            return Ok(());
        }
        self.recorder.collect();
        let asked = self.measure_variants().await;
        let kernels = self.recorder.collected();
        asked?;
        self.recorder.pipelines.make(&self.device, kernels, &mut |_, _| Ok(())).await?;
        self.dp4a = None;
        match self.measure_variants().await {
            Err(error) if error.code == Code::Internal => self.dp4a = Some(false),
            measured => measured?,
        }
        Ok(())
    }

    async fn compile(&mut self, steps: &[(&Trial, usize)], progress: &mut Progress<'_>) -> Result<()> {
        self.recorder.collect();
        for (trial, tokens) in steps {
            trial.ask(self, *tokens).await?;
            self.empty()?;
        }
        let kernels = self.recorder.collected();
        self.recorder.pipelines.make(&self.device, kernels, progress).await
    }

    async fn test(&mut self, trials: &[Trial]) -> Result<SelfTest> {
        let mut cases = Vec::new();
        for (trial, tokens) in steps(trials, &TOKENS) {
            let expected = trial.run(&mut Cpu::reference(), tokens).await?;
            cases.push(Case { trial, tokens, expected });
        }
        let every: Vec<usize> = (0..cases.len()).collect();
        let mut wrong = self.wrong(&cases, &every).await?;
        let mut off = Vec::new();
        while let Some(first) = wrong.first().cloned() {
            let on: Vec<Variant> = Variant::ALL.into_iter().filter(|variant| self.has(*variant)).collect();
            // One alone, or all of them.
            let choices = on.iter().map(|variant| vec![*variant]).chain([on.clone()]);
            let mut found = None;
            for choice in choices.filter(|choice| !choice.is_empty()) {
                choice.iter().for_each(|variant| self.switch(*variant, false));
                let failing: Vec<usize> = wrong.iter().map(|wrong| wrong.case).collect();
                let rest = self.wrong(&cases, &failing).await?;
                if rest.len() < wrong.len() {
                    found = Some((choice, rest));
                    break;
                }
                choice.iter().for_each(|variant| self.switch(*variant, true));
            }
            let Some((variants, rest)) = found else {
                // A lost device is not a wrong one.
                self.wait_idle().await?;
                return Ok(SelfTest { off, failure: Some(first.reason), ..SelfTest::default() });
            };
            off.extend(
                variants.into_iter().map(|variant| SwitchedOff { variant, reason: first.reason.clone() }),
            );
            wrong = rest;
        }
        Ok(SelfTest { off, ..SelfTest::default() })
    }

    /// Which of these cases fail.
    async fn wrong(&mut self, cases: &[Case<'_>], indices: &[usize]) -> Result<Vec<Wrong>> {
        let steps: Vec<_> = indices.iter().map(|&index| (cases[index].trial, cases[index].tokens)).collect();
        self.compile(&steps, &mut |_, _| Ok(())).await?;
        let mut wrong = Vec::new();
        for &index in indices {
            let Case { trial, tokens, expected } = &cases[index];
            let found = trial.run(self, *tokens).await;
            self.empty()?;
            let reason = match found {
                Ok(found) => trial::difference(expected, &found),
                Err(error) if error.code == Code::Internal => Some(error.message),
                Err(error) => return Err(error),
            };
            wrong.extend(reason.map(|reason| Wrong {
                case: index,
                reason: format!("{} of {tokens} tokens gave {reason}", trial.describe()),
            }));
        }
        Ok(wrong)
    }

    fn has(&self, variant: Variant) -> bool {
        match variant {
            Variant::Subgroups => self.device.subgroups.is_some(),
            Variant::F16 => !self.options.kv_f32,
            Variant::Half => !self.exact_half,
            Variant::Dp4a => self.dp4a == Some(true),
        }
    }

    fn switch(&mut self, variant: Variant, on: bool) {
        match variant {
            Variant::Subgroups => self.device.switch_subgroups(on),
            Variant::F16 => self.options.kv_f32 = !on,
            Variant::Half => self.exact_half = !on,
            Variant::Dp4a => self.dp4a = Some(on),
        }
    }
}

/// Each in steps of so many tokens.
fn steps<'a>(trials: &'a [Trial], tokens: &[usize]) -> Vec<(&'a Trial, usize)> {
    trials.iter().flat_map(|trial| tokens.iter().map(move |&count| (trial, count))).collect()
}
