//! A model comes back after its GPU was lost.

use super::model::{Loaded, Plan, Target, of_the_device};
use crate::progress::{Meter, Progress, Reporter, Stage};
use crate::{Code, Error, Result};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, poll_fn};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

/// Losses in one answer after which the GPU is given up.
const MOST_LOSSES: usize = 3;

/// A recovery under way. It goes on where it was when whoever waited for a step gave up.
pub(super) struct Recovery {
    model: Rc<Plan>,
    why: String,
    /// Of this request so far.
    pub losses: usize,
    work: LocalBoxFuture<'static, Result<Loaded>>,
    /// The newest report that nobody has seen.
    report: Rc<RefCell<Option<Progress>>>,
}

/// How far a recovery is.
pub(super) enum Step {
    Progress(Progress),
    Done(Box<Loaded>),
}

impl Recovery {
    /// Brings `model` back after loss number `losses`, by `error`.
    pub(super) fn begin(model: Rc<Plan>, error: &Error, losses: usize) -> Result<Recovery> {
        let target = match losses <= MOST_LOSSES {
            true => Target::GpuAgain,
            false if model.options.falls_back() => Target::Cpu,
            false => {
                let message =
                    format!("{} ({losses} times in one answer). Use the device \"cpu\"", error.message);
                return Err(Error::device_lost(message));
            }
        };
        let report = Rc::<RefCell<Option<Progress>>>::default();
        let work = bring_back(model.clone(), target, error.message.clone(), report.clone());
        Ok(Recovery { model, why: error.message.clone(), losses, work: Box::pin(work), report })
    }

    /// The last report.
    pub(super) fn ready(&self) -> Progress {
        let len = self.model.source.len();
        let report = Meter::new(self.model.source.name(), len).at(Stage::Ready, len);
        Progress { restarted: Some(self.why.clone()), ..report }
    }

    /// Goes on until there is something to say.
    pub(super) async fn step(&mut self) -> Result<Step> {
        loop {
            let poll = poll_fn(|context| {
                let done = self.work.poll_unpin(context);
                match (done, self.report.take()) {
                    (Poll::Ready(loaded), _) => {
                        Poll::Ready(loaded.map(|loaded| Step::Done(Box::new(loaded))))
                    }
                    (Poll::Pending, Some(report)) => Poll::Ready(Ok(Step::Progress(report))),
                    (Poll::Pending, None) => Poll::Pending,
                }
            });
            match poll.await {
                // The next one was lost too.
                Err(error) if error.code == Code::DeviceLost => {
                    *self = Recovery::begin(self.model.clone(), &error, self.losses + 1)?;
                }
                // There is no GPU to come back to.
                Err(error) if of_the_device(&error) => {
                    return Err(Error::device_lost(format!("{}; {}", self.why, error.message)));
                }
                step => return step,
            }
        }
    }
}

async fn bring_back(
    model: Rc<Plan>,
    target: Target,
    why: String,
    report: Rc<RefCell<Option<Progress>>>,
) -> Result<Loaded> {
    let description = model.describe().await?;
    let mut progress = |progress| {
        report.replace(Some(progress));
        Ok(())
    };
    let mut reporter = Reporter::new(model.source.name(), model.source.len(), Some(why), &mut progress);
    model.load(&description, target, &mut reporter).await
}
