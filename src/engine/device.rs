//! Which device a model runs on, and why.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
#[cfg(feature = "gpu")]
use crate::backend::gpu::{Gpu, Options as GpuOptions};
use crate::{Error, Result};
use std::str::FromStr;

/// Which device to run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The GPU where there is a real one that takes the model, else the CPU.
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
    pub fn cpu(reason: impl Into<String>) -> Self {
        Opened { backend: Box::new(Cpu::new()), reason: reason.into() }
    }
}

#[cfg(feature = "gpu")]
pub(super) async fn open(device: Device) -> Result<Opened> {
    let options = GpuOptions::for_engine();
    match device {
        Device::Cpu => Ok(Opened::cpu("asked for")),
        Device::Gpu => {
            let advice = |error: Error| Error {
                message: format!("{}. Use the device \"cpu\"", error.message),
                ..error
            };
            let gpu = Gpu::open(options).await.map_err(advice)?;
            Ok(Opened { backend: Box::new(gpu), reason: "asked for".into() })
        }
        // A renderer in software runs our kernels slower than the CPU backend runs its own.
        Device::Auto => match Gpu::open(GpuOptions { hardware_only: true, ..options }).await {
            Ok(gpu) => {
                let reason = gpu.gpu().map_or_else(String::new, |gpu| gpu.adapter);
                Ok(Opened { backend: Box::new(gpu), reason })
            }
            Err(error) => Ok(Opened::cpu(error.message)),
        },
    }
}

#[cfg(not(feature = "gpu"))]
pub(super) async fn open(device: Device) -> Result<Opened> {
    match device {
        Device::Auto => Ok(Opened::cpu("this build has no GPU backend")),
        Device::Cpu => Ok(Opened::cpu("asked for")),
        Device::Gpu => {
            Err(Error::invalid_argument("this build has no GPU backend; use the device \"cpu\" or \"auto\""))
        }
    }
}
