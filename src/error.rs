//! The one error type. Every face (command line, JavaScript, HTTP) shows its `code` and message.

use std::fmt;

/// What kind of thing went wrong. The names returned by [`Code::as_str`] are a stable contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A parameter is out of range, or a request makes no sense.
    InvalidArgument,
    /// No such file, repository or model.
    ModelNotFound,
    /// The file is sound but asks for something candlewick cannot run.
    UnsupportedModel,
    /// The file breaks its own format.
    CorruptModel,
    /// Not enough memory, or a device limit.
    ResourceExhausted,
    /// Prompt (and answer) do not fit the context.
    ContextLengthExceeded,
    /// The storage quota does not suffice.
    QuotaExceeded,
    /// The connection failed.
    Network,
    /// A token is missing or not accepted.
    Unauthorized,
    /// The server asks to slow down.
    RateLimited,
    /// A hosted provider failed.
    ProviderError,
    /// The GPU went away and did not come back.
    DeviceLost,
    /// The caller gave up.
    Aborted,
    /// A bug in candlewick.
    Internal,
}

impl Code {
    /// The stable name, as in `corrupt_model`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::ModelNotFound => "model_not_found",
            Code::UnsupportedModel => "unsupported_model",
            Code::CorruptModel => "corrupt_model",
            Code::ResourceExhausted => "resource_exhausted",
            Code::ContextLengthExceeded => "context_length_exceeded",
            Code::QuotaExceeded => "quota_exceeded",
            Code::Network => "network",
            Code::Unauthorized => "unauthorized",
            Code::RateLimited => "rate_limited",
            Code::ProviderError => "provider_error",
            Code::DeviceLost => "device_lost",
            Code::Aborted => "aborted",
            Code::Internal => "internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened, to what, and what to do about it. The message never holds a token or a signed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The kind of failure.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident $code:ident),* $(,)?) => {
        impl Error {
            $(
                #[doc = concat!("An error with [`Code::", stringify!($code), "`].")]
                pub fn $name(message: impl fmt::Display) -> Self {
                    Error { code: Code::$code, message: message.to_string() }
                }
            )*
        }
    };
}
constructors! {
    invalid_argument InvalidArgument,
    model_not_found ModelNotFound,
    unsupported_model UnsupportedModel,
    corrupt_model CorruptModel,
    resource_exhausted ResourceExhausted,
    context_length_exceeded ContextLengthExceeded,
    quota_exceeded QuotaExceeded,
    network Network,
    unauthorized Unauthorized,
    rate_limited RateLimited,
    provider_error ProviderError,
    device_lost DeviceLost,
    aborted Aborted,
    internal Internal,
}

impl Error {
    /// The same error with `context` in front of its message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::internal(error)
    }
}
