//! Which device a model runs on, and why.

use super::Options;
#[cfg(feature = "gpu")]
use crate::backend::cpu::Cpu;
#[cfg(feature = "gpu")]
use crate::backend::gpu::{Gpu, Options as GpuOptions};
#[cfg(feature = "gpu")]
use crate::backend::seconds_a_token;
use crate::backend::{Backend, Program};
use crate::{Error, Result};
use std::str::FromStr;

/// Which device to run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The GPU, where there is one that computes rightly and faster than the CPU does; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU, or an error.
    Gpu,
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "gpu" => Ok(Device::Gpu),
            _ => Err(Error::invalid_argument(format!("device is \"{name}\"; it must be auto, gpu or cpu"))),
        }
    }
}

/// Why encoders run on the CPU, unless the GPU was asked for.
pub(super) fn of_encoders(asked: Device) -> Result<&'static str> {
    match asked {
        Device::Auto => Ok("encoders run on the CPU"),
        Device::Cpu => Ok("asked for"),
        Device::Gpu => Err(Error::unsupported_model(
            "this model is an encoder, and these run on the CPU only. Use the device \"auto\" or \"cpu\"",
        )),
    }
}

/// Where a model goes.
pub(super) enum Choice<T> {
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "a choice there is only with a GPU"))]
    Gpu(T),
    /// And why.
    Cpu(String),
}

/// A GPU that is ready for a model, and why it is taken; unless the options leave the choice and the CPU is
/// faster. `again`: it was chosen before, and only has to come back.
#[cfg(feature = "gpu")]
pub(super) async fn open(
    options: &Options,
    program: &Program,
    again: bool,
    compiled: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Choice<(Box<dyn Backend>, String)>> {
    let auto = options.device == Device::Auto;
    let gpu_options = options.gpu.clone().with_env();
    let faster = gpu_options.faster;
    let gpu_options = GpuOptions {
        hardware_only: auto && !gpu_options.software,
        profile: gpu_options.profile || options.profile,
        ..gpu_options
    };
    let gpu = Gpu::open(gpu_options).await?.tested(program, compiled).await?;
    let adapter = gpu.gpu().map_or_else(String::new, |gpu| gpu.adapter);
    let (gpu, reason) = match (auto, again) {
        (false, false) => (gpu, "asked for".to_owned()),
        (_, true) => (gpu, format!("the GPU ({adapter}) was lost and came back")),
        (true, false) => {
            let mut gpu = gpu;
            let on_gpu = seconds_a_token(&mut gpu, program).await?;
            let mut cpu = Cpu::with_threads(options.threads);
            cpu.loaded().await?;
            let on_cpu = seconds_a_token(&mut cpu, program).await?;
            let [gpu_ms, cpu_ms] = [on_gpu, on_cpu].map(|seconds| seconds * 1e3);
            let reason =
                format!("about {gpu_ms:.2} ms a token on the GPU ({adapter}), {cpu_ms:.2} ms on the CPU");
            if !faster.unwrap_or(on_gpu < on_cpu) {
                return Ok(Choice::Cpu(reason));
            }
            (gpu.emptied()?, reason)
        }
    };
    Ok(Choice::Gpu((Box::new(gpu), reason)))
}

#[cfg(not(feature = "gpu"))]
pub(super) async fn open(
    options: &Options,
    _: &Program,
    _: bool,
    _: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Choice<(Box<dyn Backend>, String)>> {
    match options.device {
        Device::Gpu => {
            Err(Error::invalid_argument("this build has no GPU backend; use the device \"cpu\" or \"auto\""))
        }
        Device::Auto | Device::Cpu => Ok(Choice::Cpu("this build has no GPU backend".to_owned())),
    }
}

/// The GPU as it is, to be measured and asked for its limits: one that `options` would take.
#[cfg(feature = "gpu")]
pub(super) async fn bare_gpu(options: &Options) -> Result<Box<dyn Backend>> {
    let gpu = options.gpu.clone().with_env();
    let hardware_only = options.device == Device::Auto && !gpu.software;
    Ok(Box::new(Gpu::open(GpuOptions { hardware_only, ..gpu }).await?))
}

#[cfg(not(feature = "gpu"))]
pub(super) async fn bare_gpu(_: &Options) -> Result<Box<dyn Backend>> {
    Err(Error::invalid_argument("this build has no GPU backend; use the device \"cpu\""))
}
