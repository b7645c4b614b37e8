//! Turns many small reads in a row into few large ones.

use super::Source;
use crate::Result;
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::future::poll_fn;
use std::task::Poll;

/// What a read fetches at least: over a network a request costs as much as some megabytes.
const WINDOW: u64 = 8 << 20;

/// A source that keeps the last piece it read. Tensors lie in a file mostly in the order in
/// which they are loaded.
pub struct ReadAhead<'a> {
    source: &'a dyn Source,
    window: RefCell<Window>,
}

#[derive(Default)]
struct Window {
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

impl<'a> ReadAhead<'a> {
    /// Reads `source`.
    pub fn new(source: &'a dyn Source) -> Self {
        ReadAhead { source, window: RefCell::default() }
    }
}

impl Source for ReadAhead<'_> {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn len(&self) -> u64 {
        self.source.len()
    }

    fn parts(&self) -> Vec<u64> {
        self.source.parts()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            if let Some(bytes) = self.window.borrow().get(offset, len) {
                return Ok(bytes.to_vec());
            }
            let available = self.len().saturating_sub(offset);
            // Lets whoever waits look at the progress, and stop.
            yield_now().await;
            if len as u64 >= WINDOW.min(available) {
                return self.source.read(offset, len).await;
            }
            // Not kept while the next one comes.
            self.window.take();
            let bytes = self.source.read(offset, WINDOW.min(available) as usize).await?;
            let wanted = bytes[..len].to_vec();
            self.window.replace(Window { offset, bytes });
            Ok(wanted)
        })
    }
}

/// Pending once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}
