//! Which device a model runs on, and why.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
#[cfg(feature = "gpu")]
use crate::backend::gpu::{Gpu, Options as GpuOptions};
use crate::{Error, Result};
use std::num::NonZeroUsize;
use std::str::FromStr;

/// Which device to run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU for now; says whether there is a GPU that could be asked for.
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

/// An open device.
pub(super) struct Opened {
    pub backend: Box<dyn Backend>,
    /// Why this one.
    pub reason: String,
}

impl Opened {
    pub fn cpu(threads: Option<NonZeroUsize>, reason: impl Into<String>) -> Self {
        Opened { backend: Box::new(Cpu::with_threads(threads)), reason: reason.into() }
    }
}

#[cfg(feature = "gpu")]
pub(super) async fn open(device: Device, threads: Option<NonZeroUsize>) -> Result<Opened> {
    let options = GpuOptions::for_engine();
    match device {
        Device::Cpu => Ok(Opened::cpu(threads, "asked for")),
        Device::Gpu => {
            let advice = |error: Error| Error {
                message: format!("{}. Use the device \"cpu\"", error.message),
                ..error
            };
            let gpu = Gpu::open(options).await.map_err(advice)?;
            Ok(Opened { backend: Box::new(gpu), reason: "asked for".into() })
        }
        // A kernel that a driver miscompiles gives gibberish, and nothing here would notice yet: until
        // kernels are tested on the user's own device at first use, the GPU has to be asked for.
        Device::Auto => match Gpu::open(GpuOptions { hardware_only: true, ..options }).await {
            Ok(gpu) => {
                let adapter = gpu.gpu().map_or_else(String::new, |gpu| gpu.adapter);
                Ok(Opened::cpu(
                    threads,
                    format!("the GPU ({adapter}) is used when the device \"gpu\" is asked for"),
                ))
            }
            Err(error) => Ok(Opened::cpu(threads, error.message)),
        },
    }
}

#[cfg(not(feature = "gpu"))]
pub(super) async fn open(device: Device, threads: Option<NonZeroUsize>) -> Result<Opened> {
    match device {
        Device::Auto => Ok(Opened::cpu(threads, "this build has no GPU backend")),
        Device::Cpu => Ok(Opened::cpu(threads, "asked for")),
        Device::Gpu => {
            Err(Error::invalid_argument("this build has no GPU backend; use the device \"cpu\" or \"auto\""))
        }
    }
}
